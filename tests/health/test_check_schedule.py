"""The times at which idle connections are checked."""

from __future__ import annotations

import math
import random
import statistics
from collections import deque

import pytest
from hypothesis import given, strategies as st

from qorb_trio._health.check_schedule import count_checkable, is_checkable, next_check_at


def play(
    idle_since: list[float], until: float, *, interval: float = 30.0, seed: int = 0
) -> list[tuple[float, float]]:
    """Check idle connections in virtual time: when each check was, and after which idleness."""
    rng, idle, now = random.Random(seed), deque(sorted(idle_since)), max(idle_since)
    checks: list[tuple[float, float]] = []
    while True:
        due = next_check_at(idle[0], count_checkable(idle, now, interval), now, interval, rng)
        assert due >= now
        if due > until:
            return checks
        now = due
        assert is_checkable(idle[0], now, interval)
        checks.append((now, now - idle.popleft()))
        idle.append(now)


@pytest.mark.parametrize("count", [4, 8, 16, 100])
def test_g_checks_are_spread_from_the_first_round_on(count: int) -> None:
    """Of connections made in one instant, the checks of the first round are spread evenly over
    the second half of the interval, and those of later rounds over at least as much."""
    first, later = [], []
    for seed in range(1600 // count):
        times = [time for time, _ in play([0.0] * count, 120, seed=seed)]
        first += times[:count]
        later += [time % 15 for time in times if time > 60]
    assert 15 <= min(first) < 16
    assert 29 < max(first) <= 30
    assert statistics.mean(first) == pytest.approx(22.5, abs=0.8)
    quarters = [sum(15 + 3.75 * k <= time < 18.75 + 3.75 * k for time in first) for k in range(4)]
    assert min(quarters) > 0.75 * len(first) / 4
    quarters = [sum(3.75 * k <= time < 3.75 * (k + 1) for time in later) for k in range(4)]
    assert min(quarters) > 0.75 * len(later) / 4


@pytest.mark.parametrize("count", [1, 8, 100])
def test_g_no_second_has_all_checks(count: int) -> None:
    """The checks of one second are never many more than the mean, in any round."""
    worst = 0
    for seed in range(10):
        times = [int(time) for time, _ in play([0.0] * count, 200, seed=seed)]
        worst = max(worst, *(times.count(second) for second in set(times)))
    assert worst <= 3 + 4 * count / 15


@pytest.mark.parametrize("count", [1, 8, 100])
def test_each_connection_is_checked_within_its_interval(count: int) -> None:
    """No connection is checked before half of its interval or after it, and on average at about
    three quarters of it, in later rounds too."""
    gaps = [gap for seed in range(9) for _, gap in play([0.0] * count, 300, seed=seed)]
    assert min(gaps) >= 15
    assert max(gaps) <= 30 + 1e-9
    assert 0.7 * 30 < statistics.mean(gaps) < 0.85 * 30


@given(
    idle_since=st.floats(0, 1000),
    count=st.integers(1, 1000),
    now=st.floats(0, 2000),
    interval=st.floats(0.001, 1000),
    seed=st.integers(0, 1000),
)
def test_within_the_second_half(
    idle_since: float, count: int, now: float, interval: float, seed: int
) -> None:
    """The next check is in the second half of the interval, or now if that is past."""
    due = next_check_at(idle_since, count, now, interval, random.Random(seed))
    assert due >= max(now, idle_since + interval / 2) - 1e-9
    assert due <= max(now, idle_since + interval) + 1e-9


def test_nothing_to_check() -> None:
    """Without idle connections, or with an endless interval, nothing is ever due."""
    rng = random.Random(0)
    assert next_check_at(0, 0, 5, 30, rng) == math.inf
    assert next_check_at(0, 7, 5, math.inf, rng) == math.inf


@pytest.mark.parametrize(
    ("idle_times", "now", "count"),
    [
        ([], 5, 0),
        ([0.0], 5, 1),
        ([0.0, 0.0, 0.0, 1.0], 5, 3),
        ([0.0, 1.0, 2.0, 3.0], 17, 3),
        ([0.0, 1.0, 2.0, 3.0], 18, 4),
    ],
)
def test_which_connections_take_part(idle_times: list[float], now: float, count: int) -> None:
    """The next check is drawn among those that may be checked now, or together with the
    oldest."""
    assert count_checkable(idle_times, now, 30) == count
