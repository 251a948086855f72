"""`LeastLoaded` as a balancer, and the same rule in the idle index."""

from __future__ import annotations

import random

import attrs
import pytest
from hypothesis import given, strategies as st

from qorb_trio import LeastLoaded
from qorb_trio._balancing.least_loaded import least_loaded

from .candidates import Fake, fakes
from .kit import Item, an_index

SETS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), min_size=2, max_size=8)


@given(SETS, st.integers(0, 99))
def test_the_index_applies_the_same_rule(sets: list[tuple[int, int]], seed: int) -> None:
    """The fast path of the index chooses the set that the balancer would choose."""
    index = an_index(
        *(Item(name, load=load, weight=weight) for name, (load, weight) in enumerate(sets)),
        seed=seed,
    )
    candidates = [Fake(str(name), load, weight or 0.5) for name, (load, weight) in enumerate(sets)]
    rng = random.Random(seed)
    for _ in range(5):
        chosen = LeastLoaded().choose(candidates, rng, 0.0)
        assert chosen.backend.name == str(index.choose().name)


def test_the_furthest_below_its_part() -> None:
    """The rule compares with the fair part of one more claim, by weight."""
    rng = random.Random(0)
    # Of 5 claims a weight of 4 should have 4, and a weight of 1 should have 1.
    assert least_loaded([3, 1], [4.0, 1.0], rng.random) == 0
    assert least_loaded([4, 0], [4.0, 1.0], rng.random) == 1


@pytest.mark.parametrize("draw", [0.0, 0.5, 0.999999, 1.0])
def test_the_ends_of_chance(draw: float) -> None:
    """For any random number, the position is one of those that are equal."""
    assert least_loaded([1, 0, 0], [2.0, 1.0, 2.0], lambda: draw) in {1, 2}
    assert least_loaded([0, 0], [1.0, 2.0], lambda: draw) in {0, 1}


def test_of_many_two_are_compared() -> None:
    """Of more than eight candidates, each may be chosen but the most loaded."""
    candidates = fakes(20)
    candidates[3].load = 1
    rng = random.Random(1)
    chosen = {LeastLoaded().choose(candidates, rng, 0.0).backend.name for _ in range(500)}
    assert chosen == {fake.name for fake in candidates} - {"f3"}


def test_it_is_a_value() -> None:
    """Two default balancers are equal and immutable."""
    assert LeastLoaded() == LeastLoaded()
    assert repr(LeastLoaded()) == "LeastLoaded()"
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        LeastLoaded().anything = 1  # type: ignore[attr-defined]
