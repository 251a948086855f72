"""`RoundRobin`: turns in proportion to weight."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from qorb_trio import RoundRobin

from .candidates import Fake, fakes


def turns(candidates: Sequence[Fake], times: int, rng: random.Random) -> list[str]:
    """The names of those that are chosen, in order."""
    return [RoundRobin().choose(candidates, rng, 0.0).backend.name for _ in range(times)]


@pytest.mark.parametrize("seed", range(5))
def test_each_has_its_turn(seed: int) -> None:
    """In each round each backend is chosen once, whatever its load."""
    candidates = fakes(4)
    candidates[0].load = 100
    names = turns(candidates, 40, random.Random(seed))
    for start in range(0, 40, 4):
        assert len(set(names[start : start + 4])) == 4


def test_pools_do_not_begin_alike() -> None:
    """The first turn is drawn by chance, so that many pools do not begin with one backend."""
    first = Counter(turns(fakes(4), 1, random.Random(seed))[0] for seed in range(200))
    assert len(first) == 4
    assert min(first.values()) > 25


@pytest.mark.parametrize("seed", range(5))
def test_turns_are_in_proportion_to_weight(seed: int) -> None:
    """After any number of turns, each backend has its part by weight, within one turn."""
    candidates = [Fake("a", weight=1), Fake("b", weight=2), Fake("c", weight=5)]
    names = turns(candidates, 800, random.Random(seed))
    for done in (8, 80, 800):
        counts = Counter(names[:done])
        for fake in candidates:
            assert abs(counts[fake.name] - done * fake.weight / 8) <= 1


def test_strides() -> None:
    """The least memo is chosen, and grows by one over the weight."""
    candidates = [Fake("a", memo=2.0), Fake("b", memo=1.0, weight=4)]
    assert turns(candidates, 1, random.Random(0)) == ["b"]
    assert [fake.memo for fake in candidates] == [2.0, 1.25]


def test_a_newcomer_starts_where_the_others_are() -> None:
    """A newcomer takes over the least memo, so that it neither gets all nor none."""
    rng = random.Random(0)
    candidates = fakes(3)
    turns(candidates, 300, rng)
    candidates.append(Fake("new"))
    assert Counter(turns(candidates, 40, rng))["new"] in {9, 10, 11}
    assert candidates[-1].memo == pytest.approx(110, abs=1)


@pytest.mark.parametrize(
    ("weights", "bound"), [((1.0, 1.0), 8), ((0.5, 1.0), 16), ((1.0, 5.0), 40)]
)
def test_a_long_absence_is_not_made_up_for(weights: tuple[float, float], bound: int) -> None:
    """A backend that returns after a long time catches up on a few turns only."""
    rng = random.Random(0)
    away, other = Fake("away", weight=weights[1]), Fake("other", weight=weights[0])
    turns([away, other], 20, rng)
    turns([other, Fake("third")], 2000, rng)
    names = turns([away, other], 2000, rng)
    in_a_row = names.index("other")
    assert bound <= in_a_row <= bound + weights[1]
    expected = 2000 * weights[1] / sum(weights)
    assert Counter(names)["away"] == pytest.approx(expected, abs=bound + 2)


def test_a_short_absence_is_made_up_for() -> None:
    """A backend that had no spare for a few turns catches up on them."""
    rng = random.Random(0)
    candidates = fakes(2)
    turns(candidates, 2, rng)
    turns([candidates[1], Fake("third", memo=100.0)], 5, rng)
    assert turns(candidates, 5, rng) == ["f0"] * 5


def test_one_balancer_serves_many_pools() -> None:
    """A balancer has no state of its own: two pools that share one do not disturb each other."""
    pools: list[Any] = [fakes(2), fakes(2)]
    rng = random.Random(0)
    names = [turns(pools[turn % 2], 1, rng)[0] for turn in range(40)]
    assert Counter(names[::2]) == Counter(names[1::2]) == {"f0": 10, "f1": 10}
