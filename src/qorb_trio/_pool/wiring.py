"""`build`: makes the parts of a pool, and connects them. It holds nothing."""

from __future__ import annotations

import functools
import itertools
import random
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Generic, TypeVar, final

import attrs

from .._balancing.guard import guard
from .._balancing.idle_index import IdleIndex
from .._balancing.strategy import Balancer
from .._claims.diagnosis import Diagnosis
from .._claims.dispatcher import Dispatcher
from .._claims.returns import Returns
from .._claims.snapshot import Snapshots
from .._claims.spares import Spares
from .._claims.wait_queue import WaitQueue
from .._connections.checker import Checker
from .._connections.closer import Closer
from .._connections.dialer import Dialer
from .._connections.ejections import Ejections
from .._connections.guarded_hooks import GuardedHooks
from .._connections.hooks import Hooks
from .._connections.idle_watcher import IdleWatcher
from .._connections.maintenance import Maintenance
from .._connections.open_connections import OpenConnections
from .._connections.outcomes import Outcomes
from .._connections.retirement import Retirement
from .._connections.slot_set_task import SlotSetTask
from .._connections.verdicts import Verdicts
from .._connections.warm_up import WarmUp
from .._events.emitter import Emitter
from .._health.hang_detector import HangDetector
from .._model.policy import Policy
from .._model.settings import Settings
from .._planning.targets import Targets
from .._slots.readiness import Readiness
from .._slots.registry import Registry
from .._slots.slot_set import Shared, Slot, SlotSet
from .._slots.timer_queue import TimerQueue
from .._slots.totals import Totals
from ..abc import Connector, Instrument, Resolver
from .control import Control
from .leak_detector import LeakDetector
from .lifecycle import Lifecycle
from .membership import Membership
from .plan_requests import PlanRequests
from .rebalancer import Rebalancer

if TYPE_CHECKING:
    from .._balancing.guarded_balancer import GuardedBalancer

C = TypeVar("C")
P = TypeVar("P")


@final
@attrs.define(eq=False, repr=False)
class Parts(Generic[C]):
    """The parts of a pool that `Pool` calls."""

    pool: str
    settings: Settings
    events: Emitter
    totals: Totals
    registry: Registry[C]
    dispatcher: Dispatcher[C]
    snapshots: Snapshots[C]
    lifecycle: Lifecycle[C]
    control: Control[C]


def build(
    resolver: Resolver,
    connector: Connector[C],
    *,
    name: str,
    policy: Policy,
    balancer: Balancer,
    instruments: Iterable[Instrument],
    rng: random.Random,
) -> Parts[C]:
    """Return the parts of a new pool. Nothing runs yet."""
    assembly = Assembly(name, resolver, connector, policy, rng)
    assembly.add_index(balancer)
    assembly.add_connections()
    assembly.add_claims()
    assembly.add_tasks()
    assembly.hand_up()
    for instrument in instruments:
        assembly.events.add(instrument)
    return assembly.make(Parts)


@final
class Assembly(Generic[C]):
    """The parts of one pool while it is built, by the names that others have for them.

    A part names those that it needs by its fields, and `make` finds them here. So the order is
    that of the floors: connections, claims, pool.
    """

    def __init__(
        self,
        pool: str,
        resolver: Resolver,
        connector: Connector[C],
        policy: Policy,
        rng: random.Random,
    ) -> None:
        self.pool: str = pool
        self.resolver: Resolver = resolver
        self.rng: random.Random = rng
        self.settings: Settings = Settings(policy)
        self.events: Emitter = Emitter(pool)
        self.hooks: Hooks[C] = Hooks(connector)
        self.totals: Totals = Totals()
        self.targets: Targets = Targets()
        self.registry: Registry[C] = Registry()
        self.timers: TimerQueue = TimerQueue()
        self.readiness: Readiness = Readiness()
        self.requests: PlanRequests = PlanRequests()
        self.replan: Callable[[], None] = self.requests.request

    def make(self, kind: Callable[..., P]) -> P:
        """Make a part, of those that its fields name."""
        # By position: that takes a third of what it takes by name.
        return kind(*map(vars(self).__getitem__, needs(kind)))

    def add_index(self, balancer: Balancer) -> None:
        """Add what chooses the backend of a claim."""

        def now() -> float:
            return self.dispatcher.now()  # which is another as soon as the pool has started

        guarded: GuardedBalancer[SlotSet[C]] | None = guard(balancer, self.rng, now)
        self.observe = None if guarded is None else guarded.observe
        self.idle_index: IdleIndex[SlotSet[C]] = IdleIndex(self.rng, guarded)
        self.next_slot_id: Callable[[], int] = itertools.count(1).__next__
        self.shared: Shared[C] = self.make(Shared)
        self.shared.forget = self.registry.forget

    def add_connections(self) -> None:
        """Add what opens, checks and closes connections."""
        self.on_closed: Callable[[], None] = self._slot_closed
        self.open: OpenConnections = OpenConnections()
        self.hangs: HangDetector = HangDetector()
        self.warm_up: WarmUp = self.make(WarmUp)
        self.outcomes: Outcomes[C] = self.make(Outcomes)
        self.closer: Closer[C] = self.make(Closer)
        self.checker: Checker[C] = self.make(Checker)
        self.retirement: Retirement[C] = self.make(Retirement)
        self.watcher: IdleWatcher[C] = self.make(IdleWatcher)
        self.dialer: Dialer[C] = self.make(Dialer)
        self.maintenance: Maintenance[C] = self.make(Maintenance)
        self.ejections: Ejections[C] = self.make(Ejections)
        self.guarded_hooks: GuardedHooks[C] = self.make(GuardedHooks)
        self.verdicts: Verdicts[C] = self.make(Verdicts)

    def _slot_closed(self) -> None:
        """See what follows from the end of a slot: a plan, or the end of the pool."""
        if not self.requests.is_closed:
            self.requests.request()
        elif not (self.totals.slots and self.totals.claimed):
            self.readiness.changed()

    def add_claims(self) -> None:
        """Add what lends connections."""
        self.queue: WaitQueue[Slot[C]] = WaitQueue()
        self.snapshots: Snapshots[C] = self.make(Snapshots)
        self.diagnosis: Diagnosis[C] = self.make(Diagnosis)
        self.spares: Spares[C] = self.make(Spares)
        self.returns: Returns[C] = self.make(Returns)
        self.dispatcher: Dispatcher[C] = self.make(Dispatcher)

    def add_tasks(self) -> None:
        """Add the tasks of the pool, and what changes it while it runs."""
        self.leak_detector: LeakDetector[C] = self.make(LeakDetector)
        self.membership: Membership[C] = self.make(Membership)
        self.rebalancer: Rebalancer[C] = self.make(Rebalancer)
        self.lifecycle: Lifecycle[C] = self.make(Lifecycle)
        self.control: Control[C] = self.make(Control)
        self.on_lost: Callable[[BaseException | None], None] = self.lifecycle.lost
        self.lifecycle.slot_set_task = self.make(SlotSetTask)
        self.shared.begin = self.lifecycle.start_slot_set

    def hand_up(self) -> None:
        """Let the lower floors call the upper ones: by callables, for no room imports one above."""
        dispatcher, spares = self.dispatcher, self.spares

        def serve_from(slot_set: SlotSet[C]) -> None:
            dispatcher.serve(functools.partial(spares.take_of, slot_set))

        self.checker.on_ready = self.dialer.on_ready = dispatcher.offer
        self.outcomes.on_failing = self.membership.demote
        self.membership.count_wanted = self.rebalancer.count_wanted
        self.snapshots.known = self.membership.known
        self.outcomes.on_online = functools.partial(self.queue.note_outage, is_down=False)
        self.outcomes.on_offline = self.ejections.restore_stranded
        self.ejections.on_offer = functools.partial(dispatcher.serve, spares.take_offered)
        self.ejections.on_restored = serve_from
        self.returns.on_change = self.retirement.on_limit = dispatcher.update_flags
        self.events.on_change(dispatcher.update_flags)
        if self.watcher.is_needed:
            self.closer.on_close = self.watcher.forget


@functools.cache
def needs(kind: Any) -> tuple[str, ...]:
    """Return the names of the arguments from which an attrs class is made, in their order."""
    # Interned, because a dict compares other strings with its own letter by letter.
    return tuple([sys.intern(it.alias) for it in attrs.fields(kind) if it.init and it.alias])
