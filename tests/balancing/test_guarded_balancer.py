"""A user's balancer: the candidates that it gets, and the effects of its faults."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from qorb_trio import Backend, Balancer, Candidate, LeastLoaded, PeakEwma, RoundRobin
from qorb_trio._balancing.candidates import candidate_of
from qorb_trio._balancing.guard import guard
from qorb_trio._balancing.idle_index import IdleIndex
from qorb_trio._balancing.strategy import FEW, BalancerError, check_balancer

from .kit import Item, choose_for


class Chooser:
    """A balancer that chooses by a function, and remembers what it was shown."""

    def __init__(self, rule: Callable[[Sequence[Candidate]], object] = lambda it: it[-1]) -> None:
        self.rule = rule
        self.shown: list[list[str]] = []
        self.times: list[float] = []

    def choose(self, candidates: Sequence[Candidate], rng: random.Random, now: float) -> Candidate:
        """Choose by the rule."""
        self.shown.append([candidate.backend.name for candidate in candidates])
        self.times.append(now)
        return self.rule(candidates)  # type: ignore[return-value]

    def __repr__(self) -> str:
        return "Chooser()"


class Observer(Chooser):
    """A balancer that observes the claims too."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, float, bool, float]] = []
        self.fault: Exception | None = None

    def observe(self, candidate: Candidate, seconds: float, failed: bool, now: float) -> None:
        """Note it."""
        self.seen.append((candidate.backend.name, seconds, failed, now))
        if self.fault:
            raise self.fault


def index_of(balancer: Chooser, items: Sequence[Item], seed: int = 0) -> IdleIndex[Item]:
    """An index with these sets, whose time is 7."""
    rng = random.Random(seed)
    index: IdleIndex[Item] = IdleIndex(rng, guard(balancer, rng, lambda: 7.0))
    for item in items:
        index.add(item)
    return index


def show(items: Sequence[Item]) -> Sequence[Candidate]:
    """The candidates that a balancer is shown for these sets."""
    shown: list[Candidate] = []

    def rule(candidates: Sequence[Candidate]) -> Candidate:
        shown.extend(candidates)
        return candidates[0]

    index_of(Chooser(rule), items).choose()
    return shown


def test_the_balancer_chooses() -> None:
    """The set whose candidate the balancer returns serves the claim; it is told the time."""
    items = [Item(name) for name in range(3)]
    balancer = Chooser(lambda candidates: candidates[1])
    assert index_of(balancer, items).choose() is items[1]
    assert balancer.shown == [["b0", "b1", "b2"]]
    assert balancer.times == [7.0]


def test_one_candidate_is_no_question() -> None:
    """The balancer is not asked when there is one candidate."""
    items = [Item(0), Item(1)]
    balancer = Chooser()
    index = index_of(balancer, items)
    index.remove(items[0])
    assert choose_for(index) is items[1]
    index.add(items[0])
    assert choose_for(index, avoid=[items[0].backend]) is items[1]
    assert not balancer.shown


def test_a_candidate_tells_the_present_state() -> None:
    """Backend, load, spares and weight are read when they are asked for."""
    items = [Item(0, load=2, weight=3, slots=5), Item(1, weight=0)]
    one, other = show(items)
    assert (one.backend, one.load, one.spares, one.weight) == (items[0].backend, 2, 3, 3)
    assert (other.weight, other.memo) == (0.5, None)
    items[0].claims, items[0].balancing_weight = 4, 9.0
    assert (one.load, one.spares, one.weight) == (4, 1, 9)
    assert repr(one) == "<candidate 'b0': load=4, spares=1>"
    with pytest.raises(AttributeError):
        one.load = 3  # type: ignore[misc]


def test_a_memo_is_kept() -> None:
    """A value that the balancer stores in a memo is there at the next choice."""

    def count(candidates: Sequence[Candidate]) -> Candidate:
        for candidate in candidates:
            candidate.memo = (candidate.memo or 0) + 1
        return candidates[0]

    items = [Item(0), Item(1)]
    index = index_of(Chooser(count), items)
    for _ in range(3):
        index.choose()
        index.remove(items[1])
        index.add(items[1])
    assert [item.candidate and item.candidate.memo for item in items] == [3, 3]


def test_sets_that_come_and_go_are_shown_or_not() -> None:
    """The balancer is shown the sets of the best priority that have a spare now."""
    items = [Item(0), Item(1), Item(2), Item(3, priority=1), Item(4, priority=1)]
    balancer = Chooser()
    index = index_of(balancer, items)
    index.choose()
    index.remove(items[1])
    index.choose()
    index.remove(items[0])
    index.remove(items[2])
    index.choose()
    index.add(items[1])
    index.add(items[0])
    index.choose()
    assert balancer.shown == [["b0", "b1", "b2"], ["b0", "b2"], ["b3", "b4"], ["b1", "b0"]]


@pytest.mark.parametrize("size", [9, 10, 15, 16, 100, 1000])
def test_of_many_a_sample_is_shown(size: int) -> None:
    """Of more than eight sets, the balancer is shown eight, each of them equally often."""
    balancer = Chooser()
    index = index_of(balancer, [Item(name) for name in range(size)])
    times = 50 * size
    for _ in range(times):
        index.choose()
    assert all(len(set(names)) == len(names) == FEW for names in balancer.shown)
    counts = Counter(name for names in balancer.shown for name in names)
    part = FEW / size
    spread = (times * part * (1 - part)) ** 0.5
    assert len(counts) == size
    assert all(abs(count - times * part) <= 5 * spread for count in counts.values())


@pytest.mark.parametrize("balancer", [PeakEwma(), RoundRobin(), LeastLoaded()], ids=repr)
def test_the_cost_does_not_depend_on_the_number(balancer: Balancer) -> None:
    """A choice among any number of sets looks at no more than eight of them, and copies none."""
    rng = random.Random(0)
    items = [Item(name) for name in range(10_000)]
    index: IdleIndex[Item] = IdleIndex(rng, guard(balancer, rng, lambda: 7.0))
    for item in items:
        index.add(item)
    before = index.best
    Item.asked = 0
    for _ in range(100):
        index.choose()
    assert Item.asked <= 100 * FEW
    assert sum(item.candidate is not None for item in items) <= 100 * FEW
    assert index.best is before


def test_avoided_backends_are_not_shown() -> None:
    """With backends to avoid, the balancer chooses among the others."""
    items = [Item(name) for name in range(4)]
    balancer = Chooser(lambda candidates: candidates[0])
    index = index_of(balancer, items)
    assert choose_for(index, avoid=[items[0].backend]) is items[1]
    assert choose_for(index, avoid=[item.backend for item in items]) is items[0]
    assert index.choose() is items[0]
    assert balancer.shown == [["b1", "b2", "b3"]] + 2 * [["b0", "b1", "b2", "b3"]]


def test_a_key_is_not_the_balancers_business() -> None:
    """A claim with a key is not shown to the balancer."""
    balancer = Chooser()
    choose_for(index_of(balancer, [Item(0), Item(1)]), key="k")
    assert not balancer.shown


def test_a_balancer_that_raises() -> None:
    """The error tells of it, and has the balancer's own as its cause; the next claim is asked."""
    fault = LookupError("no luck")

    def rule(candidates: Sequence[Candidate]) -> Candidate:
        if fault not in raised:
            raised.append(fault)
            raise fault
        return candidates[0]

    raised: list[Exception] = []
    items = [Item(0), Item(1)]
    index = index_of(Chooser(rule), items)
    with pytest.raises(BalancerError, match=r"balancer Chooser\(\) raised LookupError") as caught:
        index.choose()
    assert caught.value.__cause__ is fault
    assert index.choose() is items[0]


def test_what_is_no_exception_passes() -> None:
    """An interrupt in the balancer is not wrapped."""

    def rule(_: Sequence[Candidate]) -> object:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index_of(Chooser(rule), [Item(0), Item(1)]).choose()


class Equal:
    """Equal to everything."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    "stranger", [None, 1, "b0", Equal(), Backend(("a", 1))], ids=lambda it: type(it).__name__
)
def test_a_balancer_that_returns_a_stranger(stranger: object) -> None:
    """An object that is no candidate is an error that shows it, even if it is equal to one."""
    index = index_of(Chooser(lambda _: stranger), [Item(0), Item(1)])
    with pytest.raises(BalancerError, match="which is none of the candidates"):
        index.choose()


def test_a_candidate_of_before_is_a_stranger() -> None:
    """A balancer that remembers a candidate cannot choose it when it has no spare."""
    items = [Item(0), Item(1), Item(2)]
    first = show(items)[0]
    index = index_of(Chooser(lambda _: first), items)
    assert index.choose() is items[0]
    index.remove(items[0])
    with pytest.raises(BalancerError, match="<candidate 'b0'"):
        index.choose()


def test_the_balancer_hears_of_claims() -> None:
    """A balancer that observes is told the candidate, the duration, the failure and the time."""
    items = [Item(0), Item(1)]
    balancer = Observer()
    guarded = guard(balancer, random.Random(0), lambda: 3.0)
    assert guarded is not None
    assert guarded.observe is not None
    guarded.observe(candidate_of(items[1]), 0.5, True, 3.0)
    assert balancer.seen == [("b1", 0.5, True, 3.0)]
    other = guard(Chooser(), random.Random(0), lambda: 3.0)
    assert other is not None
    assert other.observe is None


def test_a_balancer_that_fails_to_observe(caplog: pytest.LogCaptureFixture) -> None:
    """The first failure is logged with its traceback; later claims are still told of."""
    balancer = Observer()
    balancer.fault = ValueError("odd")
    guarded = guard(balancer, random.Random(0), lambda: 3.0)
    assert guarded is not None
    assert guarded.observe is not None
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            guarded.observe(candidate_of(Item(0)), 0.5, False, 3.0)
    (record,) = caplog.records
    assert "balancer Chooser(): observe() failed" in record.getMessage()
    assert record.exc_info is not None
    assert len(balancer.seen) == 3


def test_the_default_needs_no_guard() -> None:
    """`LeastLoaded` is the rule of the index itself; a subclass or another balancer is not."""
    assert guard(LeastLoaded(), random.Random(0), lambda: 0.0) is None
    assert guard(RoundRobin(), random.Random(0), lambda: 0.0) is not None


@pytest.mark.parametrize(
    "balancer", [LeastLoaded(), PeakEwma(), RoundRobin(), Chooser(), Observer()], ids=repr
)
def test_right_balancers(balancer: object) -> None:
    """An object with the methods is a balancer."""
    check_balancer(balancer)


class Lacking:
    """No balancer."""

    choose = 3


class Asynchronous:
    """No balancer: nothing may wait while a backend is chosen."""

    async def choose(self, *_: object) -> None:
        """Wait."""


class Deaf(Chooser):
    """No balancer: it cannot be told."""

    observe = None


@pytest.mark.parametrize(
    ("balancer", "words"),
    [
        (None, "must have a method choose"),
        ("least_loaded", "must have a method choose, not 'least_loaded'"),
        (LeastLoaded, r"a class: did you mean LeastLoaded\(\)\?"),
        (Lacking(), "must have a method choose"),
        (Asynchronous(), "choose must not be async"),
        (Deaf(), "must have a method observe"),
    ],
    ids=lambda it: it if isinstance(it, str) else type(it).__name__,
)
def test_wrong_balancers(balancer: object, words: str) -> None:
    """An object that is no balancer is refused by an error that names the argument."""
    with pytest.raises(TypeError, match=f"balancer.*{words}"):
        check_balancer(balancer)


@pytest.mark.parametrize("is_avoided", [True, False])
def test_turns_that_were_missed_in_a_pool(is_avoided: bool) -> None:
    """A backend that was avoided, or without a spare, for long catches up on a few turns only."""
    items = [Item(name) for name in range(3)]
    rng = random.Random(0)
    index: IdleIndex[Item] = IdleIndex(rng, guard(RoundRobin(), rng, lambda: 7.0))
    for item in items:
        index.add(item)
    for _ in range(30):
        index.choose()
    if not is_avoided:
        index.remove(items[0])
    for _ in range(1000):
        assert choose_for(index, avoid=[items[0].backend]) is not items[0]
        if is_avoided:  # which leaves the other claims as they are
            assert index.best[0] is items[0]
    if not is_avoided:
        index.add(items[0])
    names = [index.choose().name for _ in range(60)]
    assert names[:8] == [0] * 8
    assert sorted(Counter(names[9:]).values()) == [17, 17, 17]
