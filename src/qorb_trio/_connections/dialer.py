"""`Dialer`: opens connections.

A dial is a task of its slot set, and belongs to its slot, never to a claimant. It makes one
attempt; if that fails, the slot ends, and the planner decides whether another is opened.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar, final

import attrs
import trio

from .._events.emitter import Emitter
from .._health import hang_detector
from .._health.hang_detector import HangDetector
from .._model.settings import Settings
from .._planning.targets import Targets
from .._slots.cancellation import interruption
from .._slots.readiness import Readiness
from .._slots.slot_set import Slot, SlotSet
from .._slots.state import CLAIMED, CLOSING, CONNECTING, UNCLAIMED
from .._slots.totals import Totals
from .checker import Checker
from .closer import Closer
from .hooks import Hooks
from .idle_watcher import IdleWatcher
from .open_connections import OpenConnections
from .outcomes import Outcomes
from .retirement import Retirement
from .warm_up import WarmUp

C = TypeVar("C")


@final
@attrs.define(eq=False, repr=False)
class Dialer(Generic[C]):
    """Opens the connections of one pool, and gives up dials."""

    _settings: Settings
    _events: Emitter
    _hooks: Hooks[C]
    _outcomes: Outcomes[C]
    _checker: Checker[C]
    _closer: Closer[C]
    _warm_up: WarmUp
    _watcher: IdleWatcher[C]
    _retirement: Retirement[C]
    _hangs: HangDetector
    _open: OpenConnections
    _totals: Totals
    _targets: Targets
    _readiness: Readiness
    _replan: Callable[[], None]
    #: Called with each slot whose connection is free. The dispatcher's.
    on_ready: Callable[[Slot[C]], None] = attrs.field(init=False)

    # One dial, as a task.

    @trio.lowlevel.enable_ki_protection
    async def dial(self, slot: Slot[C]) -> None:
        """Connect a slot: one attempt."""
        try:
            failure = await self._attempt(slot)
        except BaseException:
            self._end(slot)
            raise
        finally:
            slot.end_io()
        if slot.connection is None:
            self._give_up(slot, failure)
        elif failure is not None:
            self._closer.close(slot)
            self._outcomes.failed(slot, failure, "health check")
        else:
            self._finish(slot)

    def _end(self, slot: Slot[C]) -> None:
        """End a slot whose dial has been cancelled, or has crashed."""
        if slot.connection is None:
            self._closer.finish(slot)
        else:
            self._closer.close(slot)

    def _give_up(self, slot: Slot[C], failure: Exception | None) -> None:
        unwanted = slot.state is CLOSING or not slot.slot_set.is_active
        self._closer.finish(slot)
        if failure is not None and not unwanted:
            self._outcomes.connect_failed(slot, failure)

    async def _attempt(self, slot: Slot[C]) -> Exception | None:
        """Wait for the back-off, connect, and validate a probe; the failure if any."""
        detector = slot.slot_set.detector
        if detector.is_failing and self._is_wanted(slot):
            await self._back_off(slot)
        if not self._is_wanted(slot) or exceeds_cap(slot, self._totals, self._settings):
            return None
        failure = await self._connect(slot)
        is_probe = detector.is_failing and self._hooks.has_is_valid
        if failure is None and is_probe and self._is_wanted(slot):
            # A stopped process still accepts connections: the kernel does it.
            return await self._checker.validate(slot)
        return failure

    def _is_wanted(self, slot: Slot[C]) -> bool:
        return slot.state is CONNECTING and slot.slot_set.is_active

    async def _back_off(self, slot: Slot[C]) -> None:
        detector = slot.slot_set.detector
        # In a loop, because another failure meanwhile puts the retry off.
        while detector.is_failing and detector.retry_at > trio.current_time():
            # By a scope, so that `advance_retry` can end it early.
            with slot.begin_io(detector.retry_at):
                await trio.sleep_forever()
            if not self._is_wanted(slot):
                return

    async def _connect(self, slot: Slot[C]) -> Exception | None:
        """Call ``connect``; the exception if it fails."""
        now = trio.current_time()
        slot.slot_set.begin_dial(slot, now)
        failure: BaseException | None = None
        try:
            if (emit := self._events.connect_start) is not None:
                emit(slot.id, slot.slot_set.backend)
            with slot.begin_io(now + self._settings.set_config.connect_timeout):
                connection = await self._hooks.connect(slot.slot_set.backend)
                self._open.add(connection)
                slot.attach(connection)
                return None
        except Exception as exc:  # noqa: BLE001 - the user's code
            failure = exc
            return exc
        except BaseException as exc:
            failure = exc
            raise
        finally:
            if slot.connection is None:
                failure = failure or self._interruption(slot)
                if (emit_failed := self._events.connect_failed) is not None:
                    emit_failed(slot.id, slot.slot_set.backend, failure)
        # Only the cancellation of the slot's own scope leads here.
        return self._interruption(slot)

    def _interruption(self, slot: Slot[C]) -> Exception:
        return interruption("connect", is_wanted=self._is_wanted(slot))

    def _finish(self, slot: Slot[C]) -> None:
        """Announce a connection; one to a failing backend has to prove itself."""
        slot_set, detector = slot.slot_set, slot.slot_set.detector
        if (emit := self._events.connect_done) is not None:
            emit(slot.id, slot_set.backend)
        if not self._is_wanted(slot):  # it was given up while it connected
            self._closer.close(slot)
            return
        now, began = trio.current_time(), slot.connecting_since
        self._hangs.record_connect_time(now - began, now)
        is_probe = detector.is_failing
        slot.mark_connected(now)
        self._retirement.enroll(slot, began)
        if is_probe:
            slot_set.begin_probe(slot)
        probation = detector.begin_half_open(now) if is_probe else 0.0
        self._welcome(slot)
        if probation:
            slot_set.schedule(now + probation)

    def _welcome(self, slot: Slot[C]) -> None:
        """Lend a new connection, or make it a spare."""
        slot_set = slot.slot_set
        if self._closer.close_if_broken(slot):
            return
        is_first = slot_set.connected == 0
        self.on_ready(slot)
        self._watcher.watch(slot)
        if is_first:
            self._outcomes.online(slot_set)
            self._warm_up.begin(slot_set)
            self._checker.begin(slot_set, slot.created_at)
        self._readiness.slot_connected(self._totals.connected)
        if is_first or slot_set.is_failing or self._unblocks_plan(slot_set):
            self._replan()

    def _unblocks_plan(self, slot_set: SlotSet[C]) -> bool:
        """Return True if a plan can go on after a connection to this backend.

        Dials may have been put off until one ends. In a rebalance, others may be closed for
        what has connected; and it is over when nothing is on its way any more.
        """
        targets = self._targets
        if targets.has_backlog:
            return True
        enough = self._totals.connected >= targets.size
        return targets.is_rebalancing and (enough or not slot_set.dials)

    def end_probation(self, slot_set: SlotSet[C], now: float) -> None:
        """Ask ``is_broken``, if that is possible, of a probe that has lasted for long enough."""
        slot, detector, hooks = slot_set.probe, slot_set.detector, self._hooks
        if slot is None:
            return
        if detector.is_half_open and detector.retry_at > now:
            slot_set.schedule(detector.retry_at)
            return
        slot_set.end_probe(slot)
        needs_check = hooks.can_check and not hooks.has_is_valid  # which it has passed already
        if slot.state is UNCLAIMED and detector.is_failing and needs_check:
            self._checker.check(slot)
        elif slot.state in {UNCLAIMED, CLAIMED}:
            self._outcomes.succeeded(slot)

    # Dials that are given up.

    def abort(self, slot: Slot[C]) -> None:
        """Give up a dial. The slot is CLOSING until its task has ended."""
        slot_set = slot.slot_set
        slot_set.transition(slot, CLOSING)
        if slot_set.tasks.withdraw(slot):
            self._closer.finish(slot)  # it was waiting for the end of the back-off
        slot.interrupt()
        if slot_set.is_hung:
            self._outcomes.abandoned(slot)

    def abort_youngest(self, slot_set: SlotSet[C], count: int) -> None:
        """Give up `count` dials, the youngest first."""
        for slot in list(slot_set.dials)[-count:]:
            self.abort(slot)

    # Dials that hang.

    def refresh_hung(self, slot_sets: Iterable[SlotSet[C]], now: float) -> None:
        """Update `SlotSet.is_hung`, and give up dials that would last for ever."""
        timeout = self._hangs.hang_timeout(now)
        for slot_set in slot_sets:
            if slot_set.dials or slot_set.is_hung:
                self._refresh_hung(slot_set, timeout, now)

    def _refresh_hung(self, slot_set: SlotSet[C], timeout: float, now: float) -> None:
        slot_set.is_hung = now >= self._suspect_at(slot_set, timeout, now)
        while slot_set.is_hung and now >= self._abandon_at(slot_set, timeout, now):
            self.abort(next(iter(slot_set.dials)))
            slot_set.is_hung = now >= self._suspect_at(slot_set, timeout, now)

    def next_refresh_at(self, slot_sets: Iterable[SlotSet[C]], now: float) -> float:
        """Return when `refresh_hung` may see something else than it last saw."""
        timeout = self._hangs.hang_timeout(now)
        times = [
            (self._abandon_at if it.is_hung else self._suspect_at)(it, timeout, now)
            for it in slot_sets
            if it.dials
        ]
        return min(times, default=math.inf)

    def _suspect_at(self, slot_set: SlotSet[C], timeout: float, now: float) -> float:
        timeout = slot_set.detector.scaled_timeout(timeout)
        return hang_detector.suspect_at(self._began_at(slot_set, now), timeout)

    def _abandon_at(self, slot_set: SlotSet[C], timeout: float, now: float) -> float:
        config = self._settings.set_config
        return hang_detector.abandon_at(
            self._began_at(slot_set, now),
            slot_set.detector.scaled_timeout(timeout),
            connect_timeout=config.connect_timeout,
            max_backoff=config.max_connection_backoff,
        )

    def _began_at(self, slot_set: SlotSet[C], now: float) -> float:
        """Return when the oldest dial began, or will begin when its back-off has passed."""
        began = next(iter(slot_set.dials.values()), None)
        if began is None:
            return math.inf
        return hang_detector.began_at(began, slot_set.detector.retry_at, now)


def exceeds_cap(slot: Slot[C], totals: Totals, settings: Settings) -> bool:
    """Return True if `Pool.reconfigure` has lowered a cap since a dial was ordered.

    The plan that ordered it went by the former policy. The next one may order it again.
    """
    is_over = totals.slots > settings.policy.max_slots
    return is_over or len(slot.slot_set.slots) > settings.set_config.max_count
