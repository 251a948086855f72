"""All backends of a pool, and the order of those that it does not use."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from hypothesis import given, strategies as st

from qorb_trio import Backend
from qorb_trio._planning import known as module
from qorb_trio._planning.known import KnownBackends
from qorb_trio._planning.rotation import RotationOrder


def backends(
    names: Iterable[object], *, priority: int = 0, weight: int = 1, port: int = 80
) -> list[Backend]:
    """Return backends with these names."""
    return [
        Backend((f"{name}.test", port), name=str(name), priority=priority, weight=weight)
        for name in names
    ]


def take_over(known: KnownBackends, found: Iterable[Backend]) -> int:
    """Update to the end; return the number of pauses."""
    return sum(1 for _ in known.update(list(found)))


def all_of(known: KnownBackends, priority: int = 0) -> list[str]:
    """Activate all backends of a priority; return their names in order."""
    names = []
    while (backend := known.activate_next(priority)) is not None:
        names.append(backend.name)
    return names


def in_order(known: KnownBackends, found: Iterable[Backend]) -> list[str]:
    """Return the names in the order of their keys."""
    return [backend.name for backend in sorted(found, key=known.key)]


def test_backends_come_in_the_order_of_their_keys() -> None:
    """The next backend is the one with the smallest key among the inactive ones."""
    known = KnownBackends(RotationOrder(1))
    found = backends(range(50))
    take_over(known, found)
    assert len(known) == 50
    assert known.inactive(0) == 50
    assert known.priorities() == [0]
    order = in_order(known, found)
    assert all_of(known) == order
    assert (known.inactive(0), known.priorities()) == (0, [])
    assert all(known.is_active(backend) for backend in found)


def test_the_order_does_not_depend_on_the_order_of_the_set() -> None:
    """Two sets with the same backends give the same order."""
    found = backends(range(50))
    first, second = KnownBackends(RotationOrder(1)), KnownBackends(RotationOrder(1))
    take_over(first, found)
    take_over(second, found[::-1])
    assert all_of(first) == all_of(second)


def test_priorities_are_apart() -> None:
    """Each priority has an order of its own, and only those with inactive backends are told."""
    known = KnownBackends(RotationOrder(1))
    take_over(known, [*backends("ab", priority=1), *backends("c", priority=0)])
    assert known.priorities() == [0, 1]
    assert all_of(known, 0) == ["c"]
    assert known.priorities() == [1]
    assert sorted(all_of(known, 1)) == ["a", "b"]
    assert known.activate_next(7) is None
    assert known.inactive(7) == 0


def test_a_backend_that_is_deactivated_has_its_old_place() -> None:
    """The place of a backend does not depend on whether it is active."""
    known = KnownBackends(RotationOrder(3))
    found = backends(range(10))
    take_over(known, found)
    order = in_order(known, found)
    first = known.activate_next(0)
    second = known.activate_next(0)
    assert first is not None
    assert second is not None
    known.deactivate(first)
    assert not known.is_active(first)
    assert known.activate_next(0) == first
    assert known.activate_next(0) is not None
    assert [first.name, second.name] == order[:2]


def test_a_postponed_backend_moves_back() -> None:
    """A backend that is postponed comes behind its old place."""
    known = KnownBackends(RotationOrder(3))
    take_over(known, backends(range(10)))
    first = known.activate_next(0)
    assert first is not None
    key = known.key(first)
    known.postpone(first)
    assert known.key(first) > key
    assert all_of(known).index(first.name) > 0


def test_a_removed_backend_is_forgotten() -> None:
    """Active backends that are not in the next set are told; inactive ones just vanish."""
    known = KnownBackends(RotationOrder(3))
    found = backends(range(10))
    take_over(known, found)
    active = [known.activate_next(0) for _ in range(4)]
    stays, *leaves = active
    assert stays is not None
    take_over(known, [stays])
    assert known.removed == leaves
    assert (len(known), known.inactive(0), known.priorities()) == (1, 0, [])
    assert known.is_active(stays)
    assert known.activate_next(0) is None
    known.removed.clear()
    take_over(known, [])
    assert known.removed == [stays]
    assert len(known) == 0


def test_a_known_name_at_a_new_address_is_a_new_backend() -> None:
    """The old backend is removed, and the new one is inactive."""
    known = KnownBackends(RotationOrder(3))
    take_over(known, backends("ab"))
    old = known.activate_next(0)
    assert old is not None
    take_over(known, backends("ab", port=81))
    assert known.removed == [old]
    assert known.inactive(0) == 2
    assert {known.activate_next(0), known.activate_next(0)} == set(backends("ab", port=81))


def test_a_changed_priority_or_weight_changes_the_place() -> None:
    """An inactive backend moves to its new place; an active one stays active."""
    known = KnownBackends(RotationOrder(3))
    take_over(known, backends("ab"))
    active = known.activate_next(0)
    assert active is not None
    take_over(known, backends("ab", priority=2, weight=5))
    assert known.priorities() == [2]
    assert known.removed == []
    assert known.is_active(active)
    inactive = known.activate_next(2)
    assert inactive is not None
    assert inactive.weight == 5
    assert known.activate_next(0) is None
    (changed,) = [b for b in backends("ab", priority=2, weight=5) if b == active]
    known.deactivate(changed)
    assert known.priorities() == [2]


def test_a_large_set_is_taken_over_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adding and removing pause after each chunk; a small set is taken over in one go."""
    monkeypatch.setattr(module, "CHUNK", 10)
    known = KnownBackends(RotationOrder(3))
    assert take_over(known, backends(range(9))) == 0
    assert take_over(known, backends(range(1000))) >= 100
    assert take_over(known, backends(range(5))) >= 99


def test_removed_backends_are_told_before_the_rest_is_swept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Active backends that have left do not wait until a large old set is forgotten."""
    monkeypatch.setattr(module, "CHUNK", 10)
    known = KnownBackends(RotationOrder(3))
    take_over(known, backends(range(1000)))
    active = known.activate_next(0)
    pauses = known.update(backends(["new"]))
    next(pauses)
    assert known.removed == [active]
    assert len(known) > 900
    for _ in pauses:
        pass
    assert len(known) == 1


def test_stale_entries_do_not_pile_up() -> None:
    """After many sets that share nothing, the queue has room for the last of them only."""
    known = KnownBackends(RotationOrder(3))
    for i in range(100):
        take_over(known, backends(f"{i}-{j}" for j in range(200)))
    assert len(known._queues[0]._heap) <= 2 * 200 + module.CHUNK + 200


@given(
    seed=st.integers(0, 2**32),
    steps=st.lists(st.sampled_from(["take", "give", "postpone", "set", "pause"]), max_size=40),
)
def test_the_books_are_kept_whatever_happens(seed: int, steps: list[str]) -> None:
    """In any order of events, also between two chunks of an update, each backend is either
    active or comes exactly once, in the order of the keys."""
    rng = random.Random(seed)
    saved, module.CHUNK = module.CHUNK, 3  # type: ignore[misc]
    try:
        known = KnownBackends(RotationOrder(seed))
        found: list[Backend] = []
        active: list[Backend] = []
        update = known.update(found)
        for step in steps:
            if step == "take" and (backend := known.activate_next(rng.randrange(2))) is not None:
                active.append(backend)
            elif step == "give" and active:
                known.deactivate(active.pop(rng.randrange(len(active))))
            elif step == "postpone" and active:
                known.postpone(active.pop(rng.randrange(len(active))))
            elif step == "set":
                for _ in update:
                    pass
                names = rng.sample(range(30), rng.randrange(30))
                found = [
                    Backend((f"{name}.test", 80 + (rng.random() < 0.1)), priority=name % 2)
                    for name in names
                ]
                update = known.update(found)
            elif step == "pause":
                next(update, None)
            active = [backend for backend in active if backend not in known.removed]
        for _ in update:
            pass
        active = [backend for backend in active if backend not in known.removed]
        assert len(known) == len(found)
        for priority in (0, 1):
            free = {b for b in found if b.priority == priority} - set(active)
            assert known.inactive(priority) == len(free)
            assert all_of(known, priority) == in_order(known, free)
    finally:
        module.CHUNK = saved  # type: ignore[misc]
