"""The times at which idle connections are checked."""

from __future__ import annotations

import math
import random
import statistics

import pytest
from hypothesis import given, strategies as st

from qorb_trio._health.check_schedule import (
    BATCH,
    MANY,
    MAX_SPREAD,
    MIN_SPREAD,
    batch_at,
    is_checkable,
    latest_checkable,
    next_check_at,
    tick,
)


def first_round(count: int, interval: float, seed: int) -> list[float]:
    """The times of the checks of connections that are all idle since 0."""
    rng, now, times = random.Random(seed), 0.0, []
    for left in range(count, 0, -1):
        now = next_check_at(0.0, left, now, interval, rng)
        times.append(now)
    return times


@given(
    since=st.floats(0, 1e6),
    count=st.integers(1, 1000),
    later=st.floats(0, 100),
    interval=st.floats(0.01, 1e4),
    seed=st.integers(0, 100),
)
def test_a_check_is_never_early_and_never_much_late(
    since: float, count: int, later: float, interval: float, seed: int
) -> None:
    """No connection is checked before its interval is over, nor long after, unless overdue."""
    now = since + later
    due = next_check_at(since, count, now, interval, random.Random(seed))
    assert due >= max(now, since + interval)
    assert due <= max(now, since + interval * (1 + MAX_SPREAD)) + 1e-6 * (since + interval)


@pytest.mark.parametrize("seed", range(5))
def test_connections_of_one_instant_are_spread_from_the_first_round_on(seed: int) -> None:
    """A hundred checks fill at least half of an interval, without gaps or crowds."""
    times = first_round(100, 30.0, seed)
    assert times == sorted(times)
    assert times[-1] - times[0] >= 15
    per_second = [sum(second <= time < second + 1 for time in times) for second in range(30, 53)]
    assert max(per_second) <= 15


def test_a_single_connection_is_checked_when_its_interval_is_over() -> None:
    """One connection has a little jitter, so that many clients fall out of step."""
    times = [first_round(1, 10.0, seed)[0] for seed in range(200)]
    assert min(times) >= 10
    assert max(times) <= 10 * (1 + MIN_SPREAD)
    assert statistics.stdev(times) > 0.2


def test_an_overdue_check_is_due_now() -> None:
    """After a long sleep, nothing is put off any more."""
    assert next_check_at(0.0, 5, 1000.0, 30.0, random.Random(0)) == 1000.0


@pytest.mark.parametrize(("count", "interval"), [(0, 30.0), (5, math.inf)])
def test_nothing_to_check(count: int, interval: float) -> None:
    """Without idle connections, or without an interval, there is no check."""
    assert next_check_at(0.0, count, 0.0, interval, random.Random(0)) == math.inf


def test_those_that_may_be_checked() -> None:
    """The candidates are idle for the interval now, or as soon as the oldest one is."""
    assert not is_checkable(5.0, 34.9, 30.0)
    assert is_checkable(5.0, 35.0, 30.0)
    assert latest_checkable(5.0, 10.0, 30.0) == 5.0
    assert latest_checkable(5.0, 50.0, 30.0) == 20.0


@given(
    since=st.floats(0, 1e6),
    count=st.integers(1, 1000),
    interval=st.floats(0.01, 1e4),
    seed=st.integers(0, 100),
)
def test_a_check_in_a_batch_is_no_later_than_others(
    since: float, count: int, interval: float, seed: int
) -> None:
    """The end of its batch is within the spread too."""
    size = tick(MANY, interval)
    due = next_check_at(since, count, since, interval, random.Random(seed), tick=size)
    at = batch_at(due, size)
    assert due <= at
    assert since + interval <= at
    assert at <= since + interval * (1 + MAX_SPREAD) + 1e-6 * (since + interval)


def test_few_checks_make_no_batches() -> None:
    """There is no time to share."""
    assert tick(MANY - 1, 30.0) == 0.0
    assert tick(MANY, 30.0) == 30.0 * BATCH
