"""The task that has plans made and carries them out."""

from __future__ import annotations

from typing import Generic, TypeVar, final

import trio

from .._claims.dispatcher import SLICE, Core
from .._model.backend import Backend
from .._planning.planner import GUEST, Demand, Plan, make_plan, next_turn
from .._slots.slot_set import SlotSet

C = TypeVar("C")


@final
class Rebalancer(Generic[C]):
    """Plans whenever something has changed, and at each ``rebalance_interval``.

    To put shares right may take several plans, since a working connection is closed
    only when its replacement works: `Core.rebalance_due` stays set until then.
    """

    def __init__(self, core: Core[C]) -> None:
        self._core = core
        self._floor = 0

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        core = self._core
        interval = core.policy.rebalance_interval
        tick = trio.current_time() + interval
        look_again = float("inf")
        while True:
            with trio.move_on_at(min(tick, look_again)):
                await core.planner_wakes.receive()
            if core.closing:
                return
            core.plan_begins()
            now = trio.current_time()
            due = now >= tick
            if due:
                tick = now + interval
                core.rebalance_due = True
                self._floor = 0
            core.fire("rebalance_start")
            look_again = await self._plan(now, turn=due)
            core.fire("rebalance_done")

    async def _plan(self, now: float, *, turn: bool) -> float:
        """Plan and act; return when to look again at dials that may hang."""
        core = self._core
        views = [home for home in core.sets.values() if home.active]
        for home in views:
            if home.dials or home.hung:
                home.look(now)
            if turn and home.rank == GUEST:
                home.rank = core.next_rank()
        self._set_limits(views)
        demand = self._demand(views)
        plan = make_plan(views, demand, rebalance=core.rebalance_due)
        if turn:
            plan = self._take_turns(views, demand, plan)
        claims = core.claimed + core.line.waiting
        core.covered = float("inf") if plan.saturated else claims
        core.enough = plan.target
        if plan.settled:
            core.rebalance_due = False
            self._floor = 0
        await self._carry_out(views, plan)
        dialled = [home.look_again_at(now) for home in views if home.dials]
        return min(dialled, default=float("inf"))

    def _take_turns(self, views: list[SlotSet[C]], demand: Demand, plan: Plan) -> Plan:
        """With more backends than slots, let one spare move to one that has none."""
        move = next_turn(views, plan)
        if move is None:
            return plan
        donor, taker = move
        views[donor].rank = self._core.next_rank()
        turned = make_plan(views, demand, rebalance=True)
        if turned.wanted == plan.wanted:  # it is the weights that decide, not the ranks
            views[taker].rank = GUEST
            turned = make_plan(views, demand, rebalance=True)
        return turned

    def _set_limits(self, views: list[SlotSet[C]]) -> None:
        """What a departed backend still holds counts against it when it comes back."""
        most = self._core.policy.set_config.max_count
        held: dict[Backend, int] = {}
        for home in self._core.departed:
            held[home.backend] = held.get(home.backend, 0) + len(home.slots)
        for home in views:
            home.limit = max(0, most - held.get(home.backend, 0)) if held else most

    def _demand(self, views: list[SlotSet[C]]) -> Demand:
        core = self._core
        claims = sum(home.claimed for home in views) + core.line.waiting
        spares = core.policy.spares_wanted
        if core.rebalance_due and not self._floor:
            # What is needed as a rebalance begins is not given up while it goes on, or
            # surplus would be closed in step with the claims that end meanwhile.
            self._floor = max(claims + spares, *core.ready_wanted, 0)
        return Demand(
            max_slots=core.policy.max_slots,
            departed=core.slots - sum(len(home.slots) for home in views),
            waiting=core.line.waiting,
            spares=spares,
            at_least=max(self._floor, *core.ready_wanted, 0),
        )

    async def _carry_out(self, views: list[SlotSet[C]], plan: Plan) -> None:
        """Take the steps of a plan, many of them in slices.

        Meanwhile a slot may close and a backend leave or fail, but nobody else opens
        any, so that the caps hold all the while.
        """
        for home, wanted in zip(views, plan.wanted, strict=True):
            home.wanted = wanted
            home.gives_way = False
        for i in plan.donors:
            views[i].gives_way = True
        self._core.lacks_spare = bool(plan.donors)
        for i, count in plan.aborts:
            views[i].abort_dials(count)
        for i, count in plan.closes:
            views[i].close_spares(count)
        done = 0
        for i, count in plan.opens:
            home = views[i]
            failing = home.failing
            for _ in range(count):
                if done and done % SLICE == 0:
                    await trio.lowlevel.cancel_shielded_checkpoint()
                if not home.active or (home.failing and not failing):
                    break  # the next plan is for how things stand now
                home.open()
                done += 1
