"""`Checker`: health checks of idle connections, and the cleaning of returned ones."""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Awaitable, Callable
from operator import attrgetter
from typing import Generic, TypeVar, final

import attrs
import trio

from .._events.emitter import Emitter
from .._health import check_schedule
from .._model.settings import Settings
from .._planning.targets import Targets
from .._slots.cancellation import interruption
from .._slots.slot_set import Slot, SlotSet
from .._slots.state import CHECKING
from .._slots.totals import Totals
from .closer import Closer
from .hooks import Hooks
from .outcomes import Outcomes

C = TypeVar("C")

_IDLE_SINCE = attrgetter("idle_since")


@final
@attrs.define(eq=False, repr=False)
class Checker(Generic[C]):
    """Checks and recycles the connections of one pool."""

    _settings: Settings
    _events: Emitter
    _hooks: Hooks[C]
    _outcomes: Outcomes[C]
    _closer: Closer[C]
    _totals: Totals
    _targets: Targets
    _replan: Callable[[], None]
    _rng: random.Random
    #: Called with each slot whose connection is free. The dispatcher's.
    on_ready: Callable[[Slot[C]], None] = attrs.field(init=False)
    #: Slot sets that have a check due, but for which there is no room, in order.
    _waiting: dict[SlotSet[C], None] = attrs.field(init=False, factory=dict)

    # The schedule of health checks.

    def schedule(self, slot_set: SlotSet[C], now: float) -> None:
        """Say when the next check of a slot set is due, from now on."""
        self._schedule(slot_set, self._next_check_at(slot_set, now))

    def begin(self, slot_set: SlotSet[C], now: float) -> None:
        """Schedule the first check of a slot set that has got its first connection."""
        if slot_set.check_at == math.inf and self._hooks.can_check:
            self.schedule(slot_set, now)

    def _schedule(self, slot_set: SlotSet[C], due: float) -> None:
        slot_set.check_at = due
        interval = self._settings.set_config.health_interval
        tick = check_schedule.tick(self._totals.connected, interval)
        is_batch = tick and due < math.inf
        slot_set.schedule(check_schedule.batch_at(due, tick) if is_batch else due)

    def _next_check_at(self, slot_set: SlotSet[C], now: float) -> float:
        """Return when `check_due` has to be called next.

        A connection that becomes idle meanwhile cannot be due before that.
        """
        interval = self._settings.set_config.health_interval
        if not self._hooks.can_check or slot_set in self._waiting or not slot_set.connected:
            return math.inf  # the first connection begins it again
        idle = slot_set.idle_slots
        if not idle:
            return now + interval
        oldest = idle[0].idle_since
        latest = check_schedule.latest_checkable(oldest, now, interval)
        count = bisect_right(idle, latest, key=_IDLE_SINCE)
        tick = check_schedule.tick(self._totals.connected, interval)
        return check_schedule.next_check_at(oldest, count, now, interval, self._rng, tick=tick)

    def check_due(self, slot_set: SlotSet[C], now: float) -> None:
        """Begin the checks that are due by `now`."""
        due = slot_set.check_at
        if due > now:
            self._schedule(slot_set, due)
            return
        interval = self._settings.set_config.health_interval
        is_batch = check_schedule.tick(self._totals.connected, interval) > 0
        while due <= now:
            self._check_oldest(slot_set, now)
            due = self._next_check_at(slot_set, due if is_batch else now)
            if not is_batch:
                break
        self._schedule(slot_set, due)

    def _check_oldest(self, slot_set: SlotSet[C], now: float) -> None:
        """Check the longest idle connection, if that is due and there is room for a check."""
        if not (slot_set.is_active and slot_set.idle_slots):
            return
        oldest, interval = slot_set.idle_slots[0], self._settings.set_config.health_interval
        if not check_schedule.is_checkable(oldest.idle_since, now, interval):
            return
        if self._has_room():
            self.check(oldest)
        else:
            self._waiting[slot_set] = None

    def _has_room(self) -> bool:
        """Return True if another spare may be taken for a health check.

        At most half of the connections that are not in use are checked at once, so that
        claims find the others; but a single one is checked too.
        """
        totals = self._totals
        return totals.checking == 0 or totals.checking < totals.idle

    def _wake_next(self) -> None:
        """A check has ended, so there is room for one more."""
        for slot_set in self._waiting:
            del self._waiting[slot_set]
            self.schedule(slot_set, trio.current_time())
            return

    def forget(self, slot_set: SlotSet[C]) -> None:
        """Take a slot set that has left out of the queue for a check."""
        self._waiting.pop(slot_set, None)

    # Checks, as tasks.

    def check(self, slot: Slot[C]) -> None:
        """Have a spare checked."""
        slot.slot_set.remove_idle(slot)
        slot.slot_set.transition(slot, CHECKING)
        slot.slot_set.start_io(self._run_check, slot)

    def recycle(self, slot: Slot[C]) -> None:
        """Have a returned connection cleaned."""
        slot.slot_set.transition(slot, CHECKING)
        slot.slot_set.start_io(self._run_recycle, slot)

    @trio.lowlevel.enable_ki_protection
    async def _run_check(self, slot: Slot[C]) -> None:
        if not self._closer.close_if_broken(slot):
            await self._run(slot, self.validate, "health check")
        else:
            self._check_ended(slot.slot_set)

    @trio.lowlevel.enable_ki_protection
    async def _run_recycle(self, slot: Slot[C]) -> None:
        await self._run(slot, self._recycle, "on_recycle")

    async def _run(
        self, slot: Slot[C], work: Callable[[Slot[C]], Awaitable[Exception | None]], tried: str
    ) -> None:
        slot_set = slot.slot_set
        failure: Exception | None = None
        try:
            if slot_set.is_active:
                failure = await work(slot)
        except BaseException:
            self._closer.close(slot)
            raise
        finally:
            slot.end_io()
            self._check_ended(slot_set)
        self._judge(slot, failure, tried)

    def _judge(self, slot: Slot[C], failure: Exception | None, tried: str) -> None:
        """Close a connection, or offer it."""
        slot_set = slot.slot_set
        if not slot_set.is_active:
            self._closer.close(slot)
        elif failure is not None:
            self._closer.close(slot)
            self._outcomes.failed(slot, failure, tried)
        elif not self._closer.close_if_broken(slot):
            slot.mark_idle(trio.current_time())
            self._outcomes.succeeded(slot)
            self.on_ready(slot)

    def _check_ended(self, slot_set: SlotSet[C]) -> None:
        self._wake_next()
        targets = self._targets
        is_surplus = targets.is_rebalancing and self._totals.connected > targets.size
        if is_surplus or slot_set.is_reclaimable:  # perhaps this spare may go
            self._replan()

    async def validate(self, slot: Slot[C]) -> Exception | None:
        """Check a connection, within ``health_check_timeout``; the failure if any."""
        events = self._events
        if (start := events.health_check_start) is not None:
            start(slot.id, slot.slot_set.backend)
        failure = await self._bounded(slot, self._hooks.check, "health check")
        if failure is None:
            if (done := events.health_check_done) is not None:
                done(slot.id)
        elif (failed := events.health_check_failed) is not None:
            failed(slot.id, failure)
        return failure

    async def _recycle(self, slot: Slot[C]) -> Exception | None:
        events = self._events
        if (start := events.recycle_start) is not None:
            start(slot.id, slot.slot_set.backend)
        failure = await self._bounded(slot, self._hooks.recycle, "recycle")
        if failure is None:
            if (done := events.recycle_done) is not None:
                done(slot.id)
        elif (failed := events.recycle_failed) is not None:
            failed(slot.id, failure)
        return failure

    async def _bounded(
        self, slot: Slot[C], hook: Callable[[C], Awaitable[None]], what: str
    ) -> Exception | None:
        """Call a hook within ``health_check_timeout``; the failure if any."""
        timeout = self._settings.set_config.health_check_timeout
        scope = slot.begin_io(trio.current_time() + timeout)
        failure: Exception | None = None
        try:
            with scope:
                await hook(slot.connection)
        except Exception as exc:  # noqa: BLE001 - the user's code
            failure = exc
        if scope.cancelled_caught:
            return interruption(what, is_wanted=slot.slot_set.is_active)
        return failure
