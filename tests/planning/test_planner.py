"""The planner: what must hold of each single plan, whatever the situation."""

from __future__ import annotations

import copy
import math
import random
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import TypeAlias

import attrs
import pytest
from hypothesis import assume, example, given, strategies as st

from qorb_trio._planning.planner import FIRST_SLOT, Demand, Plan, apportion, make_plan, next_turn

from .views import SHARES, View, crowds, ranked, situations

Situation: TypeAlias = tuple[list[View], Demand]


def total(steps: Sequence[tuple[int, int]]) -> int:
    """How many slots some steps of a plan concern."""
    return sum(count for _, count in steps)


def best_tiers(views: Sequence[View]) -> list[View]:
    """The views of all priorities down to the first that works at all."""
    chosen: list[View] = []
    for priority in sorted({view.priority for view in views}):
        tier = [view for view in views if view.priority == priority]
        chosen += tier
        if any(view.connected or not view.failing for view in tier):
            break
    return chosen


def demand_of(views: Sequence[View], demand: Demand) -> int:
    """How many connections are asked for, caps aside."""
    claimed = sum(view.claimed for view in views)
    return max(claimed + demand.waiting + demand.spares, demand.at_least)


def room_of(demand: Demand) -> int:
    """How many slots the backends of the current set may have together."""
    return max(0, demand.max_slots - demand.departed)


# ------------------------------------------------------------------------ apportion


@st.composite
def elections(draw: st.DrawFn) -> tuple[list[float], list[int], list[int]]:
    """Shares, limits and ranks of so many backends."""
    shares = draw(st.lists(SHARES, min_size=1, max_size=8))
    size = len(shares)
    limits = draw(st.lists(st.integers(0, 9), min_size=size, max_size=size))
    ranks = draw(st.permutations(range(1, size + 1)))
    return shares, limits, ranks


@given(election=elections(), slots=st.integers(0, 80))
def test_apportion_gives_all_that_fits(
    election: tuple[list[float], list[int], list[int]], slots: int
) -> None:
    """All slots are given away as far as the limits allow, and none beyond a limit."""
    shares, limits, ranks = election
    parts = apportion(slots, shares, limits, ranks)
    assert sum(parts) == min(slots, sum(limits))
    assert all(0 <= part <= limit for part, limit in zip(parts, limits, strict=True))


@given(election=elections())
def test_apportion_is_house_monotone(
    election: tuple[list[float], list[int], list[int]],
) -> None:
    """One slot more makes one part greater by one, and changes no other."""
    shares, limits, ranks = election
    before = apportion(0, shares, limits, ranks)
    for slots in range(1, sum(limits) + 2):
        after = apportion(slots, shares, limits, ranks)
        gains = [new - old for new, old in zip(after, before, strict=True)]
        assert sorted(gains)[:-1] == [0] * (len(gains) - 1)
        assert sum(gains) == (slots <= sum(limits))
        before = after


@pytest.mark.parametrize(
    ("slots", "shares", "parts"),
    [
        (10, [1, 3, 6], [1, 3, 6]),
        (20, [1, 3, 6], [2, 6, 12]),
        (12, [1, 1, 1], [4, 4, 4]),
        (11, [10, 1], [10, 1]),
        (303, [1, 2, 100, 200], [1, 2, 100, 200]),
        (3, [0.5, 1], [1, 2]),
    ],
)
def test_apportion_is_proportional(slots: int, shares: list[float], parts: list[int]) -> None:
    """Where the slots can be divided in proportion to the shares, they are."""
    size = len(shares)
    assert apportion(slots, shares, [slots] * size, list(range(1, size + 1))) == parts


@given(parts=st.lists(st.integers(1, 20), min_size=1, max_size=8), scale=SHARES)
def test_apportion_is_exact_when_it_can_be(parts: list[int], scale: float) -> None:
    """Slots in number a multiple of the shares are divided without any remainder."""
    size = len(parts)
    shares = [part * scale for part in parts]
    assert apportion(sum(parts), shares, [999] * size, list(range(1, size + 1))) == parts


@given(election=elections(), slots=st.integers(0, 80))
def test_apportion_leaves_nobody_envious(
    election: tuple[list[float], list[int], list[int]], slots: int
) -> None:
    """Nobody below its limit would value one of another's slots more than its owner does."""
    shares, limits, ranks = election
    parts = apportion(slots, shares, limits, ranks)
    seats = list(zip(parts, shares, limits, strict=True))
    for mine, share, limit in seats:
        if mine == limit:
            continue
        my_price = (mine + 1 if mine else FIRST_SLOT) / share
        for theirs, their_share, _ in seats:
            if theirs:
                their_price = (theirs if theirs > 1 else FIRST_SLOT) / their_share
                assert their_price <= my_price


@given(
    slots=st.integers(0, 30),
    share=SHARES,
    ranks=st.integers(1, 8).flatmap(lambda n: st.permutations(range(1, n + 1))),
)
def test_apportion_breaks_ties_by_rank(slots: int, share: float, ranks: list[int]) -> None:
    """Among equals, the remainder goes to those of the lowest rank."""
    size = len(ranks)
    parts = apportion(slots, [share] * size, [99] * size, ranks)
    full, rest = divmod(slots, size)
    assert parts == [full + (rank <= rest) for rank in ranks]


@pytest.mark.parametrize("weight", [2, 10, 49])
def test_apportion_gives_everybody_a_first_slot(weight: int) -> None:
    """A light backend gets its first slot before one of its fiftyfold gets a second."""
    assert apportion(3, [1, 1, weight], [9, 9, 9], [1, 2, 3]) == [1, 1, 1]


def test_apportion_of_nothing() -> None:
    """Where there is no backend, there is nothing to divide, and nothing to divide by."""
    assert apportion(5, [], [], []) == []


# ------------------------------------------------------------------- what always holds


@given(situation=situations(overfull=True), rebalance=st.booleans())
def test_no_dial_beyond_a_cap(situation: Situation, rebalance: bool) -> None:
    """No dial is started beyond the cap of the pool, nor beyond the limit of a backend."""
    views, demand = situation
    plan = make_plan(views, demand, rebalance=rebalance)
    used = sum(view.slots for view in views)
    if plan.opens:
        assert used + total(plan.opens) <= demand.max_slots - demand.departed
    for i, count in plan.opens:
        assert views[i].slots + count <= views[i].limit


@given(situation=situations(), rebalance=st.booleans())
def test_steps_can_be_taken(situation: Situation, rebalance: bool) -> None:
    """Each step is one that its view can take, and none undoes another."""
    views, demand = situation
    plan = make_plan(views, demand, rebalance=rebalance)
    for steps in (plan.opens, plan.aborts, plan.closes):
        assert len({i for i, _ in steps}) == len(steps)
        assert all(count > 0 for _, count in steps)
    assert not {i for i, _ in plan.opens} & {i for i, _ in plan.aborts + plan.closes}
    assert all(count <= views[i].unclaimed for i, count in plan.closes)
    assert all(count <= views[i].connecting for i, count in plan.aborts)
    assert all(views[i].failing for i, _ in plan.aborts)


@given(situation=situations(overfull=True), rebalance=st.booleans())
def test_what_is_wanted_fits(situation: Situation, rebalance: bool) -> None:
    """What is wanted of each fits its limit, and altogether the cap, and is no whim."""
    views, demand = situation
    plan = make_plan(views, demand, rebalance=rebalance)
    assert len(plan.wanted) == len(views)
    assert sum(plan.wanted) <= room_of(demand)
    for view, wanted in zip(views, plan.wanted, strict=True):
        assert 0 <= wanted <= view.limit
        if view.failing:
            assert wanted <= view.connected + 1
    sound = sum(w for v, w in zip(views, plan.wanted, strict=True) if not v.failing)
    assert sound <= demand_of(views, demand)


@given(situation=situations(), rebalance=st.booleans())
def test_dials_are_for_what_is_wanted(situation: Situation, rebalance: bool) -> None:
    """No dial is started beyond what is wanted, and none given up that is wanted."""
    views, demand = situation
    plan = make_plan(views, demand, rebalance=rebalance)
    for i, count in plan.opens:
        assert views[i].connected + views[i].connecting + count <= plan.wanted[i]
    for i, count in plan.aborts:
        assert views[i].connected + views[i].connecting - count >= plan.wanted[i]


@given(situation=situations(), rebalance=st.booleans())
def test_views_are_only_looked_at(situation: Situation, rebalance: bool) -> None:
    """The planner changes nothing, and says the same when asked the same."""
    views, demand = situation
    before = copy.deepcopy(views)
    plan = make_plan(views, demand, rebalance=rebalance)
    assert views == before
    assert make_plan(views, demand, rebalance=rebalance) == plan


@given(situation=situations(), rng=st.randoms(use_true_random=True))
def test_the_order_of_the_views_does_not_matter(situation: Situation, rng: random.Random) -> None:
    """Ranks and turns decide, not the order in which the resolver names the backends."""
    views, demand = situation
    order = rng.sample(range(len(views)), len(views))
    plan = make_plan(views, demand)
    other = make_plan([views[i] for i in order], demand)
    assert other.wanted == [plan.wanted[i] for i in order]
    for steps, permuted in [
        (plan.opens, other.opens),
        (plan.aborts, other.aborts),
        (plan.closes, other.closes),
    ]:
        assert dict(steps) == {order[i]: count for i, count in permuted}


# ------------------------------------------------------------------ demand that changes


@given(situation=situations(), more=st.integers(1, 8))
def test_more_demand_takes_from_nobody(situation: Situation, more: int) -> None:
    """As claimants come and go, what is wanted of a sound backend grows and shrinks
    with them, and is never moved to another."""
    views, demand = situation
    few = make_plan(views, demand).wanted
    many = make_plan(views, attrs.evolve(demand, waiting=demand.waiting + more)).wanted
    for view, before, after in zip(views, few, many, strict=True):
        assert view.failing or before <= after


@given(situation=situations(), more=st.integers(1, 8))
@example(situation=([View(failing=True, limit=3)], Demand(max_slots=1)), more=1)
def test_saturated(situation: Situation, more: int) -> None:
    """When a plan says that more demand would change nothing to be done, then it does not."""
    views, demand = situation
    plan = make_plan(views, demand)
    assume(plan.saturated)
    pressed = make_plan(views, attrs.evolve(demand, waiting=demand.waiting + more))
    # Whether surplus that is being checked is still to be awaited does depend on demand,
    # as does how many connections would be enough.
    assert attrs.evolve(pressed, settled=plan.settled, target=plan.target) == plan


@given(situation=situations())
def test_demand_that_is_met_is_told(situation: Situation) -> None:
    """A plan that gives sound backends all that is asked for, with room to spare, says
    that more demand would change something."""
    views, demand = situation
    assume(not any(view.failing for view in views))
    plan = make_plan(views, demand)
    wanted = sum(plan.wanted)
    met = wanted == demand_of(views, demand) < room_of(demand)
    assert plan.saturated is not met


# -------------------------------------------------------------------- failing backends


@given(situation=situations(overfull=True), rebalance=st.booleans())
def test_probes_take_half_of_the_cap_at_most(situation: Situation, rebalance: bool) -> None:
    """While anything is online, dials at failing backends never get beyond half of the
    cap, or one; and what there is beyond that is given up."""
    views, demand = situation
    assume(any(view.connected for view in views))
    plan = make_plan(views, demand, rebalance=rebalance)
    most = max(1, demand.max_slots // 2)
    under_way = sum(view.connecting + view.closing for view in views if view.failing)
    opened = sum(count for i, count in plan.opens if views[i].failing)
    assert not opened or under_way + opened <= most
    dialling = sum(view.connecting for view in views if view.failing)
    closing = sum(view.closing for view in views)
    useful = sum(
        min(view.connecting, max(0, wanted - view.connected))
        for view, wanted in zip(views, plan.wanted, strict=True)
        if view.failing
    )
    assert dialling - total(plan.aborts) <= max(most, useful) + closing
    assert useful <= most


@given(
    situation=situations(least=1),
    dead=st.lists(st.tuples(st.integers(0, 3), SHARES), min_size=1, max_size=6),
)
def test_the_dead_take_one_slot_from_the_living(
    situation: Situation, dead: list[tuple[int, float]]
) -> None:
    """However many dead backends are added, what is wanted of the others shrinks by one
    altogether, and only in a pool that is full."""
    views, demand = situation
    best = min(view.priority for view in views)
    assume(best_tiers(views)[-1].priority == best)
    alone = make_plan(views, demand)
    graves = [
        View(failing=True, connecting=dials, share=share, turn=(i, 1), rank=100 + i, priority=best)
        for i, (dials, share) in enumerate(dead)
    ]
    among = make_plan(views + graves, demand)
    lost = [old - new for old, new in zip(alone.wanted, among.wanted, strict=False)]
    sound = [loss for loss, view in zip(lost, views, strict=True) if not view.failing]
    full = sum(alone.wanted) == room_of(demand)
    assert sum(sound) <= full
    assert all(loss >= 0 for loss in sound)


@given(situation=situations(least=1))
def test_the_living_are_wanted(situation: Situation) -> None:
    """With demand and room for all sound backends of the best priority, each is wanted."""
    views, demand = situation
    tiers = best_tiers(views)
    sound = [view for view in tiers if not view.failing and view.limit > view.closing]
    needed = len(tiers) + sum(min(view.limit, view.connected) for view in tiers if view.failing)
    assume(sound and demand_of(views, demand) >= needed and room_of(demand) > needed)
    wanted = make_plan(views, demand).wanted
    for view, count in zip(views, wanted, strict=True):
        if view in sound:
            assert count >= 1


@given(situation=situations(least=1))
def test_one_of_the_living_is_always_wanted(situation: Situation) -> None:
    """With any demand and any room, one backend that can be used is wanted."""
    views, demand = situation
    usable = [
        view
        for view in best_tiers(views)
        if view.connected or (not view.failing and view.limit > view.closing)
    ]
    assume(usable and demand_of(views, demand) and room_of(demand))
    wanted = make_plan(views, demand).wanted
    assert any(count for view, count in zip(views, wanted, strict=True) if view in usable)


@given(situation=situations(least=1))
def test_worse_priorities_wait(situation: Situation) -> None:
    """Nothing is wanted of a worse priority while a better one works at all."""
    views, demand = situation
    plan = make_plan(views, demand)
    chosen = best_tiers(views)
    for view, count in zip(views, plan.wanted, strict=True):
        assert view in chosen or not count


def test_probes_go_by_turns() -> None:
    """The slot for probing goes to the failing backend whose turn it is."""
    sound = View(unclaimed=3)
    dead = [View(failing=True, turn=(turn, 0)) for turn in (30.0, 10.0, 20.0)]
    plan = make_plan(ranked([sound, *dead]), Demand(max_slots=4, spares=4))
    assert plan.wanted == [3, 0, 1, 0]
    assert plan.opens == [(2, 1)]


def test_with_nothing_online_everything_is_probed() -> None:
    """While no backend is online, dials at failing ones may take the whole cap."""
    dead = ranked([View(failing=True) for _ in range(6)])
    plan = make_plan(dead, Demand(max_slots=6, spares=6))
    assert plan.opens == [(i, 1) for i in range(6)]


@pytest.mark.parametrize(("max_slots", "most"), [(1, 1), (2, 1), (3, 1), (8, 4), (9, 4)])
def test_with_one_online_half_of_the_cap_is_probed(max_slots: int, most: int) -> None:
    """One connection, and the dead get half of the cap: one slot, if the cap is small."""
    views = ranked([View(claimed=1, limit=1), *(View(failing=True) for _ in range(9))])
    plan = make_plan(views, Demand(max_slots=max_slots, spares=max_slots))
    assert total(plan.opens) == min(most, max_slots - 1)


def test_dials_that_are_under_way_count_as_probes() -> None:
    """Dials that began before their backend was known to fail leave less for the probes."""
    early = View(failing=True, connecting=3, turn=(9, 0))
    dead = [View(failing=True, turn=(turn, 0)) for turn in range(3)]
    plan = make_plan(
        ranked([View(claimed=1, limit=1), early, *dead]), Demand(max_slots=8, spares=8)
    )
    assert (plan.opens, plan.aborts) == ([(2, 1)], [])


def test_a_probe_waits_for_what_is_closing() -> None:
    """A failing backend is not dialled beyond its limit while its connections are being closed."""
    dead = View(failing=True, closing=2, limit=2)
    plan = make_plan(ranked([View(unclaimed=2), dead]), Demand(max_slots=8, spares=8))
    assert (plan.wanted[1], plan.opens) == (1, [(0, 4)])


def test_on_probation_there_is_no_other_probe() -> None:
    """A failing backend whose probe has connected is not dialled again before that is proved."""
    views = ranked([View(unclaimed=2), View(unclaimed=1, failing=True, on_probation=True)])
    demand = Demand(max_slots=16, spares=12)
    assert make_plan(views, demand).wanted[1] == 1
    views[1].on_probation = False
    assert make_plan(views, demand).wanted[1] == 2


def test_hung_dials_are_given_up_for_others() -> None:
    """Dials that hang make room for a backend that was not tried yet."""
    hung = [
        View(connecting=2, failing=True, hung=True, turn=(math.inf, since)) for since in (1, 2, 3)
    ]
    views = ranked([*hung, View()])
    plan = make_plan(views, Demand(max_slots=6, spares=6))
    assert plan.aborts == [(2, 2), (1, 1)], "the new one needs the room, as far as it goes"
    settled = make_plan(views, Demand(max_slots=9, spares=2))
    assert not settled.aborts, "there is room for the new one as it is"


def test_the_older_half_of_hung_dials_goes_on() -> None:
    """While nothing is online, half of the cap is left to those that hang for longest."""
    views = ranked(
        [
            *(
                View(connecting=1, failing=True, hung=True, turn=(math.inf, since))
                for since in range(8)
            ),
            *(View() for _ in range(8)),
        ]
    )
    plan = make_plan(views, Demand(max_slots=8, spares=8))
    assert sorted(i for i, _ in plan.aborts) == [4, 5, 6, 7]


def test_dials_are_not_given_up_where_room_comes_anyway() -> None:
    """What is being closed will be free in a moment, so no dial is given up for it."""
    hung = View(connecting=2, failing=True, hung=True, turn=(math.inf, 1))
    busy = ranked([hung, View(claimed=1, closing=1)])
    assert not make_plan(busy, Demand(max_slots=4, spares=1)).aborts
    idle = ranked([hung, View(claimed=2)])
    assert make_plan(idle, Demand(max_slots=4, spares=2)).aborts == [(0, 1)]


# ---------------------------------------------------------------- closing what works


@given(situation=crowds())
def test_without_rebalance_one_spare_gives_way_to_a_probe(situation: Situation) -> None:
    """When nothing has come that calls for a rebalance, one spare at most is closed, in
    a pool that is full, and for nothing but the first probe."""
    views, demand = situation
    plan = make_plan(views, demand)
    assume(plan.closes)
    assert total(plan.closes) == 1
    failing = [(v, w) for v, w in zip(views, plan.wanted, strict=True) if v.failing]
    assert not any(view.connecting for view, _ in failing)
    assert any(view.connected < wanted for view, wanted in failing)
    assert sum(view.slots for view in views) >= demand.max_slots - demand.departed
    assert not any(view.closing for view in views)


@given(situation=crowds() | situations(overfull=True), rebalance=st.booleans())
def test_the_last_connection_never_gives_way(situation: Situation, rebalance: bool) -> None:
    """Nothing closes the last connection while any is asked for."""
    views, demand = situation
    assume(any(view.connected for view in views))
    assume(demand_of(views, demand) and room_of(demand))
    plan = make_plan(views, demand, rebalance=rebalance)
    assert sum(view.connected for view in views) - total(plan.closes) >= 1


@given(situation=situations(overfull=True))
def test_surplus_goes_only_when_it_is_replaced(situation: Situation) -> None:
    """A rebalance leaves as many connections as are wanted altogether; it closes one
    beyond that only where a full cap lets nothing else be opened."""
    views, demand = situation
    plan = make_plan(views, demand, rebalance=True)
    assume(plan.closes)
    target = min(
        demand_of(views, demand), room_of(demand), sum(view.limit for view in best_tiers(views))
    )
    left = sum(view.connected for view in views) - total(plan.closes)
    used = sum(view.slots for view in views)
    full = used >= demand.max_slots - demand.departed
    kept_back = 1 if any(view.failing for view in views) and target == room_of(demand) else 0
    if left < target - kept_back:
        assert total(plan.closes) == 1
        assert full
        assert not any(view.closing for view in views)


@given(situation=situations())
def test_only_surplus_is_closed(situation: Situation) -> None:
    """A backend is never left with fewer connections than are wanted of it."""
    views, demand = situation
    plan = make_plan(views, demand, rebalance=True)
    for i, count in plan.closes:
        probe = 1 if views[i].failing else 0
        assert views[i].connected - count >= plan.wanted[i] - probe


def test_a_rebalance_closes_what_is_beyond_demand() -> None:
    """With demand gone, a rebalance closes the surplus, and nothing but a rebalance does."""
    views = ranked([View(unclaimed=5), View(unclaimed=5)])
    demand = Demand(max_slots=16, spares=4)
    assert not make_plan(views, demand).closes
    assert make_plan(views, demand, rebalance=True).closes == [(0, 3), (1, 3)]


def test_a_rebalance_opens_before_it_closes() -> None:
    """With room, a newcomer is dialled first; nothing is closed before it works."""
    old, new = View(unclaimed=8), View()
    demand = Demand(max_slots=16, spares=8)
    plan = make_plan(ranked([old, new]), demand, rebalance=True)
    assert (plan.opens, plan.closes, plan.settled) == ([(1, 4)], [], False)
    dialling = make_plan(ranked([old, View(connecting=4)]), demand, rebalance=True)
    assert (dialling.opens, dialling.closes, dialling.settled) == ([], [], False)
    there = make_plan(ranked([old, View(unclaimed=4)]), demand, rebalance=True)
    assert (there.opens, there.closes) == ([], [(0, 4)])
    done = make_plan(ranked([View(unclaimed=4)] * 2), demand, rebalance=True)
    assert (done.opens, done.closes, done.settled) == ([], [], True)


def test_a_full_pool_is_rebalanced_one_by_one() -> None:
    """Without room, one spare gives way, and the next only when its successor works."""
    demand = Demand(max_slots=8, spares=8)
    first = make_plan(ranked([View(unclaimed=8), View()]), demand, rebalance=True)
    assert (first.opens, first.closes) == ([], [(0, 1)])
    closing = ranked([View(unclaimed=7, closing=1), View()])
    assert make_plan(closing, demand, rebalance=True).closes == []
    free = make_plan(ranked([View(unclaimed=7), View()]), demand, rebalance=True)
    assert (free.opens, free.closes) == ([(1, 1)], [])
    dialling = ranked([View(unclaimed=7), View(connecting=1)])
    assert make_plan(dialling, demand, rebalance=True).closes == []
    works = ranked([View(unclaimed=7), View(unclaimed=1)])
    assert make_plan(works, demand, rebalance=True).closes == [(0, 1)]


def test_what_comes_back_gives_way_where_there_is_no_spare() -> None:
    """With all in use, the next one that comes back gives way: to a probe, or in a rebalance."""
    demand = Demand(max_slots=4, waiting=4)
    for other, rebalance, expected in [
        (View(failing=True), False, [0]),
        (View(), True, [0]),
        (View(), False, []),
        (View(failing=True, connecting=1), False, []),
    ]:
        busy = View(claimed=4 - other.connecting)
        plan = make_plan(ranked([busy, other]), demand, rebalance=rebalance)
        assert (plan.closes, plan.donors) == ([], expected)
    spares = make_plan(ranked([View(claimed=2), View(unclaimed=2), View(failing=True)]), demand)
    assert (spares.closes, spares.donors) == ([(1, 1)], [])


@pytest.mark.parametrize("rebalance", [False, True])
@pytest.mark.parametrize(
    ("views", "why"),
    [
        ([View(unclaimed=1), View(failing=True)], "it is the last connection"),
        ([View(unclaimed=1, priority=1), View()], "it is the last connection, if of a standby"),
        ([View(claimed=2), View(failing=True)], "none is a spare"),
        ([View(unclaimed=1, claimed=1, closing=1), View(failing=True)], "one is closing"),
        ([View(unclaimed=2), View(failing=True, connecting=1)], "one is being probed"),
    ],
)
def test_no_spare_gives_way(views: list[View], why: str, rebalance: bool) -> None:
    """A spare gives way only if there is another, and only for the one probe."""
    views = ranked(views)
    cap = sum(view.slots for view in views)
    plan = make_plan(views, Demand(max_slots=cap, spares=cap), rebalance=rebalance)
    assert plan.closes == [], why


def test_one_probe_at_a_time_takes_the_place_of_a_spare() -> None:
    """Until a probe that has connected has proved itself, no other spare gives way."""
    on_probation = View(unclaimed=1, failing=True, on_probation=True)
    views = ranked([View(unclaimed=2), View(failing=True), on_probation])
    demand = Demand(max_slots=3, spares=3)
    assert make_plan(views, demand).closes == []
    views[2].on_probation = False
    assert make_plan(views, demand).closes == [(0, 1)]


@given(situation=situations())
def test_settled_means_that_nothing_is_under_way(situation: Situation) -> None:
    """A plan that says all is settled closes nothing and dials no sound backend, and
    none that is dialled already."""
    views, demand = situation
    plan = make_plan(views, demand, rebalance=True)
    assume(plan.settled)
    assert not plan.closes
    assert all(views[i].failing for i, _ in plan.opens)
    assert not any(view.connecting for view in views if not view.failing)


# ------------------------------------------------------------------------- next_turn


@given(situation=situations(), rng=st.randoms(use_true_random=True))
def test_next_turn(situation: Situation, rng: random.Random) -> None:
    """A spare moves exactly if a live backend of the same priority has nothing, and then
    it is one of the backend that has been in its place for longest."""
    views, _ = situation
    wanted = [rng.randrange(3) for _ in views]
    plan = Plan(
        wanted=wanted,
        opens=[],
        aborts=[],
        closes=[],
        donors=[],
        target=0,
        saturated=True,
        settled=True,
    )
    needy = {
        view.priority
        for view, count in zip(views, wanted, strict=True)
        if not count and not view.failing and not view.connected and not view.connecting
    }
    donors = [
        i for i, view in enumerate(views) if view.unclaimed and wanted[i] and view.priority in needy
    ]
    move = next_turn(views, plan)
    if move is None:
        assert not donors
    else:
        donor, taker = move
        assert donor in donors
        assert views[donor].rank == min(views[i].rank for i in donors)
        assert views[taker].priority == views[donor].priority
        assert not views[taker].failing
        assert not wanted[taker] + views[taker].connected + views[taker].connecting


def test_next_turn_is_whose_was_longest_ago() -> None:
    """Of several that could give and several that could take, those of the lowest rank do."""
    views = ranked([View(), View(unclaimed=1), View(), View(unclaimed=1)])
    plan = Plan(
        wanted=[0, 1, 0, 1],
        opens=[],
        aborts=[],
        closes=[],
        donors=[],
        target=0,
        saturated=True,
        settled=True,
    )
    assert next_turn(views, plan) == (1, 0)
    assert next_turn(views[::-1], plan) is None, "who is wanted has nothing to give"
    plan.wanted.reverse()
    assert next_turn(views[::-1], plan) == (2, 3)


# ----------------------------------------------------------------------------- speed


def calls_in(function: Callable[[], object]) -> int:
    """How many functions are called, built-in ones included, while this one runs."""
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


def fleet(kind: str, size: int) -> list[View]:
    """So many backends, all of one kind."""
    kinds = {
        "new": View(),
        "healthy": View(unclaimed=1),
        "surplus": View(unclaimed=4),
        "dead": View(failing=True),
        "hung": View(failing=True, hung=True, connecting=1, turn=(math.inf, 0)),
        "mixed": View(),
    }
    views = ranked([kinds[kind]] * size)
    if kind == "mixed":
        for i, view in enumerate(views):
            view.share = 1 + i % 5
            view.failing = i % 3 == 0
            view.unclaimed = i % 4
            view.priority = i % 2
    return views


@pytest.mark.parametrize("rebalance", [False, True])
@pytest.mark.parametrize("kind", ["new", "healthy", "surplus", "dead", "hung", "mixed"])
def test_the_work_grows_with_the_number_of_backends(kind: str, rebalance: bool) -> None:
    """Planning a thousand backends takes so many steps for each as planning a hundred."""

    def work(size: int) -> int:
        views = fleet(kind, size)
        demand = Demand(max_slots=4 * size, spares=2 * size)
        return calls_in(lambda: make_plan(views, demand, rebalance=rebalance))

    thousand = work(1000)
    assert thousand <= 100 * 1000
    assert thousand <= 11 * work(100)
