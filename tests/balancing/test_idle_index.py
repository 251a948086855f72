"""The idle index: which slot sets have an idle slot, and which of them serves a claim."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, strategies as st

from qorb_trio import Backend
from qorb_trio._balancing.idle_index import IdleIndex
from qorb_trio._balancing.remainders import MOST_KEPT
from qorb_trio._balancing.strategy import FEW
from qorb_trio._model.backend import ZERO_WEIGHT, effective_weight

from .kit import Item, an_index, choose_for, chosen


def test_an_empty_index() -> None:
    """An index is empty before the first set is added and after the last one is removed."""
    item = Item(0)
    index = an_index()
    assert not index.best
    assert choose_for(index) is None
    index.add(item)
    assert index.choose() is item
    index.remove(item)
    assert not index.best
    assert choose_for(index) is None


def test_a_set_that_is_not_there_is_not_removed() -> None:
    """To remove a set twice, or one that was never added, changes nothing."""
    items = [Item(name) for name in range(3)]
    index = an_index(*items)
    index.remove(Item(9))
    index.remove(items[1])
    index.remove(items[1])
    assert [item.name for item in index.best] == [0, 2]
    assert [item.place for item in items] == [0, -1, 1]


@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 2)), max_size=60), st.integers(0, 99))
def test_only_sets_of_the_index_are_chosen(steps: list[tuple[int, int]], seed: int) -> None:
    """After any additions and removals, the choice is among the sets of the best priority."""
    index = an_index(seed=seed)
    there: dict[int, Item] = {}
    for name, priority in steps:
        if name in there:
            index.remove(there.pop(name))
        else:
            there[name] = Item(name, priority=priority)
            index.add(there[name])
        names = {
            priority: {item.name for item in there.values() if item.priority == priority}
            for priority in sorted({item.priority for item in there.values()})
        }
        tiers = [{item.name for item in tier} for tier in index.tiers()]
        assert tiers == list(names.values())
        assert {item.name for item in index.best} == (tiers[0] if tiers else set())
        if there:
            assert index.choose().name in tiers[0]


@pytest.mark.parametrize("size", [2, 3, FEW])
def test_of_few_the_least_loaded(size: int) -> None:
    """Of few sets the least loaded is chosen without fail."""
    index = an_index(*(Item(name, load=size - name) for name in range(size)))
    assert chosen(index, 50) == {size - 1: 50}


def test_load_counts_in_proportion_to_weight() -> None:
    """Six claims on a weight of ten are less than one claim on a weight of one."""
    index = an_index(Item(0, load=1), Item(1, load=6, weight=10), Item(2, load=2, weight=2))
    assert chosen(index, 50) == {1: 50}


@pytest.mark.parametrize(
    "weights", [[1, 1], [1, 3], [1, 2, 5], [0, 1], [0, 0], [0, 9, 1], [65535, 1]]
)
def test_among_equals_weights_decide(weights: list[int]) -> None:
    """Of sets that are equally loaded, each is chosen in proportion to its weight."""
    times = 6000
    index = an_index(*(Item(name, weight=weight) for name, weight in enumerate(weights)))
    counts = chosen(index, times)
    total = sum(effective_weight(weight) for weight in weights)
    for name, weight in enumerate(weights):
        part = effective_weight(weight) / total
        spread = (times * part * (1 - part)) ** 0.5
        assert abs(counts[name] - times * part) <= 4 * spread + 1


def test_among_some_of_equal_load_chance_decides() -> None:
    """Of several sets with the least load, each is chosen as often as the others."""
    counts = chosen(an_index(Item(0, load=1), Item(1, load=2), Item(2, load=1)), 1000)
    assert set(counts) == {0, 2}
    assert 420 < counts[0] < 580


def test_a_weight_of_zero_is_a_small_chance() -> None:
    """A weight of zero is less than one of one, but not nothing."""
    assert effective_weight(0) == ZERO_WEIGHT
    assert 0 < effective_weight(0) < effective_weight(1) == 1


@pytest.mark.parametrize("size", [FEW + 1, 30])
def test_of_many_two_are_compared(size: int) -> None:
    """Of many sets each may be chosen but the most loaded, which loses each comparison."""
    index = an_index(*(Item(name, load=name) for name in range(size)))
    counts = chosen(index, 400 * size)
    assert set(counts) == set(range(size - 1))
    assert counts[0] / (400 * size) == pytest.approx(2 / size, rel=0.2)


def test_of_many_equals_all_are_chosen_evenly() -> None:
    """Two sets that are picked at random are never the same, and none is preferred."""
    size, times = 20, 20_000
    counts = chosen(an_index(*(Item(name) for name in range(size))), times)
    assert set(counts) == set(range(size))
    expected = times / size
    assert all(abs(count - expected) <= 5 * expected**0.5 for count in counts.values())


def test_two_of_many_of_different_weight() -> None:
    """Among many sets of unequal weights, the weights decide between the two compared."""
    light = [Item(name) for name in range(10)]
    heavy = [Item(name, weight=9) for name in range(10, 20)]
    counts = chosen(an_index(*light, *heavy), 2000)
    assert 0.60 < sum(counts[item.name] for item in heavy) / 2000 < 0.80


@pytest.mark.parametrize(("size", "most"), [(2, 2), (8, 8), (9, 2), (100, 2), (10_000, 2)])
def test_the_cost_does_not_depend_on_the_number(size: int, most: int) -> None:
    """A choice among any number of sets asks at most eight of them for their load."""
    items = [Item(name) for name in range(size)]
    index = an_index(*items)
    Item.asked = 0
    for _ in range(10):
        index.choose()
    assert Item.asked == 10 * most
    Item.asked = 0
    index.remove(items[0])
    index.add(items[0])
    assert Item.asked == 0


@pytest.mark.parametrize("seed", range(5))
def test_a_seed_repeats_its_choices(seed: int) -> None:
    """The same seed makes the same choices."""
    twins = [an_index(*(Item(name) for name in range(12)), seed=seed) for _ in range(2)]
    first, second = ([index.choose().name for _ in range(50)] for index in twins)
    assert first == second


def test_the_default_rule_makes_no_candidates() -> None:
    """The default rule works on the slot sets themselves, so that it costs no objects."""
    items = [Item(name) for name in range(FEW)]
    index = an_index(*items)
    index.choose()
    choose_for(index, avoid=[items[0].backend])
    assert all(item.candidate is None for item in items)


# Pause and offers.


def test_a_paused_index_is_empty() -> None:
    """A paused index offers no set, but sets can be added and removed as before."""
    index = an_index(Item(0))
    index.pause()
    index.pause()
    index.add(Item(1))
    (stays,), (late,) = [[Item(2)], [Item(3, priority=1)]]
    index.add(stays)
    index.add(late)
    assert not index.best
    assert choose_for(index, avoid=[late.backend]) is None
    assert [[item.name for item in tier] for tier in index.tiers()] == [[0, 1, 2], [3]]
    index.remove(stays)
    index.resume()
    index.resume()
    assert [item.name for item in index.best] == [0, 1]


def test_a_paused_index_may_become_empty() -> None:
    """If the last set is removed during a pause, nothing is there after it."""
    item = Item(0)
    index = an_index(item)
    index.pause()
    index.remove(item)
    index.resume()
    assert not index.best


def test_an_offer_comes_first() -> None:
    """A set that is offered serves the next claim, before better priorities, and that alone."""
    primary, ejected = Item(0), Item(1, priority=5, load=9)
    index = an_index(primary)
    index.offer_first(ejected)
    assert not index.best
    assert index.take_offer() is ejected
    assert index.take_offer() is None
    assert index.best == [primary]


def test_an_offer_can_be_withdrawn() -> None:
    """An offer that was withdrawn is not taken; to withdraw what is not offered does nothing."""
    primary, ejected = Item(0), Item(1)
    index = an_index(primary)
    index.withdraw(ejected)
    index.offer_first(ejected)
    index.withdraw(ejected)
    assert index.take_offer() is None
    assert index.best == [primary]


def test_offers_are_taken_in_order() -> None:
    """Of several offers the oldest is taken first, and the others still stand."""
    index = an_index(Item(0))
    offered = [Item(1), Item(2)]
    for item in offered:
        index.offer_first(item)
    assert [index.take_offer(), bool(index.best), index.take_offer()] == [
        offered[0],
        False,
        offered[1],
    ]
    assert index.best


def test_nothing_is_offered_while_paused() -> None:
    """An offer made before or during a pause waits for its end."""
    ejected = Item(1)
    index = an_index()
    index.pause()
    index.offer_first(ejected)
    assert index.take_offer() is None
    assert choose_for(index, key=1) is None
    index.resume()
    assert not index.best
    assert index.take_offer() is ejected


def test_an_offer_comes_first_for_claims_with_options() -> None:
    """A claim with a key takes an offer too, unless it avoids that backend."""
    primary, ejected = Item(0), Item(1)
    index = an_index(primary)
    index.offer_first(ejected)
    assert choose_for(index, avoid=[ejected.backend]) is primary
    assert choose_for(index, key="k", avoid=[ejected.backend]) is primary
    assert choose_for(index, avoid=[primary.backend, ejected.backend]) is primary
    assert choose_for(index, key="k", avoid=[primary.backend]) is ejected
    assert choose_for(index, key="k") is primary


def test_an_avoided_offer_is_better_than_nothing() -> None:
    """A claim that avoids the offered backend gets it if nothing else is idle."""
    ejected = Item(1)
    index = an_index()
    index.offer_first(ejected)
    assert choose_for(index, avoid=[ejected.backend]) is ejected
    assert choose_for(index, avoid=[ejected.backend]) is None


# Backends to avoid.


@pytest.mark.parametrize("size", [2, 8, 9, 100])
def test_avoided_backends_are_left_out(size: int) -> None:
    """Another backend serves the claim, whatever the load; all others may."""
    items = [Item(name) for name in range(size)]
    index = an_index(*items)
    avoid = [items[0].backend]
    counts = Counter(choose_for(index, avoid=avoid) for _ in range(40 * size))
    assert set(counts) == set(items[1:])


def test_many_avoided_backends() -> None:
    """Of many backends, those few that are not avoided serve the claim."""
    items = [Item(name) for name in range(50)]
    index = an_index(*items)
    for left in (1, 2, 20, 29):
        avoid = [item.backend for item in items[left:]]
        counts = Counter(choose_for(index, avoid=avoid) for _ in range(50 * left))
        assert set(counts) == set(items[:left])


def test_the_others_are_chosen_evenly() -> None:
    """Of many backends, those that are not avoided share the claims evenly."""
    items = [Item(name) for name in range(60)]
    index = an_index(*items)
    avoid = [item.backend for item in items[::3]]
    counts = Counter(choose_for(index, avoid=avoid) for _ in range(8000))
    assert len(counts) == 40
    assert all(abs(count - 200) <= 5 * 200**0.5 for count in counts.values())


def test_an_avoided_backend_is_better_than_nothing() -> None:
    """If all backends of the best priority are avoided, the avoid is ignored for this claim."""
    items = [Item(name, load=name) for name in range(3)]
    standby = Item(9, priority=1)
    index = an_index(*items, standby)
    avoid = [item.backend for item in items]
    assert choose_for(index, avoid=avoid) is items[0]
    assert choose_for(index, key=1, avoid=avoid) in items


def test_avoid_compares_backends_by_identity_and_address() -> None:
    """A backend of the same name at another address is another backend."""
    items = [Item(0), Item(1, load=5)]
    index = an_index(*items)
    moved = type(items[0].backend)(("10.9.9.9", 1), name="b0")
    assert choose_for(index, avoid=[moved]) is items[0]
    equal = type(items[0].backend)(items[0].backend.address, name="b0", weight=7)
    assert choose_for(index, avoid=[equal]) is items[1]


def test_an_avoided_backend_may_change() -> None:
    """A claim goes by the backends that it avoids itself, not by those of earlier claims."""
    items = [Item(name) for name in range(4)]
    index = an_index(*items)
    moved = Backend(("10.9.9.9", 1), name="b0")
    for _ in range(50):
        assert choose_for(index, avoid=[items[0].backend]) is not items[0]
        assert choose_for(index, avoid=[it.backend for it in items[:3]]) is items[3]
    assert {choose_for(index, avoid=[moved]) for _ in range(100)} == set(items)
    choice = choose_for(index, key=1)
    rest = next(it for it in items if it is not choice)
    choose_for(index, avoid=[rest.backend])
    assert {choose_for(index, key=1, avoid=[rest.backend]) for _ in range(20)} == {choice}


def test_a_retry_gets_no_set_without_a_spare() -> None:
    """A set that has lost its last idle slot serves no claim that avoids another backend."""
    items = [Item(name) for name in range(4)]
    index = an_index(*items)
    avoid = [items[0].backend]
    assert {choose_for(index, avoid=avoid) for _ in range(100)} == set(items[1:])
    index.remove(items[1])
    assert {choose_for(index, avoid=avoid) for _ in range(100)} == set(items[2:])
    index.add(items[1])
    assert {choose_for(index, avoid=avoid) for _ in range(100)} == set(items[1:])


def test_few_avoided_backends_are_kept() -> None:
    """Claims that avoid ever other backends do not fill the memory."""
    index = an_index(*[Item(name) for name in range(4)])
    for port in range(3 * MOST_KEPT):
        choose_for(index, avoid=[Backend(("gone", 1 + port))])
    remainders = index._remainders
    assert remainders is not None
    assert 0 < len(remainders._rests) <= MOST_KEPT


@pytest.mark.parametrize("options", [{}, {"avoid": [Backend(("10.0.0.1", 3), name="b2")]}])
def test_a_heavy_newcomer_gets_its_part(options: dict[str, Any]) -> None:
    """A backend that comes online later is chosen by its weight, with `avoid` or without."""
    items = [Item(name) for name in range(3)]
    index = an_index(*items)

    def choose() -> Item:
        return choose_for(index, **options) if options else index.choose()

    choose()
    heavy = Item(3, weight=100)
    index.add(heavy)
    found = [choose() for _ in range(100)]
    assert found.count(heavy) > 80


@pytest.mark.parametrize("size", [30, 10_000])
def test_the_cost_of_avoid_does_not_depend_on_the_number(size: int) -> None:
    """A choice with `avoid` asks only a few sets for their load, for any number of sets."""
    items = [Item(name) for name in range(size)]
    index = an_index(*items)
    Item.asked = 0
    choose_for(index, avoid=[items[0].backend])
    assert Item.asked <= FEW


def test_the_index_needs_no_balancer() -> None:
    """An index that is made without a balancer applies the rule of `LeastLoaded`."""
    index: IdleIndex[Item] = IdleIndex(random.Random(0))
    for item in (Item(0, load=3), Item(1, load=2)):
        index.add(item)
    assert chosen(index, 10) == {1: 10}
