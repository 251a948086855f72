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
    """After its first turns, each adds a half to one and a half of 1 / weight, never the same."""
    order = RotationOrder(3)
    keys = [order.key("a:1", 2), *(order.end_turn("a:1", 2) for _ in range(8))]
    steps = [after - before for before, after in itertools.pairwise(keys)]
    assert all(0.25 < step < 0.75 for step in steps[rotation.EXPONENTIAL_TURNS :])
    assert len(set(steps)) == 8
    assert order.key("a:1", 2) == keys[-1]


def test_the_first_turns_add_exponential_steps() -> None:
    """The first steps have the mean 1 / weight, and 39 % of them are below half of it."""
    steps = [step for seed in range(500) for step in first_steps(RotationOrder(seed), "a:1", 2)]
    assert sum(steps) / len(steps) == pytest.approx(0.5, rel=0.1)
    assert sum(step < 0.25 for step in steps) / len(steps) == pytest.approx(0.39, rel=0.1)


def first_steps(order: RotationOrder, name: str, weight: float) -> list[float]:
    """Return by how much the first turns of a backend change its key."""
    turns = range(rotation.EXPONENTIAL_TURNS)
    keys = [order.key(name, weight), *(order.end_turn(name, weight) for _ in turns)]
    return [after - before for before, after in itertools.pairwise(keys)]


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
