"""The task of one slot set: it dials, checks and recycles, and its children do.

Slots that need work come over a memory channel; their state says what they need. The
worker ends when its set is deactivated. Closing is not done here but in the pool's own
nursery, for it must go on when this task has been cancelled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar, final

import trio

from ._groups import sole_exception
from ._slot import CHECKING, CLAIMED, CLOSED, CLOSING, CONNECTING, UNCLAIMED, Slot

if TYPE_CHECKING:
    from ._core import Core
    from ._slot_set import SlotSet

C = TypeVar("C")


@final
class Worker(Generic[C]):
    """Does the I/O of one slot set, except for closing."""

    __slots__ = ("_config", "_core", "_home", "_orders")

    def __init__(
        self, core: Core[C], home: SlotSet[C], orders: trio.MemoryReceiveChannel[Slot[C]]
    ) -> None:
        self._core = core
        self._home = home
        self._orders = orders
        self._config = core.policy.set_config

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Start a task for each slot that needs one, until the set is deactivated."""
        jobs = {CONNECTING: self._dial, CHECKING: self._tend}
        crash: BaseException | None = None
        try:
            async with trio.open_nursery() as nursery:
                if self._core.hooks.checks and self._config.health_interval < float("inf"):
                    nursery.start_soon(self._keep_checking)
                async for slot in self._orders:
                    nursery.start_soon(jobs.get(slot.state, self._abandon), slot)
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            crash = sole_exception(group)
        finally:
            self._home.deactivate()
            with self._orders:
                self._abandon_orders()
        if crash is not None:
            raise crash

    def _abandon_orders(self) -> None:
        """Nobody will do what was still ordered: close those slots."""
        while True:
            try:
                slot = self._orders.receive_nowait()
            except (trio.WouldBlock, trio.EndOfChannel):
                return
            self._drop(slot)

    @trio.lowlevel.enable_ki_protection
    async def _abandon(self, slot: Slot[C]) -> None:
        self._drop(slot)

    def _drop(self, slot: Slot[C]) -> None:
        """The work on a slot has ended, and the slot is not wanted any more."""
        if slot.connection is not None:
            self._home.close(slot)
        else:
            self._home.closed(slot)

    # Dials.

    @trio.lowlevel.enable_ki_protection
    async def _dial(self, slot: Slot[C]) -> None:
        """Connect a slot: one attempt. If it fails, the planner decides what follows."""
        home = self._home
        try:
            failure = await self._connect(slot)
        except BaseException:
            self._drop(slot)
            raise
        if slot.connection is None:
            unwanted = slot.state is CLOSING
            home.closed(slot)
            if failure is not None and not unwanted:
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
        core, home = self._core, self._home
        started = False
        failure: BaseException | None = None
        assert slot.scope is not None
        try:
            with slot.scope as scope:
                if slot.state is not CONNECTING:
                    return None
                # In a loop, since another failure meanwhile puts it off.
                while home.record.failing and home.record.retry_at > trio.current_time():  # noqa: ASYNC110
                    await trio.sleep_until(home.record.retry_at)
                slot.epoch = home.record.epoch
                slot.since = trio.current_time()
                scope.deadline = slot.since + self._config.connect_timeout
                core.fire("connect_start", slot.id, home.backend)
                started = True
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
            if started and slot.connection is None:
                failure = failure or self._interrupted(slot, "connect")
                core.fire("connect_failed", slot.id, home.backend, failure)
        # Only the cancellation of the slot's own scope leads here.
        return self._interrupted(slot, "connect")

    def _interrupted(self, slot: Slot[C], what: str) -> Exception:
        """What it means that the scope of a slot was cancelled."""
        if slot.state is CLOSING or not self._home.active:
            return ConnectionAbortedError(f"{what} was given up: no longer wanted")
        return trio.TooSlowError(f"{what} took longer than its timeout")

    def _end_probation(self, slot: Slot[C]) -> None:
        """A probe has lasted for as long as was asked; check it, if that is possible."""
        home = self._home
        if slot.state is UNCLAIMED and home.record.failing and self._core.hooks.checks:
            home.check(slot)
        elif slot.state in {UNCLAIMED, CLAIMED}:
            home.proved(slot)
        elif slot.state in {CLOSING, CLOSED} and slot.epoch == home.record.epoch:
            home.record.probation_undecided()
            self._core.request_plan()

    # Checks and recycling.

    @trio.lowlevel.enable_ki_protection
    async def _tend(self, slot: Slot[C]) -> None:
        """Recycle a returned connection, or check an idle one."""
        core, home = self._core, self._home
        try:
            failure = await self._examine(slot, "recycle" if slot.returned else "health_check")
        except BaseException:
            home.close(slot)
            raise
        finally:
            core.checks_ended()
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
        core, home = self._core, self._home
        scope = slot.scope
        assert scope is not None
        scope.deadline = trio.current_time() + self._config.health_check_timeout
        core.fire(f"{event}_start", slot.id, home.backend)
        failure: Exception | None = None
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
    async def _keep_checking(self) -> None:
        """Order a check of each spare that has been idle for ``health_interval``.

        Nobody need wake this task: what becomes a spare while it sleeps is not due
        before it looks again.
        """
        core, home, interval = self._core, self._home, self._config.health_interval
        called = False  # whether this task was woken because there is room for a check
        while True:  # noqa: ASYNC913 - each round waits, but for one that takes a spare
            now = trio.current_time()
            due = home.spares[0].since + interval if home.spares else now + interval
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
