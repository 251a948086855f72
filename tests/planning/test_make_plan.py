"""The planner: what must hold of each single plan, whatever the situation."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import TypeAlias

import attrs
import pytest
from hypothesis import assume, example, given, strategies as st

from qorb_trio._planning.make_plan import make_plan
from qorb_trio._planning.plan import Demand, Plan

from .situations import (
    WEIGHTS,
    View,
    crowds,
    demand_of,
    ordered,
    places,
    room_of,
    situations,
    total,
    used_by,
)

Situation: TypeAlias = tuple[list[View], Demand]


def best_tiers(views: Sequence[View]) -> list[View]:
    """Return the views of all priorities down to the first that works at all."""
    chosen: list[View] = []
    usable = [view for view in views if not view.is_ejected]
    for priority in sorted({view.priority for view in usable}):
        tier = [view for view in usable if view.priority == priority]
        chosen += tier
        if any(view.connected or not view.is_failing for view in tier):
            break
    return chosen


def described(plan: Plan[View]) -> dict[str, object]:
    """Return the fields of a plan in a form that can be compared."""
    return attrs.asdict(plan, recurse=False)


# ---------------------------------------------------------------------- every plan


@given(situation=situations(overfull=True), rebalance=st.booleans())
def test_no_dial_exceeds_a_cap(situation: Situation, rebalance: bool) -> None:
    """No dial exceeds the cap of the pool, or the limits of a backend."""
    views, demand = situation
    plan = make_plan(views, demand, rebalance=rebalance)
    if plan.opens:
        assert used_by(views) + total(plan.opens) <= demand.max_slots - demand.draining
    for step in plan.opens:
        view = step.view
        assert view.slots + step.count <= view.limit
        assert view.connecting + step.count <= view.max_connecting


@given(situation=situations(overfull=True), rebalance=st.booleans())
def test_steps_can_be_taken(situation: Situation, rebalance: bool) -> None:
    """Each step is one that its view can take, and none undoes another, unless a plan goes from
    one replacement of a due connection to the next."""
    views, demand = situation
    plan = make_plan(views, demand, rebalance=rebalance)
    for steps in (plan.opens, plan.aborts, plan.closes):
        assert len({step.view for step in steps}) == len(steps)
        assert all(step.count > 0 for step in steps)
    opened = {step.view for step in plan.opens}
    assert not opened & {step.view for step in plan.aborts}
    for step in plan.closes:
        assert step.count <= step.view.idle
        assert step.view not in opened or step.count <= step.view.retiring_idle
    for step in plan.aborts:
        assert step.count <= step.view.connecting
        is_over_cap = used_by(views) > demand.max_slots - demand.draining
        assert not step.view.is_sound or is_over_cap


@given(situation=situations(overfull=True), rebalance=st.booleans())
def test_the_wanted_slots_fit(situation: Situation, rebalance: bool) -> None:
    """The wanted slots fit the limits and the cap, and are no more than is asked for."""
    views, demand = situation
    plan = make_plan(views, demand, rebalance=rebalance)
    assert list(plan.wanted) == views
    assert sum(plan.wanted.values()) <= room_of(demand)
    for view, wanted in plan.wanted.items():
        assert 0 <= wanted <= view.limit
        if not view.is_sound:
            assert wanted <= view.connected + view.may_grow
    sound = sum(wanted for view, wanted in plan.wanted.items() if view.is_sound)
    assert sound <= demand_of(views, demand)


@given(situation=situations(), rebalance=st.booleans())
def test_dials_are_for_what_is_wanted(situation: Situation, rebalance: bool) -> None:
    """No dial is started beyond what is wanted, and none given up that is wanted."""
    views, demand = situation
    plan = make_plan(views, demand, rebalance=rebalance)
    for step in plan.opens:
        view = step.view
        lasting = view.connected - view.retiring * view.is_sound
        assert lasting + view.connecting + step.count <= plan.wanted[view]
    for step in plan.aborts:
        view = step.view
        assert view.connected + view.connecting - step.count >= plan.wanted[view]


@given(situation=situations(), rebalance=st.booleans())
def test_views_are_only_looked_at(situation: Situation, rebalance: bool) -> None:
    """The planner changes nothing, and says the same when asked the same."""
    views, demand = situation
    before = [attrs.asdict(view) for view in views]
    plan = make_plan(views, demand, rebalance=rebalance)
    assert [attrs.asdict(view) for view in views] == before
    assert described(make_plan(views, demand, rebalance=rebalance)) == described(plan)


@given(
    situation=situations(overfull=True) | crowds(),
    rng=st.randoms(use_true_random=True),
    rebalance=st.booleans(),
)
def test_the_order_of_the_views_does_not_matter(
    situation: Situation, rng: random.Random, rebalance: bool
) -> None:
    """Keys and the order of probes decide, not the order in which the resolver names backends."""
    views, demand = situation
    plan = make_plan(views, demand, rebalance=rebalance)
    other = make_plan(rng.sample(views, len(views)), demand, rebalance=rebalance)
    assert plan.wanted == other.wanted
    assert set(plan.reclaimable) == set(other.reclaimable)
    for steps, permuted in [
        (plan.opens, other.opens),
        (plan.aborts, other.aborts),
        (plan.closes, other.closes),
    ]:
        counts = {step.view: step.count for step in permuted}
        assert {step.view: step.count for step in steps} == counts


# ------------------------------------------------------------------------ small cases


def test_a_standby_is_used_if_no_primary_works() -> None:
    """A backend of the next priority gets the slots while all of the better one fail, and none
    as soon as one of those is online."""
    views = ordered([View(is_failing=True), View(is_failing=True, connecting=1), View(priority=1)])
    demand = Demand(max_slots=8, spares=4)
    plan = make_plan(views, demand)
    assert list(plan.wanted.values()) == [1, 1, 4]
    assert places(views, plan.opens) == [(0, 1), (2, 4)]
    views[0].idle = 1
    assert make_plan(views, demand).wanted[views[2]] == 0


def test_dials_share_the_free_slots() -> None:
    """The free slots go to those that have least, and what one gets is gone for the others."""
    views = ordered([View(claimed=10), View(idle=1), View(), View()])
    plan = make_plan(views, Demand(max_slots=16, spares=6))
    assert places(views, plan.opens) == [(2, 4), (3, 1)]


def test_a_rebalance_closes_standbys_first() -> None:
    """Of two backends with surplus, the one of the worse priority gives its connections."""
    views = ordered([View(idle=5), View(idle=2, priority=1)])
    plan = make_plan(views, Demand(max_slots=16, spares=2, retained=5), rebalance=True)
    assert places(views, plan.closes) == [(1, 2)]


def test_demand_that_a_primary_cannot_take_retains_no_standby() -> None:
    """Connections of a worse priority are surplus, even if the demand was beyond the better one."""
    views = ordered([View(idle=2, limit=2), View(idle=2, limit=2, priority=1)])
    demand = Demand(max_slots=64, spares=20, retained=20)
    plan = make_plan(views, demand, rebalance=True)
    assert (places(views, plan.closes), plan.is_settled) == ([(1, 2)], False)
    views[1].idle, views[1].claimed = 1, 1
    plan = make_plan(views, demand, rebalance=True)
    assert places(views, plan.closes) == [(1, 1)]
    views[1].idle = 0
    assert make_plan(views, demand, rebalance=True).is_settled


def test_claimants_do_not_wait_for_dials_that_are_put_off() -> None:
    """Another backend is dialled for a parked claimant when `max_connecting` allows no more."""
    views = ordered(
        [
            View(connecting=1, max_connecting=1, effective_weight=5),
            View(claimed=1, max_connecting=1, effective_weight=2),
        ]
    )
    plan = make_plan(views, Demand(max_slots=8, waiting=2))
    assert places(views, plan.opens) == [(1, 1)]
    assert make_plan(views, Demand(max_slots=8, waiting=1)).opens == []
    views[1].limit = 1
    assert make_plan(views, Demand(max_slots=8, waiting=2)).opens == []


def test_a_plan_says_if_the_next_claimant_calls_for_another() -> None:
    """It does while there is a free slot and a backend that can use it."""
    views = ordered([View(connecting=1, max_connecting=1, effective_weight=5), View(claimed=1)])
    told = []
    for waiting in range(9):
        plan = make_plan(views, Demand(max_slots=8, spares=8, waiting=waiting))
        opened = sum(step.count for step in plan.opens)
        assert plan.may_cover_more is (opened < 6)
        told.append(plan.may_cover_more)
    assert told == sorted(told, reverse=True)
    assert set(told) == {True, False}
    views[1].limit = 1
    assert not make_plan(views, Demand(max_slots=8, spares=8, waiting=1)).may_cover_more


def test_claimants_do_not_wait_for_a_check_at_a_failing_backend() -> None:
    """A connection that is checked at a failing backend covers no parked claimant."""
    failing = View(claimed=1, checking=1, is_failing=True, is_half_open=True)
    views = ordered([failing, View(claimed=2)])
    plan = make_plan(views, Demand(max_slots=16, waiting=1))
    assert places(views, plan.opens) == [(1, 1)]
    views[1].connecting = 1
    assert make_plan(views, Demand(max_slots=16, waiting=1)).opens == []
    views[1].connecting, views[1].priority = 0, 1
    plan = make_plan(views, Demand(max_slots=16, waiting=1))
    assert plan.opens == [], "a worse priority stays unused while a better one is online"


# ---------------------------------------------------- due connections, ejected backends


def test_due_connections_of_one_backend_do_not_go_for_the_surplus_of_another() -> None:
    """A backend's due connections are closed only if they are beyond its own quota."""
    views = ordered([View(idle=3, retiring_idle=3), View(idle=4)])
    plan = make_plan(views, Demand(max_slots=16, spares=4))
    assert places(views, plan.closes) == [(0, 1)]


def test_due_connections_stay_while_another_backend_is_dialled() -> None:
    """A due connection beyond its quota stays if there would be too few altogether."""
    views = ordered([View(idle=4, retiring_idle=4), View(connecting=2)])
    plan = make_plan(views, Demand(max_slots=16, spares=4))
    assert plan.closes == []
    views[1].connecting, views[1].idle = 0, 2
    plan = make_plan(views, Demand(max_slots=16, spares=4))
    assert places(views, plan.closes) == [(0, 2)]


def test_a_replacement_counts_towards_max_connecting() -> None:
    """No replacement is dialled while the dials for growth use up the limit."""
    view = View(idle=2, retiring_idle=1, connecting=2, max_connecting=2)
    assert make_plan([view], Demand(max_slots=16, spares=4)).opens == []
    view.max_connecting = 3
    assert total(make_plan([view], Demand(max_slots=16, spares=4)).opens) == 1


@pytest.mark.parametrize(
    ("view", "closes"),
    [
        (View(idle=4, retiring_idle=4, limit=4), 1),
        (View(idle=3, claimed=1, retiring_claimed=1, limit=4), 0),
        (View(idle=3, closing=1, retiring_idle=1, limit=4), 0),
    ],
    ids=["idle", "claimed", "closing"],
)
def test_a_replacement_counts_towards_the_limit(view: View, closes: int) -> None:
    """At its limit, a backend is not dialled for a replacement; one due spare gives way."""
    plan = make_plan([view], Demand(max_slots=16, spares=4))
    assert (total(plan.opens), total(plan.closes)) == (0, closes)


def test_a_replacement_of_a_due_claim_is_no_surplus() -> None:
    """A rebalance keeps the spare that replaces a due connection which is still claimed."""
    view = View(idle=4, claimed=1, retiring_claimed=1)
    plan = make_plan([view], Demand(max_slots=16, spares=3), rebalance=True)
    assert (plan.opens, plan.closes, plan.is_settled) == ([], [], True)


def test_a_replacement_of_a_due_claim_gives_no_way() -> None:
    """In a full pool, a spare that replaces a due claim does not make room for a probe."""
    views = ordered([View(idle=1, claimed=1, retiring_claimed=1), View(is_failing=True)])
    plan = make_plan(views, Demand(max_slots=2, waiting=0, spares=0))
    assert (plan.closes, plan.reclaimable) == ([], [])


def test_due_connections_of_a_failing_backend_count() -> None:
    """A rebalance counts them as existing ones, because they cannot be replaced."""
    views = ordered([View(idle=6), View(idle=2, retiring_idle=2, is_failing=True)])
    plan = make_plan(views, Demand(max_slots=16, spares=4), rebalance=True)
    assert places(views, plan.closes) == [(0, 4)]


def test_closed_due_connections_of_a_failing_backend_are_counted() -> None:
    """A rebalance leaves as many connections as are wanted, due ones of failing backends too."""
    primary = View(idle=2, connecting=4)
    failing = View(idle=3, retiring_idle=3, is_failing=True, priority=1)
    due = View(idle=1, retiring_idle=1, priority=1)
    views = ordered([primary, failing, due, View(idle=4, priority=1)])
    plan = make_plan(views, Demand(max_slots=18, spares=6), rebalance=True)
    assert total(plan.closes) == 4


def test_a_full_pool_leaves_an_ejected_backend_alone() -> None:
    """With 4 backends, 4 connections each and a cap of 16, an ejection changes nothing, not
    even in a rebalance."""
    views = ordered([View(idle=4, is_ejected=True), *(View(idle=4) for _ in range(3))])
    plan = make_plan(views, Demand(max_slots=16, spares=16), rebalance=True)
    assert list(plan.wanted.values()) == [4, 4, 4, 4]
    assert (plan.opens, plan.aborts, plan.closes, plan.reclaimable) == ([], [], [], [])
    assert plan.is_settled
    assert plan.size == 16


def test_claims_that_need_the_room_of_an_ejected_backend_are_told() -> None:
    """A plan that gives up some room of an ejected backend is not saturated before half of it
    is given up."""
    views = ordered([View(), View(idle=8, is_ejected=True)])
    for waiting, wanted, is_saturated in [(0, 1, False), (3, 3, False), (4, 4, True), (9, 4, True)]:
        plan = make_plan(views, Demand(max_slots=8, spares=4, waiting=waiting))
        assert plan.wanted[views[0]] == wanted
        assert plan.is_saturated is is_saturated


# ------------------------------------------------------------------ demand that changes


@given(situation=situations(), more=st.integers(1, 8))
def test_more_demand_takes_from_no_backend(situation: Situation, more: int) -> None:
    """With more claimants, no sound backend has fewer wanted slots."""
    views, demand = situation
    few = make_plan(views, demand).wanted
    many = make_plan(views, attrs.evolve(demand, waiting=demand.waiting + more)).wanted
    for view in views:
        assert not view.is_sound or few[view] <= many[view]


@given(situation=situations(), more=st.integers(1, 8))
@example(situation=([View(is_failing=True, limit=3)], Demand(max_slots=1)), more=1)
def test_saturated(situation: Situation, more: int) -> None:
    """More demand changes no step of a plan that says so."""
    views, demand = situation
    plan = make_plan(views, demand)
    assume(plan.is_saturated)
    pressed = make_plan(views, attrs.evolve(demand, waiting=demand.waiting + more))
    # The demand decides if surplus connections under check are still awaited. So it changes
    # the number of connections that are enough, and the number of due ones that are surplus.
    assert total(pressed.closes) <= total(plan.closes)
    assume(not any(view.retiring_idle for view in views))
    for name in ("wanted", "opens", "aborts", "closes", "reclaimable", "is_saturated"):
        assert getattr(pressed, name) == getattr(plan, name)


@given(situation=situations())
def test_demand_that_is_met_is_told(situation: Situation) -> None:
    """A plan that gives sound backends all that is asked for, with room to spare, says
    that more demand would change something."""
    views, demand = situation
    for view in views:
        view.is_failing = view.is_hung = view.is_half_open = view.is_ejected = False
    plan = make_plan(views, demand)
    wanted = sum(plan.wanted.values())
    met = wanted == demand_of(views, demand) < room_of(demand)
    assert plan.is_saturated is not met


@given(situation=situations())
def test_a_plan_tells_the_demand(situation: Situation) -> None:
    """A plan tells the demand before any cap, which the high watermark is made of."""
    views, demand = situation
    assert make_plan(views, demand).demand == demand_of(views, demand)


# -------------------------------------------------------------------- failing backends


@given(situation=situations(overfull=True), rebalance=st.booleans())
def test_probes_take_at_most_half_of_the_cap(situation: Situation, rebalance: bool) -> None:
    """While anything is online, dials at failing backends never exceed half of the cap, or
    one; and dials beyond that are given up."""
    views, demand = situation
    assume(any(view.connected for view in views))
    plan = make_plan(views, demand, rebalance=rebalance)
    most = max(1, demand.max_slots // 2)
    failing = [view for view in views if not view.is_sound]
    under_way = sum(view.connecting + view.closing for view in failing)
    opened = sum(step.count for step in plan.opens if not step.view.is_sound)
    assert not opened or under_way + opened <= most
    dialling = sum(view.connecting for view in failing)
    aborted = sum(step.count for step in plan.aborts if not step.view.is_sound)
    closing = sum(view.closing for view in views)
    useful = sum(
        min(view.connecting, max(0, plan.wanted[view] - view.connected)) for view in failing
    )
    assert dialling - aborted <= max(most, useful) + closing
    assert useful <= most


@given(
    situation=situations(least=1),
    dead=st.lists(st.tuples(st.integers(0, 3), WEIGHTS), min_size=1, max_size=6),
)
def test_the_dead_take_one_slot_from_the_living(
    situation: Situation, dead: list[tuple[int, float]]
) -> None:
    """Any number of added dead backends takes at most one wanted slot from the others, and
    only in a full pool."""
    views, demand = situation
    usable = [view for view in views if not view.is_ejected]
    assume(usable)
    best = min(view.priority for view in usable)
    assume(best_tiers(views)[-1].priority == best)
    alone = make_plan(views, demand).wanted
    graves = [
        View(
            is_failing=True,
            connecting=dials,
            effective_weight=weight,
            probe_order=(i, 1),
            rotation_key=100 + i,
            priority=best,
        )
        for i, (dials, weight) in enumerate(dead)
    ]
    among = make_plan(views + graves, demand).wanted
    lost = {view: alone[view] - among[view] for view in usable}
    is_full = sum(alone[view] for view in usable) == room_of(demand) - sum(
        alone[view] for view in views if view.is_ejected
    )
    assert sum(loss for view, loss in lost.items() if view.is_sound) <= is_full
    assert all(loss >= 0 for view, loss in lost.items() if view.is_sound)


@given(situation=situations(least=1))
def test_the_living_are_wanted(situation: Situation) -> None:
    """With demand and room for all sound backends of the best priority, each is wanted."""
    views, demand = situation
    assume(not any(view.is_ejected for view in views))
    tiers = best_tiers(views)
    sound = [view for view in tiers if view.is_sound and view.limit > view.closing]
    needed = len(tiers) + sum(min(view.limit, view.connected) for view in tiers if view.is_failing)
    assume(sound and demand_of(views, demand) >= needed and room_of(demand) > needed)
    wanted = make_plan(views, demand).wanted
    assert all(wanted[view] >= 1 for view in sound)


@given(situation=situations(least=1))
def test_one_of_the_living_is_always_wanted(situation: Situation) -> None:
    """With any demand and any room, one backend that can be used is wanted."""
    views, demand = situation
    usable = [
        view
        for view in best_tiers(views)
        if view.connected or (not view.is_failing and view.limit > view.closing)
    ]
    unserved = demand_of(views, demand) - sum(v.claimed for v in views if v.is_ejected)
    assume(usable and unserved and room_of(demand))
    wanted = make_plan(views, demand).wanted
    assert any(wanted[view] for view in usable)


@given(situation=situations(least=1))
def test_worse_priorities_wait(situation: Situation) -> None:
    """Nothing is wanted of a worse priority while a better one works at all."""
    views, demand = situation
    plan = make_plan(views, demand)
    chosen = best_tiers(views)
    for view, wanted in plan.wanted.items():
        assert view in chosen or not wanted or view.is_ejected


def test_probes_go_by_their_order() -> None:
    """The slot for probing goes to the failing backend that comes first in their order."""
    sound = View(idle=3)
    dead = [View(is_failing=True, probe_order=(at, 0)) for at in (30.0, 10.0, 20.0)]
    views = ordered([sound, *dead])
    plan = make_plan(views, Demand(max_slots=4, spares=4))
    assert list(plan.wanted.values()) == [3, 0, 1, 0]
    assert places(views, plan.opens) == [(2, 1)]


@pytest.mark.parametrize("cap", [4, 8])
def test_an_ejected_backend_gets_one_dial_for_its_trial(cap: int) -> None:
    """An ejected backend is dialled once if its trial needs a connection, in a full pool too."""
    views = ordered([View(claimed=2, limit=3, is_ejected=True), View(idle=2, limit=2)])
    ejected, sound = views
    demand = Demand(max_slots=cap, spares=cap)
    assert make_plan(views, demand).opens == []
    ejected.needs_trial = True
    plan = make_plan(views, demand)
    if cap == 4:
        # The slot for the trial is made free first.
        assert (plan.opens, places(views, plan.closes)) == ([], [(1, 1)])
        sound.idle = 1
        plan = make_plan(views, demand)
    assert places(views, plan.opens) == [(0, 1)]
    ejected.connecting = 1
    assert make_plan(views, demand).opens == []
    ejected.connecting, ejected.limit = 0, 2
    assert (0, 1) not in places(views, make_plan(views, demand).opens)


def test_with_nothing_online_everything_is_probed() -> None:
    """While no backend is online, dials at failing ones may take the whole cap."""
    dead = ordered([View(is_failing=True) for _ in range(6)])
    plan = make_plan(dead, Demand(max_slots=6, spares=6))
    assert places(dead, plan.opens) == [(i, 1) for i in range(6)]


@pytest.mark.parametrize(("max_slots", "most"), [(1, 1), (2, 1), (3, 1), (8, 4), (9, 4)])
def test_with_one_online_half_of_the_cap_is_probed(max_slots: int, most: int) -> None:
    """One connection, and the dead get half of the cap: one slot, if the cap is small."""
    views = ordered([View(claimed=1, limit=1), *(View(is_failing=True) for _ in range(9))])
    plan = make_plan(views, Demand(max_slots=max_slots, spares=max_slots))
    assert total(plan.opens) == min(most, max_slots - 1)


def test_dials_that_are_under_way_count_as_probes() -> None:
    """Dials that began before their backend was known to fail leave less for the probes."""
    early = View(is_failing=True, connecting=3, probe_order=(9, 0))
    dead = [View(is_failing=True, probe_order=(at, 0)) for at in range(3)]
    views = ordered([View(claimed=1, limit=1), early, *dead])
    plan = make_plan(views, Demand(max_slots=8, spares=8))
    assert (places(views, plan.opens), plan.aborts) == ([(2, 1)], [])


def test_a_probe_waits_for_closing_connections() -> None:
    """A failing backend is not dialled beyond its limit while its connections are being closed."""
    dead = View(is_failing=True, closing=2, limit=2)
    views = ordered([View(idle=2), dead])
    plan = make_plan(views, Demand(max_slots=8, spares=8))
    assert plan.wanted[views[1]] == 1
    assert places(views, plan.opens) == [(0, 4)]


def test_a_half_open_backend_gets_no_other_probe() -> None:
    """A failing backend whose probe has connected is not dialled again before that is proved."""
    views = ordered([View(idle=2), View(idle=1, is_failing=True, is_half_open=True)])
    demand = Demand(max_slots=16, spares=12)
    assert make_plan(views, demand).wanted[views[1]] == 1
    views[1].is_half_open = False
    assert make_plan(views, demand).wanted[views[1]] == 2


def hung(connecting: int, since: float) -> View:
    """Return a backend that seems to hang since a time."""
    return View(connecting=connecting, is_failing=True, is_hung=True, probe_order=(math.inf, since))


def test_hung_dials_are_given_up_for_others() -> None:
    """Dials that hang make room for a backend that was not tried yet."""
    views = ordered([*(hung(2, since) for since in (1, 2, 3)), View()])
    plan = make_plan(views, Demand(max_slots=6, spares=6))
    assert places(views, plan.aborts) == [(2, 2), (1, 1)], "as far as the new one needs room"
    roomy = make_plan(views, Demand(max_slots=9, spares=2))
    assert not roomy.aborts, "there is room for the new one as it is"


def test_the_older_half_of_hung_dials_goes_on() -> None:
    """While nothing is online, half of the cap is left to those that hang for longest."""
    views = ordered([*(hung(1, since) for since in range(8)), *(View() for _ in range(8))])
    plan = make_plan(views, Demand(max_slots=8, spares=8))
    assert sorted(place for place, _ in places(views, plan.aborts)) == [4, 5, 6, 7]


def test_dials_are_not_given_up_where_room_comes_anyway() -> None:
    """A closing slot will be free in a moment, so no dial is given up in its place."""
    busy = ordered([hung(2, 1), View(claimed=1, closing=1)])
    assert not make_plan(busy, Demand(max_slots=4, spares=1)).aborts
    idle = ordered([hung(2, 1), View(claimed=2)])
    plan = make_plan(idle, Demand(max_slots=4, spares=2))
    assert places(idle, plan.aborts) == [(0, 1)]


def test_a_cap_below_what_is_claimed_ends_dials() -> None:
    """Below what is checked out, a lowered cap leaves each other backend only one dial."""
    views = ordered([View(claimed=6, connecting=1), View(connecting=2)])
    plan = make_plan(views, Demand(max_slots=4, spares=1))
    assert places(views, plan.aborts) == [(0, 1)]


# ---------------------------------------------------------------- closing what works


@given(situation=crowds())
def test_without_rebalance_one_spare_gives_way(situation: Situation) -> None:
    """Without a rebalance, at most one spare that is not due is closed, in a pool that is
    full, and only for the first probe or for those who cannot use an ejected backend."""
    views, demand = situation
    plan = make_plan(views, demand)
    working = [step for step in plan.closes if step.count > step.view.retiring_idle]
    assume(working)
    assert total(plan.closes) == 1
    assert used_by(views) >= demand.max_slots - demand.draining
    assert not any(view.closing for view in views)
    if not working[0].view.is_ejected:
        failing = [view for view in views if not view.is_sound]
        assert not any(view.connecting for view in failing)
        assert any(view.connected < plan.wanted[view] for view in failing)


@given(situation=crowds() | situations(overfull=True), rebalance=st.booleans())
def test_the_last_connection_never_gives_way(situation: Situation, rebalance: bool) -> None:
    """Nothing closes the last connection while any is asked for, unless it is due itself,
    and the cap leaves no room for its replacement."""
    views, demand = situation
    usable = [view for view in views if not view.is_ejected]
    assume(any(view.connected for view in usable))
    assume(demand_of(views, demand) and room_of(demand))
    plan = make_plan(views, demand, rebalance=rebalance)
    closes = [step for step in plan.closes if not step.view.is_ejected]
    if sum(view.connected for view in usable) == total(closes):
        (step,) = plan.closes
        assert step.count == 1
        assert step.view.retiring_idle == 1
        assert step.view.is_sound


@given(situation=situations() | crowds())
def test_surplus_goes_only_when_it_is_replaced(situation: Situation) -> None:
    """A rebalance leaves as many connections as are wanted altogether; it closes one beyond
    that only where a full cap lets nothing else be opened."""
    views, demand = situation
    plan = make_plan(views, demand, rebalance=True)
    used = used_by(views)
    available = demand.max_slots - demand.draining
    assert used <= available
    left = sum(view.connected for view in views) - total(plan.closes)
    if plan.closes and left < plan.size:
        assert total(plan.closes) == 1
        assert used == available or plan.closes[0].view.retiring_idle
        assert not any(view.closing for view in views)


@given(situation=situations())
def test_only_surplus_is_closed(situation: Situation) -> None:
    """A backend keeps as many connections as are wanted of it, unless one is due."""
    views, demand = situation
    plan = make_plan(views, demand, rebalance=True)
    for view, count in ((step.view, step.count) for step in plan.closes):
        probe = 1 if view.is_failing else 0
        gives_way = 1 if view.retiring_idle and view.is_sound else 0
        assert view.connected - count >= plan.wanted[view] - probe - gives_way


def test_a_rebalance_closes_what_is_beyond_demand() -> None:
    """With demand gone, a rebalance closes the surplus, and nothing but a rebalance does."""
    views = ordered([View(idle=5), View(idle=5)])
    demand = Demand(max_slots=16, spares=4)
    assert not make_plan(views, demand).closes
    plan = make_plan(views, demand, rebalance=True)
    assert sorted(places(views, plan.closes)) == [(0, 3), (1, 3)]


def test_a_rebalance_retains_what_was_needed() -> None:
    """Connections up to the retained number are no surplus, but none is dialled for them."""
    views = ordered([View(idle=5), View(idle=5)])
    some = make_plan(views, Demand(max_slots=16, spares=4, retained=8), rebalance=True)
    assert sorted(places(views, some.closes)) == [(0, 1), (1, 1)]
    every = make_plan(views, Demand(max_slots=16, spares=4, retained=12), rebalance=True)
    assert (every.opens, every.closes, every.is_settled) == ([], [], True)
    assert sum(every.wanted.values()) == 4
    views[0].idle, views[1].idle = 8, 2
    uneven = make_plan(views, Demand(max_slots=16, spares=4, retained=10), rebalance=True)
    assert uneven.closes == [], "no more than are retained"


def test_a_rebalance_opens_before_it_closes() -> None:
    """With room, a newcomer is dialled first; nothing is closed before it works."""
    demand = Demand(max_slots=16, spares=8)
    views = ordered([View(idle=8), View()])
    plan = make_plan(views, demand, rebalance=True)
    assert (places(views, plan.opens), plan.closes, plan.is_settled) == ([(1, 4)], [], False)
    views[1].connecting = 4
    plan = make_plan(views, demand, rebalance=True)
    assert (plan.opens, plan.closes, plan.is_settled) == ([], [], False)
    views[1].connecting, views[1].idle = 0, 4
    plan = make_plan(views, demand, rebalance=True)
    assert (plan.opens, places(views, plan.closes)) == ([], [(0, 4)])
    views[0].idle = 4
    plan = make_plan(views, demand, rebalance=True)
    assert (plan.opens, plan.closes, plan.is_settled) == ([], [], True)


def test_a_full_pool_is_rebalanced_one_by_one() -> None:
    """Without room, one spare gives way, and the next only when its successor works."""
    demand = Demand(max_slots=8, spares=8)
    views = ordered([View(idle=8), View()])
    old, new = views

    def steps() -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        plan = make_plan(views, demand, rebalance=True)
        return places(views, plan.opens), places(views, plan.closes)

    assert steps() == ([], [(0, 1)])
    old.idle, old.closing = 7, 1
    assert steps() == ([], [])
    old.closing = 0
    assert steps() == ([(1, 1)], [])
    new.connecting = 1
    assert steps() == ([], [])
    new.connecting, new.idle = 0, 1
    assert steps() == ([], [(0, 1)])


@pytest.mark.parametrize(
    ("other", "rebalance", "is_reclaimed"),
    [
        (View(is_failing=True), False, True),
        (View(), True, True),
        (View(), False, False),
        (View(is_failing=True, connecting=1), False, False),
    ],
)
def test_a_returned_connection_gives_way_where_there_is_no_spare(
    other: View, rebalance: bool, is_reclaimed: bool
) -> None:
    """With all in use, the next connection that is returned gives way: to a probe, or in a
    rebalance."""
    views = ordered([View(claimed=4 - other.connecting), other])
    plan = make_plan(views, Demand(max_slots=4, waiting=4), rebalance=rebalance)
    assert (plan.closes, plan.reclaimable) == ([], views[:is_reclaimed])


def test_a_spare_gives_way_before_a_returned_connection() -> None:
    """No claimed connection is reclaimed while a backend has a spare to give."""
    views = ordered([View(claimed=2), View(idle=2), View(is_failing=True)])
    plan = make_plan(views, Demand(max_slots=4, waiting=4))
    assert (places(views, plan.closes), plan.reclaimable) == ([(1, 1)], [])


@pytest.mark.parametrize("rebalance", [False, True])
@pytest.mark.parametrize(
    ("views", "why"),
    [
        ([View(idle=1), View(is_failing=True)], "it is the last connection"),
        ([View(idle=1, priority=1), View()], "it is the last connection, if of a standby"),
        ([View(claimed=2), View(is_failing=True)], "none is a spare"),
        ([View(idle=1, claimed=1, closing=1), View(is_failing=True)], "one is closing"),
        ([View(idle=2), View(is_failing=True, connecting=1)], "one is being probed"),
    ],
)
def test_no_spare_gives_way(views: list[View], why: str, rebalance: bool) -> None:
    """A spare gives way only if there is another, and only for the one probe."""
    views = ordered(views)
    cap = used_by(views)
    plan = make_plan(views, Demand(max_slots=cap, spares=cap), rebalance=rebalance)
    assert plan.closes == [], why


def test_one_probe_at_a_time_takes_the_place_of_a_spare() -> None:
    """Until a probe that has connected has proved itself, no other spare gives way."""
    half_open = View(idle=1, is_failing=True, is_half_open=True)
    views = ordered([View(idle=2), View(is_failing=True), half_open])
    demand = Demand(max_slots=3, spares=3)
    assert make_plan(views, demand).closes == []
    views[2].is_half_open = False
    assert places(views, make_plan(views, demand).closes) == [(0, 1)]


@given(situation=situations())
def test_settled_means_that_nothing_is_under_way(situation: Situation) -> None:
    """A plan that says all is settled closes nothing, and neither dials a sound backend nor
    has one that is dialled already, except to replace a due connection."""
    views, demand = situation
    plan = make_plan(views, demand, rebalance=True)
    assume(plan.is_settled)
    assert not plan.closes
    assert all(not step.view.is_sound or step.view.retiring for step in plan.opens)
    assert not any(view.connecting for view in views if view.is_sound)


def test_a_plan_tells_of_dials_that_it_puts_off() -> None:
    """Dials that `max_connecting` does not allow yet, and replacements of due connections, are
    a backlog, so that the end of a dial calls for a plan."""
    demand = Demand(max_slots=16, spares=4)
    for view, has_backlog in [
        (View(), False),
        (View(max_connecting=4), False),
        (View(max_connecting=3), True),
        (View(max_connecting=1, connecting=1), True),
        (View(idle=4), False),
        (View(idle=4, retiring_idle=1), True),
        (View(idle=4, retiring_idle=2), True),
        (View(idle=4, retiring_idle=1, connecting=1, max_connecting=1), True),
        (View(idle=5, retiring_idle=1), False),
        (View(idle=3, retiring_idle=1, connecting=1, max_connecting=1), True),
        (View(idle=3, retiring_idle=1, max_connecting=1), True),
    ]:
        assert make_plan([view], demand).has_backlog is has_backlog, view


# ----------------------------------------------------------------------------- speed


def calls_in(function: Callable[[], object]) -> int:
    """Return how many functions are called, built-in ones included, while this one runs."""
    count = 0

    def profile(_frame: FrameType, event: str, _arg: object) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(before)
    return count


def many(kind: str, size: int) -> list[View]:
    """Return that many backends, all of one kind."""
    kinds = {
        "new": View(),
        "healthy": View(idle=1),
        "surplus": View(idle=4),
        "dead": View(is_failing=True),
        "hung": hung(1, 0),
        "due": View(idle=2, retiring_idle=1),
        "ejected": View(idle=2, is_ejected=True),
        "mixed": View(),
    }
    views = ordered([kinds[kind]] * size)
    if kind == "mixed":
        for i, view in enumerate(views):
            view.effective_weight = 1 + i % 5
            view.is_failing = i % 3 == 0
            view.idle = i % 4
            view.priority = i % 2
            view.retiring_idle = i % 7 == 1 and i % 4 > 0
            view.is_ejected = i % 11 == 0
    return views


@pytest.mark.parametrize("rebalance", [False, True])
@pytest.mark.parametrize(
    "kind", ["new", "healthy", "surplus", "dead", "hung", "due", "ejected", "mixed"]
)
def test_the_work_grows_with_the_number_of_backends(kind: str, rebalance: bool) -> None:
    """A plan for a thousand backends takes as many calls for each as one for a hundred, and
    at most a hundred."""

    def work(size: int) -> int:
        views = many(kind, size)
        demand = Demand(max_slots=4 * size, spares=2 * size)
        return calls_in(lambda: make_plan(views, demand, rebalance=rebalance))

    thousand = work(1000)
    assert thousand <= 100 * 1000
    assert thousand <= 11 * work(100)
