"""The balancer's shelf: who serves the next claim."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, strategies as st

from qorb_trio._balancing.idle_index import FEW, ZERO_WEIGHT, Shelf, share


class Item:
    """A slot set, as far as the shelf is concerned; counts how often its load is asked."""

    asked = 0

    def __init__(self, name: int, *, load: int = 0, weight: int = 1, priority: int = 0) -> None:
        self.name = name
        self.share = share(weight)
        self.priority = priority
        self.place = -1
        self.claims = load

    @property
    def load(self) -> int:
        """How many claims it serves."""
        Item.asked += 1
        return self.claims


def a_shelf(*items: Item, seed: int = 1) -> Shelf[Item]:
    """A shelf with these on it."""
    shelf: Shelf[Item] = Shelf(random.Random(seed))
    for item in items:
        shelf.add(item)
    return shelf


def chosen(shelf: Shelf[Item], times: int) -> Counter[int]:
    """Who is chosen how often."""
    return Counter(shelf.choose().name for _ in range(times))


def test_an_empty_shelf() -> None:
    """Nothing can be chosen from nothing, neither before nor after something was there."""
    item = Item(0)
    shelf = a_shelf()
    assert not shelf.best
    shelf.add(item)
    assert shelf.choose() is item
    shelf.remove(item)
    assert not shelf.best


@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 2)), max_size=60), st.integers(0, 99))
def test_only_what_is_there_is_chosen(steps: list[tuple[int, int]], seed: int) -> None:
    """After any additions and removals, the choice is among those of the best priority."""
    shelf = a_shelf(seed=seed)
    there: dict[int, Item] = {}
    for name, priority in steps:
        if name in there:
            shelf.remove(there.pop(name))
        else:
            there[name] = Item(name, priority=priority)
            shelf.add(there[name])
        best = min((item.priority for item in there.values()), default=0)
        assert {item.name for item in shelf.best} == {
            item.name for item in there.values() if item.priority == best
        }
        if there:
            item = shelf.choose()
            assert there.get(item.name) is item
            assert item.priority == best


@pytest.mark.parametrize("size", [2, 3, FEW])
def test_of_few_the_least_loaded(size: int) -> None:
    """Of few sets the least loaded is chosen without fail."""
    shelf = a_shelf(*(Item(name, load=size - name) for name in range(size)))
    assert chosen(shelf, 50) == {size - 1: 50}


def test_load_counts_in_proportion_to_weight() -> None:
    """Six claims on a weight of ten are less than one claim on a weight of one."""
    shelf = a_shelf(Item(0, load=1), Item(1, load=6, weight=10), Item(2, load=2, weight=2))
    assert chosen(shelf, 50) == {1: 50}


@pytest.mark.parametrize(
    "weights", [[1, 1], [1, 3], [1, 2, 5], [0, 1], [0, 0], [0, 9, 1], [65535, 1]]
)
def test_among_equals_weights_decide(weights: list[int]) -> None:
    """Of those that are equally loaded each is chosen in proportion to its weight."""
    times = 6000
    shelf = a_shelf(*(Item(name, weight=weight) for name, weight in enumerate(weights)))
    counts = chosen(shelf, times)
    total = sum(share(weight) for weight in weights)
    for name, weight in enumerate(weights):
        part = share(weight) / total
        spread = (times * part * (1 - part)) ** 0.5
        assert abs(counts[name] - times * part) <= 4 * spread + 1


def test_a_weight_of_zero_is_a_small_chance() -> None:
    """A weight of zero is less than one of one, but not nothing."""
    assert share(0) == ZERO_WEIGHT
    assert 0 < share(0) < share(1) == 1


@pytest.mark.parametrize("size", [FEW + 1, 30])
def test_of_many_two_are_compared(size: int) -> None:
    """Of many, each may be chosen but the most loaded, which loses to whoever it meets."""
    shelf = a_shelf(*(Item(name, load=name) for name in range(size)))
    counts = chosen(shelf, 400 * size)
    assert set(counts) == set(range(size - 1))
    assert counts[0] / (400 * size) == pytest.approx(2 / size, rel=0.2)


def test_of_many_equals_all_are_chosen_evenly() -> None:
    """Two that are picked at random are never the same, and none is preferred."""
    size, times = 20, 20_000
    counts = chosen(a_shelf(*(Item(name) for name in range(size))), times)
    assert set(counts) == set(range(size))
    expected = times / size
    assert all(abs(count - expected) <= 5 * expected**0.5 for count in counts.values())


@pytest.mark.parametrize(("size", "most"), [(1, 0), (2, 2), (8, 8), (9, 2), (100, 2), (10_000, 2)])
def test_the_cost_does_not_depend_on_the_number(size: int, most: int) -> None:
    """However many sets there are, no more than a few are asked for their load."""
    items = [Item(name) for name in range(size)]
    shelf = a_shelf(*items)
    Item.asked = 0
    for _ in range(10):
        shelf.choose()
    assert Item.asked == 10 * most
    Item.asked = 0
    shelf.remove(items[0])
    shelf.add(items[0])
    assert Item.asked == 0


@pytest.mark.parametrize("seed", range(5))
def test_a_seed_repeats_its_choices(seed: int) -> None:
    """The same seed makes the same choices."""
    twins = [a_shelf(*(Item(name) for name in range(12)), seed=seed) for _ in range(2)]
    first, second = ([shelf.choose().name for _ in range(50)] for shelf in twins)
    assert first == second
