"""All backends of a pool, and the order of those that it does not use."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

from qorb_trio import Backend
from qorb_trio._planning import inactive_queue, known as known_module, known_set, next_set
from qorb_trio._planning.known import KnownBackends, Replacement
from qorb_trio._planning.rotation import RotationOrder


def backends(
    names: Iterable[object], *, priority: int = 0, weight: int = 1, port: int = 80
) -> list[Backend]:
    """Return backends with these names."""
    return [
        Backend((f"{name}.test", port), name=str(name), priority=priority, weight=weight)
        for name in names
    ]


def take_over(known: KnownBackends, found: Iterable[Backend]) -> Replacement:
    """Let another set take the place of the present one."""
    found = list(found)
    exhaust(known.read(found, len(found)))
    replacement = known.replace()
    exhaust(known.tidy())
    return replacement


def exhaust(pauses: Iterator[None]) -> int:
    """Go on until the end; return the number of pauses."""
    return sum(1 for _ in pauses)


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
    known.deactivate(first, behind=key)
    assert known.key(first) > key
    assert all_of(known).index(first.name) > 0


def test_a_removed_backend_is_forgotten() -> None:
    """Active backends that are not in the next set are told; inactive ones just vanish."""
    known = KnownBackends(RotationOrder(3))
    take_over(known, backends(range(10)))
    stays, *leaves = (known.activate_next(0) for _ in range(4))
    assert stays is not None
    assert take_over(known, [stays]).removed == leaves
    assert (len(known), known.inactive(0), known.priorities()) == (1, 0, [])
    assert known.is_active(stays)
    assert known.activate_next(0) is None
    assert take_over(known, []).removed == [stays]
    assert len(known) == 0


def test_a_backend_that_returns_has_its_old_place() -> None:
    """The key of a backend survives its absence, whatever turns end meanwhile."""
    order = RotationOrder(3)
    known = KnownBackends(order)
    found = backends(range(10))
    take_over(known, found)
    keys = [known.key(backend) for backend in found]
    take_over(known, [])
    for i in range(50):
        order.end_turn(f"other{i}", 1)
    take_over(known, found)
    assert [known.key(backend) for backend in found] == pytest.approx(keys)


def test_a_newcomer_does_not_make_up_for_missed_turns() -> None:
    """A backend that comes after many turns is behind the backends whose turn it is."""
    order = RotationOrder(3)
    known = KnownBackends(order)
    take_over(known, backends(range(10)))
    for _ in range(50):
        order.end_turn("0", 1)
    ended = order.key("0", 1) - 2
    (new,) = backends(["new"])
    take_over(known, [*backends(range(10)), new])
    assert known.key(new) > ended


def test_a_known_name_at_a_new_address_is_a_new_backend() -> None:
    """The old backend is removed, and the new one is inactive, at the old one's place."""
    known = KnownBackends(RotationOrder(3))
    take_over(known, backends("ab"))
    old = known.activate_next(0)
    assert old is not None
    assert take_over(known, backends("ab", port=81)).removed == [old]
    assert known.inactive(0) == 2
    new = known.activate_next(0)
    assert new is not None
    assert (new.name, new.port) == (old.name, 81)
    assert known.activate_next(0) is not None


def test_two_backends_of_one_name_are_refused() -> None:
    """A set with one name at two addresses is an error, and changes nothing; a backend that is
    named twice counts once."""
    known = KnownBackends(RotationOrder(3))
    found = backends("abb")
    take_over(known, found)
    assert (len(known), known.inactive(0)) == (2, 2)
    with pytest.raises(ValueError, match=r"two backends named 'b': .*80.* and .*81"):
        take_over(known, [*found, *backends("b", port=81)])
    assert (len(known), known.inactive(0)) == (2, 2)


def test_a_backend_that_is_postponed_while_a_set_is_read_is_not_lost() -> None:
    """A backend that becomes inactive, at a later place, after it was read comes at that place."""
    known = KnownBackends(RotationOrder(3))
    take_over(known, backends("abc"))
    active = known.activate_next(0)
    assert active is not None
    for _ in known.read(backends("abc"), 3):
        pass
    known.deactivate(active, behind=1e6)
    known.replace()
    found = [known.activate_next(0) for _ in range(4)]
    assert set(found[:2]) == set(backends("abc")) - {active}
    assert found[2:] == [active, None]


def test_changed_priorities_and_weights_change_the_place() -> None:
    """An inactive backend moves to its new place; an active one stays active, and is told."""
    known = KnownBackends(RotationOrder(3))
    take_over(known, backends("ab"))
    active = known.activate_next(0)
    assert active is not None
    replacement = take_over(known, backends("ab", priority=2, weight=5))
    assert known.priorities() == [2]
    assert replacement.removed == []
    assert [(it, it.weight) for it in replacement.changed] == [(active, 5)]
    assert known.is_active(active)
    inactive = known.activate_next(2)
    assert inactive is not None
    assert inactive.weight == 5
    assert known.activate_next(0) is None
    known.deactivate(active)
    assert known.priorities() == [2]
    assert known.activate_next(2) == active


def test_a_heavier_weight_brings_a_backend_forward() -> None:
    """The rest of the wait of an inactive backend is divided by its weight."""
    known = KnownBackends(RotationOrder(3))
    take_over(known, backends("a"))
    (heavy,) = backends("a", weight=10)
    key = known.key(heavy)
    take_over(known, [heavy])
    assert known.key(heavy) == pytest.approx(key / 10)


def test_a_small_set_is_activated_in_the_resolvers_order() -> None:
    """All that are inactive become active, in the order of the set."""
    known = KnownBackends(RotationOrder(3))
    found = backends("hgfedcba")
    take_over(known, found)
    first = known.activate_next(0)
    assert known.activate_all() == [backend for backend in found if backend != first]
    assert not known.has_inactive
    assert [known.position(name) for name in "hgx"] == [0, 1, 8]


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let there be many pauses, and many parts."""
    for module_, name in ((next_set, "CHUNK"), (inactive_queue, "CHUNK"), (known_set, "PART")):
        monkeypatch.setattr(module_, name, 10)


@pytest.mark.usefixtures("small_chunks")
def test_large_sets_are_read_and_freed_in_chunks() -> None:
    """Reading a set pauses after each chunk, and so does freeing it. Until the replacement,
    nothing changes."""
    known = KnownBackends(RotationOrder(3))
    assert exhaust(known.read(backends(range(9)), 9)) == 0
    known.replace()
    many = backends(range(1000))
    assert exhaust(known.read(many, 1000)) == 100
    assert len(known) == 9
    known.replace()
    assert len(known) == 1000
    assert exhaust(known.tidy()) < 20
    exhaust(known.read(many[:5], 5))
    known.replace()
    assert len(known) == 5
    assert exhaust(known.tidy()) >= 250


@pytest.mark.usefixtures("small_chunks")
def test_places_of_very_many_are_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A set that is larger than the memory for places leaves none behind."""
    monkeypatch.setattr(known_module, "MAX_REMEMBERED", 20)
    order = RotationOrder(3)
    known = KnownBackends(order)
    take_over(known, backends(range(30)))
    take_over(known, backends(["x"]))
    assert list(order._places) == ["x"]
    take_over(known, backends(range(15)))
    take_over(known, backends(["y"]))
    assert len(order._places) == 1 + 15 + 1


def test_stale_entries_do_not_pile_up() -> None:
    """After many sets that share nothing, the queue has room for the last of them only."""
    known = KnownBackends(RotationOrder(3))
    for i in range(100):
        take_over(known, backends(f"{i}-{j}" for j in range(200)))
    assert len(known._queues[0]) <= 2 * 200 + inactive_queue.CHUNK
    take_over(known, [])
    take_over(known, [])
    assert len(known._queues) <= 1


@pytest.mark.usefixtures("small_chunks")
def test_queues_of_priorities_that_are_gone_are_removed() -> None:
    """A priority that no backend has any more leaves nothing behind."""
    known = KnownBackends(RotationOrder(3))
    take_over(known, [*backends(range(100), priority=5), *backends("a")])
    take_over(known, backends("a"))
    assert list(known._queues) == [0]


@pytest.mark.usefixtures("small_chunks")
@given(
    seed=st.integers(0, 2**32),
    steps=st.lists(
        st.sampled_from(["take", "take", "give", "postpone", "set", "pause", "pause"]),
        max_size=40,
    ),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(seed=5200768, steps=["take", "set", "pause", "set", "take", "give", "set", "take"])
def test_the_books_are_kept_whatever_happens(seed: int, steps: list[str]) -> None:
    """In any order of events, also in the pauses of a new set, each backend is either active
    or comes exactly once, in the order of the keys."""
    books = Books(seed)
    for step in steps:
        getattr(books, step)()
        books.check_active()
    books.finish()
    books.check()


class Books:
    """A `KnownBackends`, and what it should know."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.known = KnownBackends(RotationOrder(seed))
        self.found: list[Backend] = []
        self.active: list[Backend] = []
        self.work = self.take_over([])

    def take_over(self, found: list[Backend]) -> Iterator[None]:
        yield from self.known.read(found, len(found))
        gone = self.known.replace().removed
        assert set(gone) == set(self.active) - set(found)
        self.active = [backend for backend in self.active if backend not in gone]
        self.found = found
        yield from self.known.tidy()

    def set(self) -> None:
        self.finish()
        names = self.rng.sample(range(60), self.rng.randrange(60))
        self.work = self.take_over([self.some_backend(name) for name in names])

    def some_backend(self, name: int) -> Backend:
        rng = self.rng
        port = 80 + (rng.random() < 0.1)
        priority = (name + (rng.random() < 0.1)) % 2
        weight = 1 + (rng.random() < 0.1)
        return Backend((f"{name}.test", port), name=str(name), priority=priority, weight=weight)

    def pause(self) -> None:
        next(self.work, None)

    def finish(self) -> None:
        exhaust(self.work)

    def take(self) -> None:
        backend = self.known.activate_next(self.rng.randrange(2))
        if backend is not None:
            assert backend not in self.active
            self.active.append(backend)

    def pop_active(self) -> Backend:
        return self.active.pop(self.rng.randrange(len(self.active)))

    def give(self) -> None:
        if self.active:
            self.known.deactivate(self.pop_active())

    def postpone(self) -> None:
        if self.active:
            backend = self.pop_active()
            self.known.deactivate(backend, behind=self.known.key(backend))

    def check_active(self) -> None:
        assert all(map(self.known.is_active, self.active))
        assert self.known.has_inactive == (len(self.active) < len(self.found))
        for priority in (0, 1):
            assert self.known.inactive(priority) == len(self.free(priority))

    def free(self, priority: int) -> list[Backend]:
        active = set(self.active)
        return [it for it in self.found if it.priority == priority and it not in active]

    def check(self) -> None:
        assert len(self.known) == len(self.found)
        for priority in (0, 1):
            free = self.free(priority)
            assert all_of(self.known, priority) == in_order(self.known, free)
