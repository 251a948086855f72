"""`build`: makes the parts of a pool, and connects them. It holds nothing."""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Iterable
from typing import Generic, TypeVar, final

import attrs

from .._balancing.guarded_balancer import guard
from .._balancing.idle_index import IdleIndex
from .._balancing.strategy import Balancer
from .._claims.diagnosis import Diagnosis
from .._claims.dispatcher import Dispatcher
from .._claims.snapshot import Snapshots
from .._claims.wait_queue import WaitQueue
from .._connections.checker import Checker
from .._connections.closer import Closer
from .._connections.dialer import Dialer
from .._connections.ejections import Ejections
from .._connections.hooks import Hooks
from .._connections.idle_watcher import IdleWatcher
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
from .._slots.slot import Slot
from .._slots.slot_set import Shared, SlotSet
from .._slots.totals import Totals
from ..abc import Connector, Instrument, Resolver
from .control import Control
from .leak_detector import LeakDetector
from .lifecycle import Lifecycle
from .membership import Membership
from .plan_requests import PlanRequests
from .rebalancer import Rebalancer

C = TypeVar("C")


@final
@attrs.frozen(kw_only=True, eq=False)
class Parts(Generic[C]):
    """The parts of a pool that `Pool` calls."""

    name: str
    settings: Settings
    events: Emitter
    totals: Totals
    registry: Registry[C]
    readiness: Readiness
    dispatcher: Dispatcher[C]
    snapshots: Snapshots[C]
    requests: PlanRequests
    lifecycle: Lifecycle[C]
    control: Control[C]

    @property
    def usable(self) -> int:
        """The number of slots that are connected to backends which have not left."""
        draining = sum([slot_set.connected for slot_set in self.registry.draining])
        return self.totals.connected - draining


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
    settings, events, hooks = Settings(policy), Emitter(name), Hooks(connector)
    totals, targets, requests = Totals(), Targets(), PlanRequests()
    registry: Registry[C] = Registry()
    readiness, open_connections = Readiness(), OpenConnections()

    def now() -> float:
        return dispatcher.now()  # which is another function as soon as the pool has started

    guarded = guard(balancer, rng, now)
    idle_index: IdleIndex[SlotSet[C]] = IdleIndex(rng, guarded)
    queue: WaitQueue[Slot[C]] = WaitQueue()
    shared: Shared[C] = Shared(totals, idle_index, events, itertools.count(1).__next__)
    replan = requests.request

    def slot_closed() -> None:
        if not requests.is_closed:
            requests.request()
        elif not (totals.slots and totals.claimed):
            readiness.changed()

    outcomes: Outcomes[C] = Outcomes(pool=name, events=events, registry=registry, replan=replan)
    closer = Closer(
        settings=settings,
        hooks=hooks,
        outcomes=outcomes,
        open=open_connections,
        on_closed=slot_closed,
    )
    checker = Checker(
        settings=settings,
        events=events,
        hooks=hooks,
        outcomes=outcomes,
        closer=closer,
        totals=totals,
        targets=targets,
        replan=replan,
        rng=rng,
    )
    hangs = HangDetector()
    retirement = Retirement(
        settings=settings, events=events, closer=closer, hangs=hangs, rng=rng, replan=replan
    )
    watcher = IdleWatcher(hooks=hooks, outcomes=outcomes, closer=closer)
    warm_up = WarmUp(settings)
    dialer = Dialer(
        settings=settings,
        events=events,
        hooks=hooks,
        outcomes=outcomes,
        checker=checker,
        closer=closer,
        warm_up=warm_up,
        watcher=watcher,
        retirement=retirement,
        hangs=hangs,
        open=open_connections,
        totals=totals,
        targets=targets,
        readiness=readiness,
        replan=replan,
    )
    ejections = Ejections(
        pool=name,
        settings=settings,
        events=events,
        hooks=hooks,
        registry=registry,
        idle_index=idle_index,
        checker=checker,
        closer=closer,
        rng=rng,
        replan=replan,
    )
    verdicts = Verdicts(hooks=hooks, outcomes=outcomes, closer=closer, ejections=ejections)
    snapshots = Snapshots(pool=name, registry=registry, totals=totals, queue=queue)
    diagnosis = Diagnosis(settings=settings, totals=totals, registry=registry, snapshots=snapshots)
    dispatcher = Dispatcher(
        pool=name,
        settings=settings,
        events=events,
        hooks=hooks,
        totals=totals,
        registry=registry,
        idle_index=idle_index,
        observer=guarded if guarded is not None and guarded.observes else None,
        queue=queue,
        targets=targets,
        outcomes=outcomes,
        checker=checker,
        closer=closer,
        ejections=ejections,
        verdicts=verdicts,
        diagnosis=diagnosis,
        retirement=retirement,
        replan=replan,
    )
    leak_detector: LeakDetector[C] = LeakDetector(pool=name, settings=settings, registry=registry)
    membership = Membership(
        pool=name,
        settings=settings,
        events=events,
        rng=rng,
        shared=shared,
        registry=registry,
        closer=closer,
        ejections=ejections,
        targets=targets,
        requests=requests,
    )
    rebalancer = Rebalancer(
        settings=settings,
        events=events,
        totals=totals,
        registry=registry,
        readiness=readiness,
        queue=queue,
        targets=targets,
        dialer=dialer,
        closer=closer,
        ejections=ejections,
        membership=membership,
        requests=requests,
    )
    lifecycle = Lifecycle(
        pool=name,
        resolver=resolver,
        settings=settings,
        events=events,
        totals=totals,
        registry=registry,
        readiness=readiness,
        dispatcher=dispatcher,
        snapshots=snapshots,
        closer=closer,
        ejections=ejections,
        membership=membership,
        rebalancer=rebalancer,
        requests=requests,
        watcher=watcher,
        retirement=retirement,
        leak_detector=leak_detector,
    )
    control = Control(
        settings=settings,
        registry=registry,
        retirement=retirement,
        ejections=ejections,
        dispatcher=dispatcher,
        rebalancer=rebalancer,
        leak_detector=leak_detector,
        requests=requests,
    )
    # Upwards, as callables: no room imports one above it.
    checker.on_ready = dialer.on_ready = dispatcher.offer
    outcomes.on_failing = membership.demote
    outcomes.on_online = functools.partial(queue.note_outage, is_down=False)
    outcomes.on_offline = ejections.restore_stranded
    ejections.on_offer = dispatcher.lend_offered
    ejections.on_restored = dispatcher.lend_idle
    snapshots.known = membership.known
    membership.count_wanted = rebalancer.count_wanted
    if watcher.is_needed:
        closer.on_close = watcher.forget
    lifecycle.slot_set_task = SlotSetTask(
        dialer=dialer,
        checker=checker,
        closer=closer,
        warm_up=warm_up,
        registry=registry,
        on_lost=lifecycle.lost,
    )
    for instrument in instruments:
        events.add(instrument)
    return Parts(
        name=name,
        settings=settings,
        events=events,
        totals=totals,
        registry=registry,
        readiness=readiness,
        dispatcher=dispatcher,
        snapshots=snapshots,
        requests=requests,
        lifecycle=lifecycle,
        control=control,
    )
