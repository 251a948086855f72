"""`Maintenance`: begins what is due on each backend, by one task for all of them."""

from __future__ import annotations

import math
from typing import Final, Generic, TypeVar, final

import attrs
import trio

from .._slots.slot_set import SlotSet
from .._slots.timer_queue import TimerQueue
from .checker import Checker
from .dialer import Dialer
from .warm_up import WarmUp

C = TypeVar("C")

#: The number of backends served before all other tasks have their turn. What begins on one,
#: such as a dial, takes some 100 µs in all.
BATCH_SIZE: Final = 10

#: With more timers than this, those that end within `RESOLUTION` seconds are served together.
#: Some hundred a second, each at its own time, would keep Trio's loop busy.
MANY: Final = 500
RESOLUTION: Final = 0.025


@final
@attrs.define(eq=False, repr=False)
class Maintenance(Generic[C]):
    """The work that is due on the slot sets of one pool: dials after a back-off, checks, warm-ups.

    Many slot sets fail together, so that their back-offs end together too. What they do then
    is done in batches.
    """

    _timers: TimerQueue
    _dialer: Dialer[C]
    _checker: Checker[C]
    _warm_up: WarmUp
    #: True as soon as the pool is ending.
    _is_closed: bool = attrs.field(init=False, default=False)

    def begin_dials(self, slot_set: SlotSet[C]) -> None:
        """Begin dials that have just been ordered, at once or after the back-off."""
        self._start_dials(slot_set, trio.current_time())

    def _start_dials(self, slot_set: SlotSet[C], now: float) -> None:
        for slot in slot_set.take_orders(now):
            slot_set.start_io(self._dialer.dial, slot)

    def begin_due(self, slot_set: SlotSet[C], now: float) -> None:
        """Begin what is due by `now`, and schedule what is due next."""
        if slot_set.is_active:
            self._dialer.end_probation(slot_set, now)
            self._start_dials(slot_set, now)
            self._warm_up.step(slot_set)
            self._checker.check_due(slot_set, now)

    def reschedule(self, slot_set: SlotSet[C]) -> None:
        """Go by another policy from now on."""
        now = trio.current_time()
        self._checker.schedule(slot_set, now)
        slot_set.schedule(now)

    def forget(self, slot_set: SlotSet[C]) -> None:
        """Expect nothing more of a slot set that has left."""
        self._timers.forget(slot_set)
        self._checker.forget(slot_set)
        self._warm_up.forget(slot_set)

    def close(self) -> None:
        """Begin nothing any more: the pool is ending."""
        self._is_closed = True
        self._timers.bell.ring()

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Begin what is due on each slot set when it is time, until the pool ends."""
        timers, not_before = self._timers, -math.inf
        while not self._is_closed:
            await timers.bell.wait(max(timers.next_at, not_before))
            now = trio.current_time()
            not_before = now + RESOLUTION if len(timers) > MANY else -math.inf
            for count, slot_set in enumerate(timers.take_due(now), 1):
                self.begin_due(slot_set, now)
                if count % BATCH_SIZE == 0:
                    await trio.lowlevel.checkpoint()
