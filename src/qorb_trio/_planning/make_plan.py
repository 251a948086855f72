"""`make_plan`: the number of slots that each backend should have, and the steps to it."""

from __future__ import annotations

from collections.abc import Sequence

from .._phases import Phases, finish
from .closing import Closing
from .comparison import Comparison, compare
from .dialling import plan_aborts, plan_opens
from .division import Division, divide, divide_retained
from .plan import Demand, Plan, Step, V
from .situation import Situation, survey


def make_plan(views: Sequence[V], demand: Demand, *, rebalance: bool = False) -> Plan[V]:
    """Decide how many slots each backend should have, and what can be done about it now.

    Without `rebalance`, the plan closes only connections that are due for replacement or
    over a lowered cap, and one spare at a time that makes room for a probe. With it, the
    plan also closes surplus, as far as others have taken its place.

    The function is pure. It knows neither time nor tasks.
    """
    return finish(plan_in_phases(views, demand, rebalance=rebalance))


def plan_in_phases(
    views: Sequence[V], demand: Demand, *, rebalance: bool = False
) -> Phases[Plan[V]]:
    """Make a plan as `make_plan` does, with pauses, for thousands of views.

    What happens to a view in a pause may be part of the plan or not. Nothing may be opened
    in a pause: then the caps hold, because slots are counted first.
    """
    situation = yield from survey(views, demand)
    division = yield from divide(situation)
    retained = yield from divide_retained(situation, division)
    gaps = yield from compare(situation, division)
    opens = yield from plan_opens(situation, gaps)
    aborts = yield from plan_aborts(situation, gaps)
    closing = Closing(situation, division, retained, gaps)
    yield from closing.close_surplus(sum([step.count for step in aborts]), rebalance=rebalance)
    if not aborts and all(step.view in situation.failing for step in opens):
        yield
        closing.make_room(rebalance=rebalance)
    closing.reclaim_over_limits()
    closes = closing.steps()
    yield
    is_settled = not closes and _is_settled(situation, retained, gaps)
    yield
    return Plan(
        wanted=gaps.wanted,
        opens=opens,
        aborts=aborts,
        closes=closes,
        reclaimable=closing.reclaimable,
        demand=situation.demand,
        size=division.size,
        is_saturated=_is_saturated(situation, division),
        may_cover_more=gaps.may_cover_more,
        is_settled=is_settled,
        failing=len(situation.failing),
        has_backlog=gaps.has_backlog or _is_yielding(situation, division, gaps, opens),
    )


def _is_yielding(
    situation: Situation[V], division: Division[V], gaps: Comparison[V], opens: list[Step[V]]
) -> bool:
    """Return True if ejected backends have more connections to give, which they do one by one."""
    if not any(view.connected > division.quotas[view] for view in situation.ejected):
        return False
    opened = sum([step.count for step in opens])
    return sum([n for view, n in gaps.lacks.items() if view not in situation.failing]) > opened


def _is_saturated(situation: Situation[V], division: Division[V]) -> bool:
    """Return True if more demand would change nothing."""
    if situation.may_yield_more:
        return False
    room = situation.usable_room - bool(division.probes)
    return division.is_saturated or situation.usable_demand >= room


def _is_settled(situation: Situation[V], retained: Division[V], gaps: Comparison[V]) -> bool:
    """Return True if the rest of the surplus, if any, is in use, and nothing is moving."""
    # The last connection never moves, so the rebalance does not wait for it to move.
    is_stuck = situation.connected == 1 and situation.free == 0 and not situation.closing
    if not is_stuck and any(view not in situation.failing for view in gaps.lacks):
        return False
    if situation.has_sound_dials():
        return False
    lasting = situation.connected - situation.retiring
    if lasting <= retained.size:
        return True
    # A connection that is being checked may turn out to be a spare that is surplus.
    return not any(
        view.connected > view.idle + view.claimed
        for view in gaps.surplus
        if situation.lasting(view) > retained.quotas[view]
    )
