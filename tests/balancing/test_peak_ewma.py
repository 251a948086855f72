"""`PeakEwma`: the least expected duration wins."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest

from qorb_trio import PeakEwma
from qorb_trio._balancing.candidates import candidate_of

from .candidates import Fake, fakes
from .kit import Item

RNG = random.Random(0)


def choose(candidates: Sequence[Fake], now: float = 0.0, decay: float = 10.0) -> str:
    """The name of the one that is chosen."""
    return PeakEwma(decay).choose(candidates, RNG, now).backend.name


def known(
    name: str, seconds: float, *, load: int = 0, weight: float = 1.0, at: float = 0.0
) -> Fake:
    """A candidate whose first claim was held for these seconds, and ended at a time."""
    fake = Fake(name, load=load, weight=weight)
    PeakEwma().observe(fake, seconds, False, at)
    return fake


def test_the_least_cost_is_chosen() -> None:
    """The cost is the estimate, times one more than the load, divided by the weight."""
    assert choose([known("slow", 0.3), known("fast", 0.1)]) == "fast"
    assert choose([known("slow", 0.3), known("fast", 0.1, load=3)]) == "slow"
    assert choose([known("slow", 0.3, weight=4), known("fast", 0.1)]) == "slow"


def test_a_peak_counts_at_once() -> None:
    """A longer duration becomes the estimate, and shorter ones lower it slowly."""
    one, other = known("one", 0.1), known("other", 0.5)
    PeakEwma().observe(one, 1.0, False, 0.1)
    assert choose([one, other], 0.1) == "other"
    PeakEwma().observe(one, 0.1, False, 0.2)
    assert choose([one, other], 0.2) == "other"


def test_the_average() -> None:
    """After a time equal to the decay, a shorter sample counts for 63 %."""
    one = known("one", 1.0)
    PeakEwma(decay=10.0).observe(one, 0.5, False, 10.0)
    average = math.exp(-1) + 0.5 * (1 - math.exp(-1))
    assert choose([one, known("less", average * 0.999)], 10.0) == "less"
    ten_later = [one, known("more", average * 1.001, at=10.0)]
    assert choose(ten_later, 10.0) == "one"


def test_an_estimate_fades() -> None:
    """A backend that was slow is tried again when its estimate has faded."""
    slow = known("slow", 1.0)
    for now, name in [(20.0, "fast"), (24.0, "slow")]:
        assert choose([slow, known("fast", 0.1, at=now)], now) == name


@pytest.mark.parametrize("load", [0, 1])
def test_one_claim_without_an_estimate(load: int) -> None:
    """A backend without history gets exactly one claim, until that has ended."""
    new = Fake("new")
    candidates = [known("old", 0.1, load=50), new]
    assert choose(candidates, 1.0) == "new"
    new.load = load
    assert [choose(candidates, 1.0 + i) for i in range(5)] == ["old"] * 5
    PeakEwma().observe(new, 0.001, False, 6.0)
    assert choose(candidates, 6.0) == "new"


def test_all_are_tried_first() -> None:
    """In a new pool each backend gets one claim, and then the load decides."""
    candidates = fakes(3)
    for _ in candidates:
        name = choose(candidates)
        next(fake for fake in candidates if fake.name == name).load += 1
    assert [fake.load for fake in candidates] == [1, 1, 1]
    candidates[0].load, candidates[1].weight = 5, 2.0
    assert choose(candidates) == "f1"


def test_a_first_claim_without_a_sample_is_repeated() -> None:
    """If the first claim was cancelled or failed, another follows after the decay."""
    new = Fake("new")
    candidates = [known("old", 0.1), new]
    assert choose(candidates, 0.0) == "new"
    assert choose(candidates, 9.0) == "old"
    new.load = 1
    assert choose(candidates, 11.0) == "old"
    new.load = 0
    assert choose(candidates, 11.0) == "new"
    assert choose(candidates, 12.0) == "old"


def test_an_error_may_raise_an_estimate_but_not_lower_it() -> None:
    """A backend that fails fast does not become attractive, and a slow failure counts."""
    one, other = known("one", 0.2), known("other", 0.1)
    for now in range(20):
        PeakEwma().observe(one, 0.001, True, float(now))
        PeakEwma().observe(other, 0.1, False, float(now))
        assert choose([one, other], float(now)) == "other"
    PeakEwma().observe(other, 30.0, True, 20.0)
    assert choose([one, other], 20.0) == "one"


def test_a_failed_first_claim_is_no_estimate() -> None:
    """A backend whose first claim fails fast does not get the next ones."""
    bad = Fake("bad")
    good = known("good", 0.1)
    assert choose([good, bad]) == "bad"
    PeakEwma().observe(bad, 0.001, True, 0.001)
    assert [choose([good, bad], 0.1) for _ in range(10)] == ["good"] * 10


def test_a_failure_that_was_not_chosen() -> None:
    """A failed claim of a backend that the balancer never chose leaves it without history."""
    bad = Fake("bad")
    PeakEwma().observe(bad, 0.001, True, 0.0)
    assert bad.memo is None


def test_claims_that_take_no_time() -> None:
    """If claims take no time, the load decides."""
    assert choose([known("one", 0.0, load=2), known("other", 0.0, load=1)]) == "other"


def test_an_estimate_of_long_ago() -> None:
    """An estimate that is a billion seconds old can still be compared and updated."""
    candidates = [known("one", 1.0, load=1), known("other", 1.0)]
    assert choose(candidates, 1e9) == "other"
    PeakEwma().observe(candidates[0], 0.5, False, 1e9)
    assert candidates[0].memo[1:] == (0.5, 1e9)


def pick(items: list[Item], now: float, asked: list[float] | None = None) -> Item:
    """Choose among slot sets by the short way, which asks for the time only where it gives way."""

    def clock() -> float:
        if asked is not None:
            asked.append(now)
        return now

    found: Item = PeakEwma().pick(RNG, clock, [candidate_of(item) for item in items]).slot_set
    return found


@pytest.mark.parametrize("seed", range(20))
def test_the_short_way_chooses_the_same(seed: int) -> None:
    """With and without the shortcut, the same backend is chosen."""
    rng = random.Random(seed)
    items = [Item(i, load=rng.randrange(4), weight=rng.randint(1, 3)) for i in range(8)]
    now = rng.uniform(0, 1e6)
    asked: list[float] = []
    pick(items, now, asked)
    for _ in range(100):
        for item in items:
            if rng.random() < 0.8:
                PeakEwma().observe(candidate_of(item), rng.expovariate(1), rng.random() < 0.1, now)
        known_already = all(candidate_of(it).memo for it in items)
        found = pick(items, now, asked)
        if known_already:  # else each choice is another newcomer
            again = PeakEwma().choose([candidate_of(it) for it in items], RNG, now)
            assert again is candidate_of(found)
        found.claims = rng.randrange(4)
        now += rng.expovariate(1)
    assert 0 < len(asked) < 20


def test_the_short_way_gives_way() -> None:
    """Newcomers, great loads and claims that take no time are chosen among in the usual way."""
    items = [Item(0, load=5000, slots=9999), Item(1, load=4000, slots=9999)]
    asked: list[float] = []
    assert pick(items, 1.0, asked) is items[0]  # a newcomer
    for item in items:
        PeakEwma().observe(candidate_of(item), 0.5, False, 1.0)
    assert pick(items, 2.0, asked) is items[1]
    items[0].claims = items[1].claims = 1
    PeakEwma().observe(candidate_of(items[1]), 0.6, False, 2.0)
    assert pick(items, 3.0, asked) is items[0]
    assert asked == [1.0, 2.0]
    candidate_of(items[1]).memo = candidate_of(items[0]).memo = None
    for item in items:
        PeakEwma().observe(candidate_of(item), 0.0, False, 3.0)
    items[0].claims = 2
    assert pick(items, 4.0, asked) is items[1]
    assert asked == [1.0, 2.0, 4.0]


def test_the_short_way_knows_the_weight() -> None:
    """A weight that has changed counts at once."""
    items = [Item(0, load=1), Item(1)]
    for item in items:
        PeakEwma().observe(candidate_of(item), 0.5, False, 1.0)
    assert pick(items, 1.0) is items[1]
    items[0].balancing_weight = 3.0
    candidate_of(items[0]).note_weight()
    assert pick(items, 1.0) is items[0]


@pytest.mark.parametrize("decay", [0, -1, math.nan, math.inf, True, "1"])
def test_wrong_decays(decay: object) -> None:
    """The decay must be a positive and finite number; the error names it."""
    with pytest.raises((TypeError, ValueError), match="decay"):
        PeakEwma(decay=decay)  # type: ignore[arg-type]


def test_it_is_a_value() -> None:
    """The representation shows the decay, whose default is ten seconds."""
    assert repr(PeakEwma()) == "PeakEwma(decay=10.0)"
    assert PeakEwma(5) == PeakEwma(decay=5)
