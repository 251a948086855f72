"""The key of a claim: weighted rendezvous hashing."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import qorb_trio
from qorb_trio._balancing import affinity, favourites
from qorb_trio._balancing.affinity import (
    FIRST_FEW,
    GROUPS,
    MOST_KEPT,
    Key,
    Rendezvous,
    draws,
    group_of,
    multiplier,
    plain_key,
)

from .kit import Item, an_index, choose_for

KEYS = 10_000
ODDS = [
    pytest.param(range(KEYS), id="numbers"),
    pytest.param([-i for i in range(KEYS)], id="negative-numbers"),
    pytest.param([f"user-{i}" for i in range(KEYS)], id="texts"),
    pytest.param([f"a{i}@example.com" for i in range(KEYS)], id="addresses"),
    pytest.param(
        [f"t{i % 100:02}-{0:012}-{i // 100:02}" for i in range(KEYS)], id="numbers-in-texts"
    ),
    pytest.param([i.to_bytes(16, "little") for i in range(KEYS)], id="bytes"),
    pytest.param([i << 64 for i in range(KEYS)], id="large-numbers"),
]


def names(count: int, prefix: str) -> list[str]:
    """Names of backends."""
    return [f"{prefix}{i}.example.com:5432" for i in range(count)]


def owners(keys: object, backends: list[str], weights: list[float] | None = None) -> list[str]:
    """The backend that each key prefers."""
    weights = weights or [1.0] * len(backends)
    rendezvous = Rendezvous(backends, [multiplier(name) for name in backends], weights)
    return [rendezvous.find(key) for key in keys]  # type: ignore[attr-defined]


@pytest.mark.parametrize("keys", ODDS)
@pytest.mark.parametrize("prefix", ["db", "10.0.0.", "node-"])
def test_keys_are_spread_evenly(keys: list[Key], prefix: str) -> None:
    """Of 10,000 keys, each of 10 backends is preferred by 900 to 1,100."""
    counts = Counter(owners(keys, names(10, prefix)))
    assert len(counts) == 10
    assert all(900 <= count <= 1100 for count in counts.values())


@pytest.mark.parametrize("keys", ODDS)
@pytest.mark.parametrize("weights", [[1.0] * 10, [1.0, 2.0] * 5], ids=["equal", "unequal"])
def test_without_a_backend_only_its_keys_move(keys: list[Key], weights: list[float]) -> None:
    """Keys of a backend that is gone are spread over the others; all other keys stay."""
    backends = names(10, "db")
    before = owners(keys, backends, weights)
    for gone in (0, 9):
        rest = backends[:gone] + backends[gone + 1 :]
        left = weights[:gone] + weights[gone + 1 :]
        after = owners(keys, rest, left)
        moved = Counter[str]()
        for old, new in zip(before, after, strict=True):
            if old == backends[gone]:
                moved[new] += 1
            else:
                assert old == new
        expected = moved.total() / sum(left)
        for name, weight in zip(rest, left, strict=True):
            assert abs(moved[name] - expected * weight) <= 5 * (expected * weight) ** 0.5


@pytest.mark.parametrize("count", [2, 3, 100])
def test_other_numbers_of_backends(count: int) -> None:
    """Two backends and a hundred are preferred evenly too."""
    counts = Counter(owners(range(200 * count), names(count, "db")))
    assert sum((n - 200) ** 2 / 200 for n in counts.values()) < count + 5 * (2 * count) ** 0.5


def test_weights_decide_how_many_keys() -> None:
    """Each backend is preferred by a part of the keys in proportion to its weight."""
    weights = [0.5, 1.0, 2.0, 4.0]
    counts = Counter(owners(range(KEYS), names(4, "db"), weights))
    for name, weight in zip(names(4, "db"), weights, strict=True):
        expected = KEYS * weight / 7.5
        assert abs(counts[name] - expected) <= 5 * expected**0.5


def test_a_weight_that_grows_only_attracts_keys() -> None:
    """If the weight of a backend grows, keys move to it, and none between the others."""
    backends = names(5, "db")
    before = owners(range(2000), backends)
    after = owners(range(2000), backends, [1.0, 1.0, 3.0, 1.0, 1.0])
    assert {new for old, new in zip(before, after, strict=True) if old != new} == {backends[2]}


def test_the_order_does_not_matter() -> None:
    """The preferred backend does not depend on the order of the backends."""
    backends = names(10, "db")
    assert owners(range(500), backends) == owners(range(500), backends[::-1])


def test_types_of_keys_differ() -> None:
    """A number, a text and bytes that look alike are different keys."""
    backends = names(50, "db")
    alike = [owners(keys, backends) for keys in ([1] * 3, ["1"] * 3, [b"1"] * 3)]
    assert len({tuple(found) for found in alike}) == 3


@pytest.mark.parametrize(
    "key",
    ["", b"", 0, -1, -(2**200), 10**5000, "\ud800", "é" * 1000],
    ids=lambda key: type(key).__name__,
)
def test_odd_keys(key: Key) -> None:
    """Every key of the right type prefers a backend, and always the same."""
    assert plain_key(key) == key
    found = owners([key, key], names(10, "db"))
    assert found[0] == found[1]


@pytest.mark.parametrize("key", [None, 1.5, True, bytearray(b"x"), ("a",), object()])
def test_wrong_keys(key: object) -> None:
    """A key of another type is an error that names the argument."""
    with pytest.raises(TypeError, match=r"^key must be"):
        plain_key(key)


def test_extreme_draws_are_finite() -> None:
    """No draw makes the arithmetic fail, however extreme the weights are."""
    number = affinity._number(3)
    least, most = -0.5 / number, 0.5 / number
    for draw, weight in itertools.product([least, 0.0, most], [1e-300, 0.5, 2.0**32]):
        assert all(math.isfinite(it) for it in draws(3, [draw, 0.7], [weight, 1.0]))


@pytest.mark.real
def test_the_same_in_every_process() -> None:
    """Another process, with another seed for hash(), prefers the same backends."""
    backends = names(10, "db")
    here = [backends.index(name) for name in owners([*range(5), "a", b"a"], backends)]
    program = (
        "from tests.balancing.test_affinity import names, owners\n"
        "backends = names(10, 'db')\n"
        "print([backends.index(n) for n in owners([*range(5), 'a', b'a'], backends)])"
    )
    root, package = Path(__file__).parents[2], Path(qorb_trio.__file__).parents[1]
    there = subprocess.run(
        [sys.executable, "-c", program],
        cwd=root,
        env={"PYTHONHASHSEED": "123", "PYTHONPATH": f"{package}:{root}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert there.stdout.strip() == str(here)
    # Written down, because the clients of a fleet run different versions.
    assert here == [9, 0, 9, 1, 9, 0, 9]


def test_a_busy_first_choice() -> None:
    """While its first choice has no spare, a key gets its own second choice, and then returns."""
    items = [Item(name) for name in range(10)]
    index = an_index(*items)
    first = {key: choose_for(index, key) for key in range(200)}
    busy = first[0]
    assert busy is not None
    index.remove(busy)
    second = {key: choose_for(index, key) for key in range(200)}
    assert all(first[key] in {second[key], busy} for key in range(200))
    assert len({second[key] for key in range(200) if first[key] is busy}) > 3
    index.add(busy)
    assert {key: choose_for(index, key) for key in range(200)} == first


def test_a_key_stays_within_the_best_priority() -> None:
    """A backend of a worse priority is preferred only when the better ones have no spare."""
    primary, standby = Item(0), Item(1, priority=1)
    index = an_index(primary, standby)
    assert {choose_for(index, key) for key in range(50)} == {primary}
    index.remove(primary)
    assert {choose_for(index, key) for key in range(50)} == {standby}


def test_a_key_chooses_among_those_not_avoided() -> None:
    """With backends to avoid, a key gets the first of its choices that is not avoided."""
    items = [Item(name) for name in range(5)]
    index = an_index(*items)
    for key in range(50):
        first = choose_for(index, key)
        assert first is not None
        second = choose_for(index, key, avoid=[first.backend])
        index.remove(first)
        assert second is choose_for(index, key)
        index.add(first)


def test_a_multiplier_is_made_once() -> None:
    """The hash of a backend's name is kept with its slot set."""
    items = [Item(name) for name in range(3)]
    index = an_index(*items)
    choose_for(index, "a")
    made = [item.candidate for item in items]
    choose_for(index, "b")
    assert [item.candidate for item in items] == made
    assert all(made)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The groups of keys for which all backends were compared, in order."""
    groups: list[int] = []

    def count(group: int, *args: Any) -> list[float]:
        groups.append(group)
        return draws(group, *args)

    monkeypatch.setattr(affinity, "draws", count)
    monkeypatch.setattr(favourites, "draws", count)
    return groups


def test_a_group_is_hashed_once(drawn: list[int]) -> None:
    """A key keeps its backend while others run out of spares and get new ones."""
    items = [Item(name) for name in range(8)]
    index = an_index(*items)
    keys: list[Key] = ["1", b"1", 1]
    found = [choose_for(index, key) for key in 5 * keys]
    assert drawn == [group_of(key) for key in keys]
    assert found[:3] * 5 == found
    others = [item for item in items if item not in found]
    for item in others:
        index.remove(item)
        assert [choose_for(index, key) for key in keys] == found[:3]
        index.add(item)
    assert [choose_for(index, key) for key in keys] == found[:3]
    assert len(drawn) == 3


def test_the_order_of_a_group_is_kept(drawn: list[int]) -> None:
    """The second choice of a key costs no hash if its first one is busy again."""
    items = [Item(name) for name in range(8)]
    index = an_index(*items)
    found = []
    for _ in range(5):
        busy = choose_for(index, "key")
        assert busy is not None
        index.remove(busy)
        found.append(choose_for(index, "key"))
        index.add(busy)
    assert len(drawn) == 2
    assert len(set(found)) == 1


def test_a_choice_beyond_the_kept_order() -> None:
    """A key whose first few choices are busy gets the best of the others."""
    items = [Item(name) for name in range(3 * FIRST_FEW)]
    index = an_index(*items)
    for key in range(20):
        order = []
        while (found := choose_for(index, key)) is not None:
            order.append(found)
            index.remove(found)
        scores = draws(group_of(key), *hashes_and_weights(items))
        assert order == sorted(items, key=lambda it: -scores[items.index(it)])
        for item in items:
            index.add(item)


def test_a_choice_beyond_the_kept_order_is_not_avoided() -> None:
    """While its first few choices are busy, a key gets the best of those that are not avoided."""
    items = [Item(name) for name in range(2 * FIRST_FEW)]
    index = an_index(*items)
    for _ in range(FIRST_FEW):
        busy = choose_for(index, "key")
        assert busy is not None
        index.remove(busy)
    first = choose_for(index, "key")
    assert first is not None
    second = choose_for(index, "key", avoid=[first.backend])
    index.remove(first)
    assert second is choose_for(index, "key")
    rest = [item.backend for item in index.best]
    assert choose_for(index, "key", avoid=rest) is second


def hashes_and_weights(items: list[Item]) -> tuple[list[float], list[float]]:
    """The arguments of `draws`."""
    return [multiplier(it.backend.name) for it in items], [it.balancing_weight for it in items]


@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_a_member_that_changes(weight: float) -> None:
    """Keys follow a backend that comes, one that leaves, and one whose weight changes."""
    items = [Item(name) for name in range(6)]
    index = an_index(*items[:5])
    keys = range(300)

    before = [choose_for(index, key) for key in keys]
    index.add(items[5])
    after = [choose_for(index, key) for key in keys]
    assert after != before
    assert {new for old, new in zip(before, after, strict=True) if old is not new} == {items[5]}
    index.remove(items[5])
    index.forget(items[5])
    assert [choose_for(index, key) for key in keys] == before
    index.remove(items[0])
    index.forget(items[0])
    items[0].balancing_weight = weight
    index.add(items[0])
    assert ([choose_for(index, key) for key in keys] == before) == (weight == 1.0)


def test_nothing_is_kept_of_those_that_have_left() -> None:
    """An index whose backends have all left keeps none of them."""
    items = [Item(name, priority=name % 2) for name in range(4)]
    index = an_index(*items)
    index.forget(Item(9))
    choose_for(index, 1)
    for never_idle in (Item(8), Item(9, priority=7)):
        index.forget(never_idle)
    index.remove(items[1])
    index.add(items[1])
    for item in items:
        index.remove(item)
        index.forget(item)
    assert index._affinity is not None
    assert not index._affinity._favourites


def test_the_kept_orders_are_bounded() -> None:
    """The choices of only some groups are kept, which does not change them."""
    items = [Item(name) for name in range(8)]
    hashes, weights = hashes_and_weights(items)
    rendezvous = Rendezvous(items, hashes, weights)
    first = [rendezvous.order(key) for key in range(3 * MOST_KEPT)]
    assert 0 < len(rendezvous._orders) <= MOST_KEPT
    assert [rendezvous.order(key) for key in range(3 * MOST_KEPT)] == first


def test_every_key_has_a_group() -> None:
    """The group of each key is a number below the number of groups."""
    odd: list[Key] = [-1, 0, 2**30 - 36, 2**64, "", "\ud800", b"", b"\xff" * 9]
    groups = {group_of(key) for key in [*odd, *range(100_000)]}
    assert min(groups) >= 0
    assert max(groups) < GROUPS
    assert len(groups) > GROUPS * 0.75


def test_more_backends_than_a_short_number_can_tell() -> None:
    """A key can prefer each of a great many backends."""
    items = range(2**15 + 1)
    rendezvous = Rendezvous(items, [1 - i / 2**16 for i in items], [1.0] * len(items))
    for key in range(3):
        scores = draws(group_of(key), [1 - i / 2**16 for i in items], [1.0] * len(items))
        assert rendezvous.find(key) == rendezvous.find(key) == scores.index(max(scores))
