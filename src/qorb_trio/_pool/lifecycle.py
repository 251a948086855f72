"""`Lifecycle`: the main task of a pool, from its start to its end.

The tree of tasks::

    caller's nursery
    └── pool <name>             adopts the resolver's sets; at the end, sees everything closed
        ├── resolver            sends each set over a memory channel
        ├── planner             from the first set on; orders dials from the slot sets' tasks
        ├── deadline timer      one for all waiting claimants; started by the first deadline
        ├── idle watcher        one for all connections; only if the connector has `fileno`
        ├── leak detector       warns of claims that are held for long; only if the policy says so
        ├── retirement          one timer; started by the first connection whose life is limited
        ├── maintenance         one timer for back-offs, health checks and warm-ups; started by the
        │                       first of them
        └── slot set <backend>  one task for the I/O on a backend that begins together
"""

from __future__ import annotations

import contextvars
import logging
import math
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from typing import Any, Final, Generic, TypeVar, final

import attrs
import trio

from .._claims.dispatcher import Dispatcher
from .._claims.snapshot import Snapshots
from .._connections.closer import Closer
from .._connections.ejections import Ejections
from .._connections.idle_watcher import IdleWatcher
from .._connections.maintenance import Maintenance
from .._connections.retirement import Retirement
from .._connections.slot_set_task import SlotSetTask
from .._events.emitter import Emitter
from .._model.backend import Backend
from .._model.settings import Settings
from .._slots.bell import Bell
from .._slots.cancellation import is_cancellation
from .._slots.readiness import Readiness
from .._slots.registry import Registry
from .._slots.slot_set import SlotSet
from .._slots.timer_queue import TimerQueue
from .._slots.totals import Totals
from .._util import log_safely, unwrap_single
from ..abc import Resolver
from .leak_detector import LeakDetector
from .membership import BATCH_SIZE, Membership
from .phase import NEXT_PHASE, Phase
from .plan_requests import PlanRequests
from .rebalancer import Rebalancer

C = TypeVar("C")

logger = logging.getLogger("qorb_trio.pool")

#: Up to this number of slots, the end begins to close all in one step. It takes some 3 ms.
FEW_SLOTS: Final = 200


@final
@attrs.define(eq=False, repr=False)
class Lifecycle(Generic[C]):
    """Starts the tasks of one pool, and ends them."""

    _pool: str
    _resolver: Resolver
    _settings: Settings
    _events: Emitter
    _totals: Totals
    _registry: Registry[C]
    _readiness: Readiness
    _dispatcher: Dispatcher[C]
    _snapshots: Snapshots[C]
    _closer: Closer[C]
    _ejections: Ejections[C]
    _timers: TimerQueue
    _maintenance: Maintenance[C]
    _membership: Membership[C]
    _rebalancer: Rebalancer[C]
    _requests: PlanRequests
    _watcher: IdleWatcher[C]
    _retirement: Retirement[C]
    _leak_detector: LeakDetector[C]
    #: Runs a slot set. Handed in when all parts have been built.
    slot_set_task: SlotSetTask[C] = attrs.field(init=False)
    phase: Phase = attrs.field(init=False, default=Phase.OPEN)
    _nursery: trio.Nursery | None = attrs.field(init=False, default=None)
    _context: contextvars.Context = attrs.field(init=False)
    #: The scope of the resolver, and that of the wait for its sets, while each is in it.
    _resolving: trio.CancelScope | None = attrs.field(init=False, default=None)
    _receiving: trio.CancelScope | None = attrs.field(init=False, default=None)
    #: Rings as the end begins.
    _end: Bell = attrs.field(init=False, factory=Bell)
    #: The end of the time in which claims may go on, and the scope of the wait for them.
    _drain_until: float = attrs.field(init=False, default=-math.inf)
    _draining: trio.CancelScope | None = attrs.field(init=False, default=None)
    #: True if there is a task that does not end by itself.
    _has_endless: bool = attrs.field(init=False, default=False)
    _closed: trio.Event = attrs.field(init=False, factory=trio.Event)

    # Claims are put off for a while.

    def suspend(self) -> None:
        """Lend nothing until `resume`. Nothing happens unless the pool is open."""
        if self.phase is Phase.OPEN:
            self._enter(Phase.SUSPENDED)
            self._dispatcher.suspend()
            log_safely(logger, logging.INFO, "pool %s is suspended", self._pool)

    def resume(self) -> None:
        """End a `suspend`. Nothing happens unless the pool is suspended."""
        if self.phase is Phase.SUSPENDED:
            self._enter(Phase.OPEN)
            self._dispatcher.resume()
            log_safely(logger, logging.INFO, "pool %s is resumed", self._pool)

    async def wait_idle(self) -> None:
        """Return when no claim is outstanding."""
        # Releases do not look for waiting tasks. So there is a listener while a task waits.
        with self._events.watching("slot_state_change", self._slot_changed):
            await self._readiness.wait_until(lambda: not self._totals.claimed)

    def _slot_changed(self, *_: object) -> None:
        if not self._totals.claimed:
            self._readiness.changed()

    # The end, which anybody may begin.

    def end(self, *, drain: bool, crash: BaseException | None = None) -> None:
        """Begin the end. With `drain`, claims that are held may go on for a while.

        `crash` is the exception that ends the pool, if one does.
        """
        if self.phase is Phase.CLOSED:
            return
        is_ending = self.phase not in (Phase.OPEN, Phase.SUSPENDED)
        if not is_ending:
            self._stop_lending(crash)
        if drain and not is_ending:
            self._enter(Phase.DRAINING)
            self._drain_until = trio.current_time() + self._settings.policy.drain_timeout
        elif not drain and self.phase is not Phase.CLOSING:
            self._enter(Phase.CLOSING)
            self._drain_until = -math.inf
            _cancel(self._draining)
        self._end.ring()
        _cancel(self._resolving)
        _cancel(self._receiving)

    def lost(self, crash: BaseException | None) -> None:
        """End the pool: a task has crashed, or the caller's nursery was cancelled."""
        self.end(drain=False, crash=crash)

    def _enter(self, phase: Phase) -> None:
        assert phase in NEXT_PHASE[self.phase]
        self.phase = phase

    def _stop_lending(self, crash: BaseException | None) -> None:
        """Fail the waiting claimants; close what nobody holds, and stop all other I/O."""
        self._requests.close()
        self._maintenance.close()
        self._dispatcher.close(crash)
        if self._totals.slots <= FEW_SLOTS:
            self._clear(list(self._registry))
        self._readiness.changed()

    def _clear(self, slot_sets: Sequence[SlotSet[C]]) -> None:
        for slot_set in slot_sets:
            slot_set.deactivate()
            self._ejections.forget(slot_set)
            self._maintenance.forget(slot_set)
        for slot_set in slot_sets:
            self._closer.clear(slot_set)

    async def _clear_rest(self) -> None:
        """Close in batches what nobody holds, if it is too much for one step."""
        batch: list[SlotSet[C]] = []
        slots = 0
        for slot_set in self._registry:
            if not slot_set.tasks.is_cancelled:
                batch.append(slot_set)
                slots += len(slot_set.slots) + 1
            if slots >= BATCH_SIZE:
                self._clear(batch)
                batch, slots = [], 0
                await trio.lowlevel.cancel_shielded_checkpoint()
        self._clear(batch)

    async def terminate(self, *, drain: bool) -> None:
        """End the pool, and return when it has ended."""
        if _is_inside(trio.lowlevel.current_task(), self._nursery):
            raise RuntimeError("a pool cannot be ended by one of its own tasks")
        self.end(drain=drain)
        try:
            await self._closed.wait()
        except BaseException:
            self.end(drain=False)
            with trio.CancelScope(shield=True):  # closing is bounded
                await self._closed.wait()
            raise

    # The main task.

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Run the pool, in the caller's nursery."""
        try:
            await self._run()
        except BaseExceptionGroup as group:
            crash = unwrap_single(group)
        else:
            return
        finally:
            self.phase = Phase.CLOSED
            self._closed.set()
        raise crash

    async def _run(self) -> None:
        self._snapshots.start(self._resolver.snapshot)
        updates, found = trio.open_memory_channel[Collection[Backend]](0)
        # Strict, however Trio runs: `run` removes this nursery's layer, and no other.
        async with trio.open_nursery(strict_exception_groups=True) as nursery:
            self._nursery, self._context = nursery, contextvars.copy_context()
            nursery.start_soon(self._watched, self._resolve, updates, name=self._resolve)
            self._requests.bind(partial(self._start, self._rebalancer.run, is_endless=False))
            self._timers.bind(partial(self._start, self._maintenance.run, is_endless=False))
            self._dispatcher.queue.timer.bind(partial(self._start, self._expire_waiters))
            self._dispatcher.queue.note_outage(is_down=True)
            if self._watcher.is_needed:
                self._start(self._watcher.run)
            self._retirement.on_first = partial(self._start, self._retirement.run)
            self._leak_detector.on_first = partial(self._start, self._leak_detector.run)
            self._leak_detector.restart()
            try:
                await self._serve(found)
            finally:
                found.close()
                await self._close()  # noqa: ASYNC102 - shielded within
            if self._has_endless:
                nursery.cancel_scope.cancel()

    async def _serve(self, found: trio.MemoryReceiveChannel[Collection[Backend]]) -> None:
        """Adopt the resolver's sets until the end begins, then let claims go on for a while."""
        with trio.CancelScope() as self._receiving:
            async for backends in found:
                await self._membership.update(backends)
        self._receiving = None
        if not self._requests.is_closed:  # the resolver has ended: that set is final
            await self._end.wait()
        await self._clear_rest()
        if self._totals.claimed:
            with trio.CancelScope(deadline=self._drain_until) as self._draining:
                await self._readiness.wait_until(lambda: not self._totals.claimed)
            self._draining = None

    async def _close(self) -> None:
        """Close all connections, and return when they are closed."""
        self.end(drain=False)
        await self._clear_rest()  # noqa: ASYNC102 - shielded within
        self._dispatcher.cut_claims()
        if self._totals.slots:
            with trio.CancelScope(shield=True):  # each close has a deadline
                await self._readiness.wait_until(lambda: not self._totals.slots)
        self._snapshots.end()

    # Its children.

    async def _watched(self, part: Callable[..., Awaitable[None]], *args: Any) -> None:
        """Run a part of the pool; if it crashes, those who wait are told why."""
        try:
            await part(*args)
        except BaseException as exc:
            if not is_cancellation(exc):
                self.end(drain=False, crash=exc)
            raise

    async def _resolve(self, updates: trio.MemorySendChannel[Collection[Backend]]) -> None:
        with updates:  # not `async with`: that is a checkpoint, and could hide an error
            if not self._requests.is_closed:
                with trio.CancelScope() as self._resolving:
                    await self._resolver.run(updates)
                self._resolving = None

    async def _expire_waiters(self) -> None:
        diagnosis = self._dispatcher.diagnosis
        await self._dispatcher.queue.expire_waiters(diagnosis.timeout, diagnosis.overload)

    def _start(self, part: Callable[[], Awaitable[None]], *, is_endless: bool = True) -> None:
        """Start a task in the context variables of the pool, never in a claimant's."""
        assert self._nursery is not None
        self._has_endless = self._has_endless or is_endless
        self._context.run(self._nursery.start_soon, self._watched, part, name=part)

    def start_slot_set(self, slot_set: SlotSet[C]) -> None:
        """Start the task of a slot set, in the context variables of the pool."""
        assert self._nursery is not None
        name = f"<slot set {slot_set.backend.name!r}>"
        run: Callable[..., Awaitable[None]] = self.slot_set_task.run
        self._context.run(self._nursery.start_soon, run, slot_set, name=name)


def _cancel(scope: trio.CancelScope | None) -> None:
    """Cancel a scope that is in use. To cancel one that is not would cost as much."""
    if scope is not None:
        scope.cancel()


def _is_inside(task: trio.lowlevel.Task, pool: trio.Nursery | None) -> bool:
    """Return True if a task is a child, however far down, of the pool's own nursery."""
    nursery = task.parent_nursery
    while nursery is not None and nursery is not pool:
        nursery = nursery.parent_task.parent_nursery
    return nursery is not None
