"""The order of the backends by weighted chance, and the turns in it."""

from __future__ import annotations

import itertools
import math
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping

import pytest
from hypothesis import given, strategies as st

from qorb_trio._planning import rotation
from qorb_trio._planning.make_plan import make_plan
from qorb_trio._planning.plan import Demand, Plan
from qorb_trio._planning.rotation import RotationOrder, last_holder_key, next_rotation

from .situations import View, ordered, situations

# ------------------------------------------------------------------------- the keys


def test_the_same_seed_gives_the_same_keys_in_every_process() -> None:
    """Keys depend on the seed and the name alone, not on the hash seed of the process."""
    order = RotationOrder(7)
    code = (
        "from qorb_trio._planning.rotation import RotationOrder\n"
        "order = RotationOrder(7)\n"
        "print(order.key('a:1', 1), order.end_turn('a:1', 2), order.key('\\udcff', 1))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    expected = [order.key("a:1", 1), order.end_turn("a:1", 2), order.key("\udcff", 1)]
    assert [float(text) for text in done.stdout.split()] == expected


@pytest.mark.parametrize("weight", [0.5, 1, 100])
def test_keys_are_exponential(weight: float) -> None:
    """The mean key of many names is 1 / weight, and so is its standard deviation."""
    order = RotationOrder(1)
    keys = [order.key(f"b{i}:1", weight) * weight for i in range(4000)]
    mean = sum(keys) / len(keys)
    deviation = math.sqrt(sum((key - mean) ** 2 for key in keys) / len(keys))
    assert mean == pytest.approx(1, abs=0.06)
    assert deviation == pytest.approx(1, abs=0.06)
    assert min(keys) > 0


def test_pools_with_different_seeds_have_different_orders() -> None:
    """The first of two equal backends is the first in about half of the pools."""
    firsts = sum(
        RotationOrder(seed).key("a:1", 1) < RotationOrder(seed).key("b:1", 1)
        for seed in range(1000)
    )
    assert 440 < firsts < 560


def test_the_heavier_comes_first_in_proportion() -> None:
    """Of two backends with weights 1 and 3, the heavier comes first in three of four pools."""
    firsts = sum(
        RotationOrder(seed).key("a:1", 3) < RotationOrder(seed).key("b:1", 1)
        for seed in range(2000)
    )
    assert 1400 < firsts < 1600


def test_a_key_grows_by_steps_of_its_own() -> None:
    """Each turn adds a half to one and a half of 1 / weight, and no two steps are equal."""
    order = RotationOrder(3)
    keys = [order.key("a:1", 2), *(order.end_turn("a:1", 2) for _ in range(5))]
    steps = [after - before for before, after in itertools.pairwise(keys)]
    assert all(0.25 < step < 0.75 for step in steps)
    assert len(set(steps)) == 5
    assert order.key("a:1", 2) == keys[-1]


def test_a_backend_that_returns_has_its_old_place() -> None:
    """A key survives whatever happens to others, since it is remembered by name."""
    order = RotationOrder(3)
    order.end_turn("a:1", 1)
    place = order.end_turn("a:1", 1)
    untouched = order.key("b:1", 1)
    for i in range(100):
        order.end_turn(f"c{i}:1", 1)
    assert order.key("a:1", 1) == place
    assert order.key("b:1", 1) == untouched


def test_a_newcomer_does_not_make_up_for_missed_turns() -> None:
    """After a thousand turns, a new backend is placed among the others, not before them."""
    order = RotationOrder(5)
    names = [f"b{i}:1" for i in range(10)]
    for _ in range(1000):
        order.end_turn(min(names, key=lambda name: order.key(name, 1)), 1)
    places = Counter(
        sum(order.key(name, 1) < order.key(f"new{i}:1", 1) for name in names) for i in range(400)
    )
    assert min(order.key(name, 1) for name in names) > 50
    assert len(places) > 5, "some come before all, some after all, others in between"


def test_a_changed_weight_changes_what_is_left_of_the_wait() -> None:
    """With twice the weight, a backend waits half as long as it would have, from now on."""
    order = RotationOrder(9)
    for _ in range(10):
        order.end_turn("other:1", 1)
    start = order.key("a:1", math.inf)
    assert order.key("a:1", 2) - start == pytest.approx((order.key("a:1", 1) - start) / 2)


def test_a_postponed_backend_is_behind_the_holders() -> None:
    """A backend that has failed gets a key behind the given one, and behind its own."""
    order = RotationOrder(2)
    before = order.key("a:1", 1)
    assert order.postpone("a:1", 1, behind=40) > 40
    assert order.postpone("a:1", 1, behind=0) > 40 > before
    assert order.postpone("b:1", 1, behind=0) > RotationOrder(2).key("b:1", 1)
    assert order.key("c:1", 1) == RotationOrder(2).key("c:1", 1), "no turn has ended"


def test_an_outage_costs_no_more_than_one_turn() -> None:
    """A backend that fails again and again is postponed once, until others pass it; after a
    turn it can be postponed again."""
    order = RotationOrder(2)
    key = order.postpone("a:1", 1, behind=2)
    assert [order.postpone("a:1", 1, behind=2) for _ in range(20)] == [key] * 20
    later = order.postpone("a:1", 1, behind=key + 1)
    assert key + 1 < later < key + 3
    turned = order.end_turn("a:1", 1)
    assert order.postpone("a:1", 1, behind=0) > turned


def test_places_are_forgotten_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory is bounded; a backend that was forgotten draws a new place."""
    monkeypatch.setattr(rotation, "MAX_REMEMBERED", 10)
    order = RotationOrder(4)
    old = order.end_turn("old:1", 1)
    for i in range(20):
        order.end_turn(f"b{i}:1", 1)
    assert len(order._places) == 10
    assert order.key("old:1", 1) != old


# ------------------------------------------------------------------------- the turns


def plan_with(wanted: Mapping[View, int]) -> Plan[View]:
    """Return a plan with these wanted numbers and nothing else."""
    return Plan(
        wanted=dict(wanted),
        opens=[],
        aborts=[],
        closes=[],
        reclaimable=[],
        demand=0,
        size=0,
        is_saturated=True,
        is_settled=True,
        has_backlog=False,
    )


def needy(views: Iterable[View], wanted: Mapping[View, int]) -> list[View]:
    """Return the usable views that have nothing and are to have nothing."""
    return [
        view
        for view in views
        if view.is_sound and not wanted[view] + view.connected + view.connecting
    ]


@given(situation=situations(), rng=st.randoms(use_true_random=True))
def test_next_rotation(situation: tuple[list[View], Demand], rng: random.Random) -> None:
    """A turn ends exactly if a live backend of the same priority has nothing; it is the turn
    of the holder with the smallest key, and the next key is next."""
    views, _ = situation
    wanted = {view: rng.randrange(3) for view in views}
    waiting = needy(views, wanted)
    donors = [
        view
        for view in views
        if view.idle
        and wanted[view]
        and not view.is_ejected
        and any(other.priority == view.priority for other in waiting)
    ]
    move = next_rotation(views, plan_with(wanted))
    if move is None:
        assert not donors
    else:
        donor, recipient = move
        assert donor is min(donors, key=lambda view: view.rotation_key)
        recipients = [view for view in waiting if view.priority == donor.priority]
        assert recipient is min(recipients, key=lambda view: view.rotation_key)


def test_next_rotation_goes_by_keys() -> None:
    """Of several that could give and several that could take, those with the smallest keys do."""
    views = ordered([View(), View(idle=1), View(), View(idle=1)])
    first, second, third, fourth = views
    plan = plan_with({first: 0, second: 1, third: 0, fourth: 1})
    assert next_rotation(views, plan) == (second, first)
    assert next_rotation(views[::-1], plan) == (second, first)
    assert next_rotation(views, plan_with({first: 1, second: 0, third: 1, fourth: 0})) is None


def test_a_featherweight_has_no_turn() -> None:
    """A backend that gets its first slot by weight alone does not stop the others' turns."""
    light, holder, other = ordered([View(effective_weight=0.5), View(idle=1), View()])
    views = [light, holder, other]
    holder.effective_weight = other.effective_weight = 100
    wanted = {light: 0, holder: 1, other: 0}
    assert next_rotation(views, plan_with(wanted)) == (holder, other)
    assert next_rotation(views[:2], plan_with({light: 0, holder: 1})) is None


def test_last_holder_key() -> None:
    """Only backends of the priority that hold a connection count."""
    views = ordered([View(idle=1), View(claimed=1), View(), View(idle=1, priority=1)])
    assert last_holder_key(views, 0) == 2
    assert last_holder_key(views, 1) == 4
    assert last_holder_key(views, 2) == 0


# ----------------------------------------------------------- many pools, and a long time


class Pool:
    """A pool whose dials succeed at once, and which has a turn at each rebalance."""

    def __init__(self, seed: int, weights: Mapping[str, float], slots: int) -> None:
        self.order = RotationOrder(seed)
        self.names: dict[View, str] = {}
        self.demand = Demand(max_slots=slots, spares=slots)
        self.connects = 0
        for name, weight in weights.items():
            self.add(name, weight)
        self.carry_out(rebalance=True)

    def add(self, name: str, weight: float) -> View:
        """Add a backend."""
        view = View(effective_weight=weight, rotation_key=self.order.key(name, weight))
        self.names[view] = name
        return view

    def carry_out(self, *, rebalance: bool) -> None:
        """Plan until nothing is left to do."""
        views = list(self.names)
        while True:
            plan = make_plan(views, self.demand, rebalance=rebalance)
            for step in plan.closes:
                step.view.idle -= step.count
            for step in plan.opens:
                step.view.idle += step.count
                self.connects += step.count
            if not plan.closes and not plan.opens:
                return

    def turn(self) -> None:
        """Let a rebalance pass."""
        views = list(self.names)
        move = next_rotation(views, make_plan(views, self.demand))
        if move is not None:
            donor, _ = move
            donor.rotation_key = self.order.end_turn(self.names[donor], donor.effective_weight)
        self.carry_out(rebalance=True)

    def held(self) -> Counter[str]:
        """Return the number of connections to each backend that has any."""
        return Counter({name: view.idle for view, name in self.names.items() if view.idle})


def test_fifty_pools_spread_over_a_hundred_backends() -> None:
    """50 pools of 4 slots over 100 equal backends use at least 80 of them, with at most 8
    connections each, at once and after ten minutes."""
    weights = {f"10.0.0.{i}:80": 1.0 for i in range(100)}
    pools = [Pool(seed, weights, 4) for seed in range(50)]
    for _ in range(11):
        held = sum((pool.held() for pool in pools), Counter[str]())
        assert held.total() == 200
        assert len(held) >= 80
        assert max(held.values()) <= 8
        for pool in pools:
            pool.turn()


def test_light_backends_have_their_share_of_the_turns() -> None:
    """With weights 1:2, five backends each, and 4 slots, over four hours the light ones hold
    33 % of the spare-minutes, give or take 5 %."""
    weights = {f"10.0.0.{i}:80": 1.0 + i % 2 for i in range(10)}
    shares = []
    for seed in range(20):
        pool = Pool(seed, weights, 4)
        minutes: Counter[str] = Counter()
        for _ in range(240):
            pool.turn()
            minutes += pool.held()
        light = sum(count for name, count in minutes.items() if weights[name] == 1)
        assert minutes.total() == 4 * 240
        shares.append(light / minutes.total())
    assert all(0.28 <= share <= 0.38 for share in shares)


def test_a_turn_moves_one_connection_at_most() -> None:
    """Each rebalance connects at most one slot, and in the long run most of them do."""
    pool = Pool(1, {f"b{i}:1": 1.0 for i in range(10)}, 4)
    for _ in range(100):
        before = pool.connects
        pool.turn()
        assert pool.connects - before <= 1
    assert pool.connects > 80


def test_a_turn_that_leads_to_the_same_backend_moves_nothing() -> None:
    """The first backend stays if its new key is still the smallest that is free."""
    pool = Pool(1, {"a:1": 1.0, "b:1": 1e-3, "c:1": 1e-3}, 1)
    pool.demand = Demand(max_slots=2, spares=1)
    while pool.held() != Counter({"a:1": 1}):
        pool.turn()
    connects = pool.connects
    for _ in range(3):
        pool.turn()
    assert pool.connects == connects


@pytest.mark.parametrize("seed", range(5))
def test_a_newcomer_displaces_at_most_one(seed: int) -> None:
    """One more equal backend costs at most one of the others a connection."""
    pool = Pool(seed, {f"b{i}:1": 1.0 for i in range(10)}, 4)
    for _ in range(20):
        pool.turn()
        before = pool.held()
        pool.add(f"new{len(pool.names)}:1", 1)
        pool.carry_out(rebalance=True)
        assert (before - pool.held()).total() <= 1
