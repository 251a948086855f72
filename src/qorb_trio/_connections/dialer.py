"""The tasks that do a pool's I/O, but for closing: dials, checks, and recycling.

Each slot that needs one gets a task of its own in the pool's nursery, started as that is
decided, so that whatever is decided together also begins together. The slot's state says
whether the work is still wanted by the time the task runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar, final

import trio

from .._slots.state import CLAIMED, CLOSED, CLOSING, CONNECTING, UNCLAIMED, Slot

if TYPE_CHECKING:
    from .._claims.dispatcher import Core
    from .._slots.slot_set import SlotSet

C = TypeVar("C")


@final
class Worker(Generic[C]):
    """What the tasks of one pool do."""

    __slots__ = ("_config", "_core")

    def __init__(self, core: Core[C]) -> None:
        self._core = core
        self._config = core.policy.set_config

    # Dials.

    @trio.lowlevel.enable_ki_protection
    async def dial(self, slot: Slot[C]) -> None:
        """Connect a slot: one attempt. If it fails, the planner decides what follows."""
        home = slot.home
        try:
            failure = await self._connect(slot)
        except BaseException:
            home.closed(slot)
            raise
        finally:
            slot.scope = None
        if slot.connection is None:
            unwanted = slot.state is CLOSING
            home.closed(slot)
            if failure is not None and not unwanted:
                home.record.refused(failure, trio.current_time())
                home.failed(slot, failure)
            return
        probation = 0.0
        if home.record.failing:
            # That it has connected is news of now, whatever failed since the dial began.
            slot.epoch = home.record.epoch
            probation = home.record.probation(trio.current_time())
        home.welcome(slot)
        if probation:
            await trio.sleep(probation)
            self._end_probation(slot)

    async def _connect(self, slot: Slot[C]) -> Exception | None:
        """Wait for the back-off, then connect; the exception if that fails."""
        home = slot.home
        if home.record.failing and slot.state is CONNECTING and home.active:
            with trio.CancelScope() as slot.scope:
                await self._back_off(slot)
        if slot.state is not CONNECTING or not home.active:
            return None
        core = self._core
        now = trio.current_time()
        slot.epoch = home.record.epoch
        slot.since = now
        failure: BaseException | None = None
        try:
            core.fire("connect_start", slot.id, home.backend)
            with trio.CancelScope(deadline=now + self._config.connect_timeout) as slot.scope:
                connection = await core.hooks.connect(home.backend)
                core.hold(connection)
                slot.connection = connection
                return None
        except Exception as exc:  # noqa: BLE001 - the user's code
            failure = exc
            return exc
        except BaseException as exc:
            failure = exc
            raise
        finally:
            if slot.connection is None:
                failure = failure or self._interrupted(slot, "connect")
                core.fire("connect_failed", slot.id, home.backend, failure)
        # Only the cancellation of the slot's own scope leads here.
        return self._interrupted(slot, "connect")

    async def _back_off(self, slot: Slot[C]) -> None:
        record = slot.home.record
        # In a loop, since another failure meanwhile puts it off.
        while record.failing and record.retry_at > trio.current_time():  # noqa: ASYNC110
            await trio.sleep_until(record.retry_at)

    def _interrupted(self, slot: Slot[C], what: str) -> Exception:
        """What it means that the scope of a slot was cancelled."""
        if slot.state is CLOSING or not slot.home.active:
            return ConnectionAbortedError(f"{what} was given up: no longer wanted")
        return trio.TooSlowError(f"{what} took longer than its timeout")

    def _end_probation(self, slot: Slot[C]) -> None:
        """A probe has lasted for as long as was asked; check it, if that is possible."""
        home = slot.home
        if not home.active:
            return
        if slot.state is UNCLAIMED and home.record.failing and self._core.hooks.checks:
            home.check(slot)
        elif slot.state in {UNCLAIMED, CLAIMED}:
            home.proved(slot)
        elif slot.state in {CLOSING, CLOSED} and slot.epoch == home.record.epoch:
            home.record.probation_undecided()
            self._core.request_plan()

    # Checks and recycling.

    @trio.lowlevel.enable_ki_protection
    async def tend(self, slot: Slot[C]) -> None:
        """Recycle a returned connection, or check an idle one."""
        core, home = self._core, slot.home
        failure: Exception | None = None
        try:
            if home.active:
                failure = await self._examine(slot, "recycle" if slot.returned else "health_check")
        except BaseException:
            home.close(slot)
            raise
        finally:
            slot.scope = None
            core.checks_ended(home)
        if failure is not None or not home.active:
            unwanted = not home.active
            home.close(slot)
            if failure is not None and not unwanted:
                home.failed(slot, failure)
            return
        if core.hooks.tells_broken and home.found_broken(slot):
            return
        slot.returned = False
        slot.since = trio.current_time()
        home.proved(slot)
        core.offer(slot)

    async def _examine(self, slot: Slot[C], event: str) -> Exception | None:
        core, home = self._core, slot.home
        core.fire(f"{event}_start", slot.id, home.backend)
        failure: Exception | None = None
        deadline = trio.current_time() + self._config.health_check_timeout
        slot.scope = scope = trio.CancelScope(deadline=deadline)
        try:
            with scope:
                if slot.returned:
                    await core.hooks.recycle(slot.connection)
                else:
                    await core.hooks.check(slot.connection)
        except Exception as exc:  # noqa: BLE001 - the user's code
            failure = exc
        if scope.cancelled_caught:
            failure = self._interrupted(slot, event.replace("_", " "))
        if failure is None:
            core.fire(f"{event}_done", slot.id)
        else:
            core.fire(f"{event}_failed", slot.id, failure)
        return failure

    @trio.lowlevel.enable_ki_protection
    async def keep_checking(self, home: SlotSet[C]) -> None:
        """Order a check of each spare that has been idle for ``health_interval``."""
        assert home.checker is not None
        with home.checker:
            await self._order_checks(home)

    async def _order_checks(self, home: SlotSet[C]) -> None:
        """Nobody need wake this: what becomes a spare while it sleeps is not due before
        it looks again."""
        core, interval = self._core, self._config.health_interval
        called = False  # whether this task was woken because there is room for a check
        while True:  # noqa: ASYNC913 - each round waits, but for one that takes a spare
            now = trio.current_time()
            # When its backend has left, this task may run once more before its end.
            idle = home.active and home.spares
            due = home.spares[0].since + interval if idle else now + interval
            if due > now:
                if called:  # it is not needed here any more: somebody else's turn
                    core.check_lot.unpark()
                called = False
                await trio.sleep_until(due)
            elif core.may_check():
                called = False
                home.check(home.spares[0])
            else:
                await core.check_lot.park()
                called = True
