"""`Rebalancer`: the planner's task. It has plans made, and carries them out."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final, Generic, TypeVar, final

import attrs
import trio

from .._claims.wait_queue import WaitQueue
from .._connections.closer import Closer
from .._connections.dialer import Dialer
from .._connections.ejections import Ejections
from .._connections.maintenance import Maintenance
from .._events.emitter import Emitter
from .._model.backend import Backend
from .._model.settings import Settings
from .._phases import Phases, finish, into, slices
from .._planning.high_watermark import HighWatermark
from .._planning.make_plan import plan_in_phases
from .._planning.plan import Demand, Plan
from .._planning.recovery import Recovery
from .._planning.rotation import rotation_in_phases
from .._planning.selection import MIN_ACTIVE
from .._planning.targets import Targets
from .._slots.readiness import Readiness
from .._slots.registry import Registry
from .._slots.slot_set import SlotSet
from .._slots.totals import Totals
from .batch import Batch
from .membership import BATCH_SIZE, Membership
from .plan_requests import PlanRequests

C = TypeVar("C")
T = TypeVar("T")

#: Up to this number of active backends, a plan is made in one step, and as soon as it is
#: requested.
FEW_VIEWS: Final = 500

#: The size of a batch of slots in plans over more than that. Those whose dials fail, or that
#: belong to backends without a task, take twice as long as others.
SMALL_BATCH_SIZE: Final = 10

#: Seconds of rest for each backend of a plan over more than that. A plan takes some 10 µs for
#: each, so that planning takes at most 4 % of a core.
REST_PER_VIEW: Final = 2.5e-4

#: Seconds of rest that may be owed, so that a few plans can follow each other at once.
MAX_OWED: Final = 5.0

#: The dials of one backend that begin together. Each has a task meanwhile.
MAX_ORDER: Final = 64

#: The maximum of a back-off, in seconds, while nothing is online and a claimant waits.
MAX_DELAY_OFFLINE: Final = 1.0


@final
@attrs.define(eq=False, repr=False)
class Rebalancer(Generic[C]):
    """Plans whenever something has changed, and at each ``rebalance_interval``."""

    _settings: Settings
    _events: Emitter
    _totals: Totals
    _registry: Registry[C]
    _readiness: Readiness
    _queue: WaitQueue[Any]
    _targets: Targets
    _dialer: Dialer[C]
    _maintenance: Maintenance[C]
    _closer: Closer[C]
    _ejections: Ejections[C]
    _membership: Membership[C]
    _requests: PlanRequests
    #: When the next rebalance is due.
    _tick: float = attrs.field(init=False, default=math.inf)
    _watermark: HighWatermark = attrs.field(init=False, factory=HighWatermark)
    #: When all rest that is owed for plans would end, if it began at once.
    _rested_at: float = attrs.field(init=False, default=-math.inf)
    _recovery: Recovery = attrs.field(init=False, factory=Recovery)
    #: The slot sets that must close the next connection that is returned.
    _reclaimable: list[SlotSet[C]] = attrs.field(init=False, factory=list)
    #: True if the watermark knows of the rebalance that is under way.
    _is_retaining: bool = attrs.field(init=False, default=False)

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Plan until the pool ends."""
        self.restart_interval()
        self._requests.take()
        while not self._requests.is_closed:
            next_refresh = await self._rebalance()
            await self._requests.next(min(self._tick, next_refresh))
            if self._rested_at - MAX_OWED > trio.current_time():
                await self._requests.rest(self._rested_at - MAX_OWED)

    async def _rebalance(self) -> float:
        """Make a plan and carry it out, as the instruments see it. Return when to look again."""
        now = trio.current_time()
        is_due = now >= self._tick
        if is_due:
            self.restart_interval()
            self._drop_old_errors(now)
        if (emit := self._events.rebalance_start) is not None:
            emit()
        next_refresh = await self._plan(now, is_due=is_due)
        if (emit := self._events.rebalance_done) is not None:
            emit()
        return next_refresh

    def restart_interval(self) -> None:
        """Put the next rebalance off by the present ``rebalance_interval``.

        From now, so that a jump of the clock causes one rebalance.
        """
        self._tick = trio.current_time() + self._settings.policy.rebalance_interval

    def _drop_old_errors(self, now: float) -> None:
        """Drop the errors of backends that have recovered, though nobody asks for statistics."""
        for slot_set in self._registry.active.values():
            if slot_set.detector.last_error is not None:
                slot_set.detector.recent_failures(now)

    async def _plan(self, now: float, *, is_due: bool) -> float:
        """Make a plan and carry it out.

        Return when to look again, because a dial may hang or a trial is due.
        """
        await self._membership.choose_active(is_turn=is_due)
        views = [slot_set for slot_set in self._registry.active.values() if slot_set.is_active]
        await self._take(self._prepare(views, now), views)
        trial_at = self._ejections.review(now)
        is_turn = is_due and not self._membership.admit_newcomer()
        if is_due:
            self._targets.request_rebalance()
            self._is_retaining = False
        demand = self._collect_demand(views, now)
        plan = await self._make_plan(views, demand, rebalance=self._targets.is_rebalancing)
        self._watermark.record(plan.demand)
        if is_turn:
            plan = await self._rotate(views, demand, plan)
        await self._take(self._note_wanted(plan), views)
        self._publish(plan)
        await self._take(self._note_outage(views), views)
        await self._carry_out(plan)
        refresh_at = await self._take(self._next_refresh(views, now), views)
        if len(views) > FEW_VIEWS:
            now = trio.current_time()
            self._rested_at = max(self._rested_at, now) + len(views) * REST_PER_VIEW
        return min(trial_at, self._recovery.ends_at, refresh_at)

    async def _make_plan(
        self, views: list[SlotSet[C]], demand: Demand, *, rebalance: bool
    ) -> Plan[SlotSet[C]]:
        """Make a plan. Nothing else opens a slot meanwhile."""
        return await self._take(plan_in_phases(views, demand, rebalance=rebalance), views)

    async def _take(self, phases: Phases[T], views: list[SlotSet[C]]) -> T:
        """Return the result of a computation over the views.

        Over thousands of them, all other tasks have their turn after each phase.
        """
        if len(views) <= FEW_VIEWS:
            return finish(phases)
        results: list[T] = []
        for _ in into(results, phases):
            await trio.lowlevel.cancel_shielded_checkpoint()
        return results[0]

    def _prepare(self, views: list[SlotSet[C]], now: float) -> Phases[None]:
        """Bring up to date what a plan reads of the slot sets."""
        yield from self._membership.remember_holders(views)
        for part in slices(views):
            self._dialer.refresh_hung(part, now)
            yield
        yield from self._hurry_retries(views, now)
        yield from self._set_limits(views)

    def _next_refresh(self, views: list[SlotSet[C]], now: float) -> Phases[float]:
        """Return when a plan is due because a dial may hang."""
        refresh_at = math.inf
        for part in slices(views):
            refresh_at = min(refresh_at, self._dialer.next_refresh_at(part, now))
            yield
        return refresh_at

    def count_wanted(self) -> int:
        """Return how many connections the next plan will want, as far as the cap allows."""
        policy = self._settings.policy
        claims = self._totals.claimed + self._queue.waiting
        wanted = max(claims + policy.spares_wanted, self._readiness.minimum)
        return min(wanted, policy.max_slots)

    def _hurry_retries(self, views: list[SlotSet[C]], now: float) -> Phases[None]:
        """While nothing is online, retry soon for claimants, and where nothing has failed."""
        if _has_connected(views):
            return
        longest = max(MAX_DELAY_OFFLINE, self._settings.set_config.min_connection_backoff)
        for part in slices(views):
            for slot_set in part:
                detector = slot_set.detector
                is_urgent = self._queue.waiting or detector.is_ineligible
                if is_urgent and detector.cap_retry(now, longest):
                    slot_set.reschedule_back_off()
            yield

    def _set_limits(self, views: list[SlotSet[C]]) -> Phases[None]:
        """Count what a removed backend still holds against it when it has come back."""
        config = self._settings.set_config
        held: dict[Backend, int] = {}
        for slot_set in self._registry.draining:
            held[slot_set.backend] = held.get(slot_set.backend, 0) + len(slot_set.slots)
        for part in slices(views):
            for slot_set in part:
                taken = held.get(slot_set.backend, 0) if held else 0
                slot_set.limit = max(0, config.max_count - taken)
                slot_set.max_connecting = config.max_connecting
            yield

    def _collect_demand(self, views: list[SlotSet[C]], now: float) -> Demand:
        policy = self._settings.policy
        if self._targets.is_rebalancing and not self._is_retaining:
            self._is_retaining = True
            self._watermark.begin_rebalance()
        return Demand(
            max_slots=policy.max_slots,
            draining=sum([len(slot_set.slots) for slot_set in self._registry.draining]),
            waiting=self._queue.waiting,
            spares=self._recovery.limit(policy.spares_wanted, views, now),
            minimum=self._readiness.minimum,
            retained=self._watermark.retained if self._is_retaining else 0,
        )

    async def _rotate(
        self, views: list[SlotSet[C]], demand: Demand, plan: Plan[SlotSet[C]]
    ) -> Plan[SlotSet[C]]:
        """With more backends than slots, let one spare move to a backend that has none."""
        move = await self._take(rotation_in_phases(views, plan), views)
        if move is None:
            return plan
        donor, recipient = move
        late = self._membership.end_turn(donor)
        self._tick += late * self._settings.policy.rebalance_interval
        if recipient.rotation_key > donor.rotation_key:
            return plan
        return await self._make_plan(views, demand, rebalance=True)

    def _note_wanted(self, plan: Plan[SlotSet[C]]) -> Phases[None]:
        """Note in each slot set how many slots the plan wants there."""
        for part in slices(list(plan.wanted)):
            for slot_set in part:
                slot_set.wanted = plan.wanted[slot_set]
            yield

    def _publish(self, plan: Plan[SlotSet[C]]) -> None:
        """Let all others see what the plan says."""
        for slot_set in self._reclaimable:
            slot_set.is_reclaimable = False
        self._reclaimable = plan.reclaimable
        for slot_set in self._reclaimable:
            slot_set.is_reclaimable = True
        self._targets.publish(
            claims=self._totals.claimed + self._queue.waiting,
            # While nothing is online, the first claimant that waits hurries the retries.
            is_saturated=plan.is_saturated and bool(self._totals.connected or self._queue.waiting),
            size=plan.size,
            reclaim=bool(plan.reclaimable),
            has_backlog=plan.has_backlog,
            may_cover_more=plan.may_cover_more,
            failing=plan.failing,
        )
        if plan.is_settled:
            self._targets.end_rebalance()
            self._is_retaining = False

    def _note_outage(self, views: list[SlotSet[C]]) -> Phases[None]:
        """Tell the queue whether the service is down: nothing is connected, or likely to be.

        Where more backends are known than are active, those that fail stand for all. To wait
        until each of thousands has failed would take hours.
        """
        failing = 0
        for part in slices(views):
            if _has_connected(part):
                break
            failing += sum([view.is_failing for view in part])
            yield
        enough = MIN_ACTIVE if self._membership.known.has_inactive else len(views)
        is_down = failing >= enough and not _has_connected(views)
        self._queue.note_outage(is_down=is_down)

    async def _carry_out(self, plan: Plan[SlotSet[C]]) -> None:
        """Take the steps of a plan, many of them in batches.

        Meanwhile a slot may close and a backend leave or fail, but nothing else opens any
        slot, so that the caps hold all the while.
        """
        is_large = len(plan.wanted) > FEW_VIEWS
        batch = Batch(SMALL_BATCH_SIZE if is_large else BATCH_SIZE)
        for step in plan.aborts:
            await batch.add(step.count)
            if step.view.is_active:
                self._dialer.abort_youngest(step.view, step.count)
        for step in plan.closes:
            await batch.add(step.count)
            # In a pause of the planning, a claim may have taken one.
            if step.view.is_active:
                self._closer.close_idle(step.view, min(step.count, step.view.idle))
        for step in plan.opens:
            # In a large plan one on each backend first. If it fails, the others are spared.
            await self._open(step.view, 1 if is_large else step.count, batch)
        for step in plan.opens if is_large else ():
            if step.count > 1 and not step.view.is_failing:
                await self._open(step.view, step.count - 1, batch)

    async def _open(self, slot_set: SlotSet[C], most: int, batch: Batch) -> None:
        """Open slots on a backend, unless it leaves or fails meanwhile."""
        is_failing = slot_set.is_failing
        for done in range(0, most, MAX_ORDER):
            count = min(most - done, MAX_ORDER)
            await batch.add(count)
            if not slot_set.is_active or (slot_set.is_failing and not is_failing):
                return  # the next plan is for how things stand now
            slot_set.order_dials(count)
            self._maintenance.begin_dials(slot_set)


def _has_connected(slot_sets: Iterable[SlotSet[Any]]) -> bool:
    """Return True if one of some backends has a connection."""
    for slot_set in slot_sets:  # noqa: SIM110 - three times as fast as `any`
        if slot_set.connected:
            return True
    return False
