"""`Retirement`: replaces connections that grow old.

A connection whose life is limited has an `Expiry`. When it becomes *due*, it does not count
towards what is wanted any more, so that the planner has its replacement dialled first. It is
closed when that has connected, when it comes back from a claim, or when it expires.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterable
from heapq import heapify, heappop, heappush
from typing import Final, Generic, TypeVar, final

import attrs
import trio

from .._events.emitter import Emitter
from .._health.hang_detector import HangDetector
from .._model.settings import Settings
from .._slots.expiry import Expiry, Reason, limits_life, recycle_at
from .._slots.slot_set import Slot, SlotSet
from .._slots.state import CLAIMED, CLOSED, CLOSING, CONNECTED, NOT_YET, UNCLAIMED
from .closer import Closer

C = TypeVar("C")

#: The number of entries below which those of closed slots are not searched for.
MIN_PRUNED: Final = 64


def _counter() -> Callable[[], int]:
    return itertools.count().__next__


@final
@attrs.define(eq=False, repr=False)
class Retirement(Generic[C]):
    """The connections of one pool whose life is limited, and one timer for all of them."""

    _settings: Settings
    _events: Emitter
    _closer: Closer[C]
    _hangs: HangDetector
    _rng: random.Random
    _replan: Callable[[], None]
    #: Starts the task `run`. The lifecycle's.
    on_first: Callable[[], None] = attrs.field(init=False)
    #: True as soon as any connection has had a limited life.
    limits_lives: bool = attrs.field(init=False, default=False)
    #: Called when `limits_lives` becomes True. The dispatcher's.
    on_limit: Callable[[], None] = attrs.field(init=False)
    #: The run's clock, found as the first connection comes: Trio's own way to it takes three
    #: calls.
    now: Callable[[], float] = attrs.field(init=False, factory=lambda: trio.current_time)
    _is_running: bool = attrs.field(init=False, default=False)
    # With a number, so that two slots are never compared.
    _heap: list[tuple[float, int, Slot[C]]] = attrs.field(init=False, factory=list)
    #: The number of entries at which those of closed slots are forgotten.
    _prune_at: int = attrs.field(init=False, default=MIN_PRUNED)
    _number: Callable[[], int] = attrs.field(init=False, factory=_counter)
    _timer: trio.CancelScope = attrs.field(init=False, factory=trio.CancelScope)

    # The life of one connection.

    def enroll(self, slot: Slot[C], dial_began: float) -> None:
        """Limit the life of a new connection, if the policy does."""
        config = self._settings.set_config
        if slot.expiry is None and not limits_life(config):
            return
        now = trio.current_time()
        estimate = self._hangs.estimate(now)
        expiry = slot.expiry
        if expiry is not None:  # it was recycled while it was being dialled
            expiry.update(config, estimate)
        else:
            expiry = Expiry.draw(config, dial_began, estimate, self._rng)
            assert expiry is not None
            self._limit(slot, expiry)
        self.now = trio.lowlevel.current_clock().current_time
        expiry.check_in(now)
        self._schedule(slot, expiry, now)

    def _limit(self, slot: Slot[C], expiry: Expiry | None) -> None:
        slot.expiry = expiry
        if expiry is not None and not self.limits_lives:
            self.limits_lives = True
            self.on_limit()

    def check_out(self, slot: Slot[C]) -> bool:
        """Count a claim on a connection; or close it and return False, if it has expired."""
        expiry = slot.expiry
        assert expiry is not None
        now = self.now()
        if expiry.is_expired(now):
            self._closer.close(slot)
            return False
        expiry.check_out()
        self._mark_if_due(slot, expiry, now)
        return True

    def is_over(self, slot: Slot[C]) -> bool:
        """Return True if a returned connection must not be lent again."""
        expiry = slot.expiry
        assert expiry is not None
        now = self.now()
        expiry.check_in(now)
        self._mark_if_due(slot, expiry, now)
        # A failing backend has no replacement for it, so it serves to its end.
        is_due = expiry.due is not None and not slot.slot_set.is_failing
        return is_due or expiry.is_used_up(expiry.uses) or expiry.is_expired(now)

    def recycle(self, slots: Iterable[Slot[C]], over: float) -> None:
        """Make all connections due whose dial began before now, spread over some seconds."""
        now = trio.current_time()
        for slot in slots:
            born_at = slot.created_at if slot.state in CONNECTED else slot.connecting_since
            if born_at == NOT_YET:
                continue
            at = recycle_at(now, over, self._rng)
            if slot.expiry is None:
                self._limit(slot, Expiry.recycled(born_at, at))
            else:
                slot.expiry.recycle(at)
            if slot.state in CONNECTED:
                self._check_age(slot, now)

    def reconfigure(self, slots: Iterable[Slot[C]]) -> None:
        """Limit the life of all connections by the policy that is in force now."""
        now = trio.current_time()
        config, estimate = self._settings.set_config, self._hangs.estimate(now)
        for slot in slots:
            if slot.state not in CONNECTED:
                continue
            expiry, dated_returns = slot.expiry, False
            if expiry is None:
                expiry = Expiry.draw(config, slot.created_at, estimate, self._rng)
                self._limit(slot, expiry)
            else:
                dated_returns = expiry.dates_returns
                expiry.update(config, estimate)
            if expiry is not None and not dated_returns:
                expiry.check_in(now)
            self._check_age(slot, now)

    # The timer.

    def _schedule(self, slot: Slot[C], expiry: Expiry, now: float) -> None:
        at = expiry.changes_at(now if slot.state is CLAIMED else expiry.unused_since)
        if at == math.inf:
            return
        heappush(self._heap, (at, self._number(), slot))
        if len(self._heap) >= self._prune_at:
            self._prune()
        if not self._is_running:
            self._is_running = True
            self.on_first()
        elif at < self._timer.deadline:
            self._timer.deadline = at

    def _prune(self) -> None:
        """Forget the slots that are closed: a long life must not keep them."""
        self._heap = [it for it in self._heap if it[2].state not in {CLOSING, CLOSED}]
        heapify(self._heap)
        self._prune_at = max(MIN_PRUNED, 2 * len(self._heap))

    async def run(self) -> None:
        """Check the age of each connection when its state changes by time, until cancelled."""
        while True:
            with trio.CancelScope() as self._timer:
                self._timer.deadline = self._heap[0][0] if self._heap else math.inf
                await trio.sleep_forever()
            now = trio.current_time()
            while self._heap and self._heap[0][0] <= now:
                self._check_age(heappop(self._heap)[2], now)

    def _check_age(self, slot: Slot[C], now: float) -> None:
        """Find a connection due or expired. Uses may have put off that time."""
        expiry = slot.expiry
        if expiry is None or slot.state not in CONNECTED or not slot.slot_set.is_active:
            return
        if slot.state is UNCLAIMED and expiry.is_expired(now):
            self._mark_if_due(slot, expiry, now)
            slot.slot_set.remove_idle(slot)
            self._closer.close(slot)
            return
        self._mark_if_due(slot, expiry, now)
        if not expiry.is_expired(now):
            self._schedule(slot, expiry, now)

    def _mark_if_due(self, slot: Slot[C], expiry: Expiry, now: float) -> None:
        if expiry.due is None:
            unused_since = math.inf if slot.state is CLAIMED else expiry.unused_since
            reason = expiry.due_reason(now, uses=expiry.uses, unused_since=unused_since)
            if reason is not None:
                self._retire(slot, expiry, reason)

    def _retire(self, slot: Slot[C], expiry: Expiry, reason: Reason) -> None:
        """Make a connection due: its replacement comes first."""
        slot_set: SlotSet[C] = slot.slot_set
        expiry.retire(reason)
        slot_set.count_retiring(slot)
        if (emit := self._events.connection_retired) is not None:
            emit(slot.id, slot_set.backend, reason)
        self._replan()
