"""The back-off, as a function."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
from hypothesis import given, strategies as st

from qorb_trio._health.backoff import FEW_FAILING, JITTER, MAX_TRIES, crowded_delay, jittered_delay


class Edge(random.Random):
    """Draws always one end of what there is to draw from."""

    def __init__(self, where: float) -> None:
        super().__init__()
        self._where = where

    def random(self) -> float:
        """The end."""
        return self._where


LOWEST, HIGHEST = Edge(0.0), Edge(1.0)


def jittered(failures: int, rng: random.Random, **numbers: float) -> float:
    """A delay with jitter, of the default policy but for the numbers given."""
    numbers = {"minimum": 0.02, "maximum": 30.0, "spread": 0.02} | numbers
    return jittered_delay(failures, rng=rng, **numbers)


@given(
    failures=st.integers(1, 10_000),
    minimum=st.floats(1e-300, 1e300),
    factor=st.floats(1, 1e8),
    spread=st.floats(0, 1e300),
    where=st.floats(0, 1),
)
def test_g_jitter_stays_within_the_range(
    failures: int, minimum: float, factor: float, spread: float, where: float
) -> None:
    """The delay is between the shortest and the longest, for all numbers."""
    maximum = minimum * factor
    wait = jittered_delay(
        failures, minimum=minimum, maximum=maximum, spread=spread, rng=Edge(where)
    )
    assert minimum <= wait <= maximum


@pytest.mark.parametrize("failures", [*range(1, 30), 10_000])
@pytest.mark.parametrize("spread", [0.0, 0.02, 5.0])
def test_g_jitter_is_at_least_a_quarter_of_the_delay(failures: int, spread: float) -> None:
    """Each delay has a random part of a quarter of it at least, and of `spread` at least."""
    shortest = jittered(failures, LOWEST, spread=spread)
    longest = jittered(failures, HIGHEST, spread=spread)
    assert longest - shortest >= longest / 4
    assert longest - shortest >= spread * (1 - 1e-12)


@pytest.mark.parametrize(
    ("failures", "shortest", "longest"),
    [(1, 0.5, 0.75), (2, 1, 1.5), (5, 8, 12), (6, 16, 24), (7, 15, 30), (99, 15, 30)],
)
def test_g_the_ends_of_jittered_delays(failures: int, shortest: float, longest: float) -> None:
    """The delay doubles with up to half of it added, and at the cap with up to half off."""
    ends = [jittered(failures, rng, minimum=0.5) for rng in (LOWEST, HIGHEST)]
    assert ends == [shortest, longest]


def test_g_jitter_without_a_range() -> None:
    """There is no jitter if the shortest and the longest are the same, and no number is drawn."""
    assert jittered(5, Edge(math.nan), minimum=2, maximum=2) == 2


@pytest.mark.parametrize(
    ("failures", "minimum", "expected"), [(11, 1, 1024 * (1 + JITTER)), (10_000, 1, math.inf)]
)
def test_g_jitter_without_a_longest_delay(failures: int, minimum: float, expected: float) -> None:
    """Without a longest delay it goes on doubling, until it is endless."""
    assert jittered(failures, HIGHEST, minimum=minimum, maximum=math.inf) == expected


def test_g_jitter_at_the_end_of_the_floats() -> None:
    """A delay to which nothing can be added any more has no jitter."""
    delays = {jittered(1024, rng, minimum=1, maximum=math.inf) for rng in (LOWEST, HIGHEST)}
    assert delays == {2.0**1023, 1.5 * 2.0**1023}
    assert jittered(1, HIGHEST, minimum=1.7e308, maximum=math.inf, spread=0) == 1.7e308


def first_retry_after(outage: float, rng: random.Random) -> float:
    """The time of the first retry after an outage, of a client that has failed since 0."""
    now, failures = 0.0, 0
    while now < outage:
        failures += 1
        now += jittered(failures, rng)
    return now


def test_g_two_hundred_clients_do_not_retry_in_step() -> None:
    """After an outage of two minutes, no second has more than three times the mean of the
    retries, over pooled seeds."""
    worst = []
    for seed in range(20):
        rng = random.Random(seed)
        seconds = Counter(int(first_retry_after(120, rng)) for _ in range(200))
        assert max(seconds) < 150
        worst.append(max(seconds.values()) / (200 / 30))
    assert sum(worst) / len(worst) < 2.5
    assert sum(one > 3 for one in worst) <= 1


def test_a_few_failing_backends_make_no_way_for_each_other() -> None:
    """Up to `FEW_FAILING` backends that fail go by their own back-offs alone."""
    rng = random.Random(0)
    before = rng.getstate()
    assert crowded_delay(FEW_FAILING, maximum=30.0, rng=rng) == 0.0
    assert rng.getstate() == before


@pytest.mark.parametrize("failing", [600, 2000, 4000])
def test_many_failing_backends_are_tried_at_a_steady_rate(failing: int) -> None:
    """The mean of the delays is that of `MAX_TRIES` tries a second, and they are spread."""
    rng, mean = random.Random(1), (failing - FEW_FAILING) / MAX_TRIES
    delays = [crowded_delay(failing, maximum=math.inf, rng=rng) for _ in range(2000)]
    assert sum(delays) / len(delays) == pytest.approx(mean, rel=0.05)
    assert 0.5 * mean <= min(delays) < 0.6 * mean
    assert 1.4 * mean < max(delays) <= 1.5 * mean


def test_the_longest_back_off_holds_for_many_failing_backends_too() -> None:
    """However many backends fail, each is tried again within the maximum."""
    rng = random.Random(2)
    assert crowded_delay(1_000_000, maximum=30.0, rng=rng) == 30.0
