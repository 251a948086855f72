"""`HangDetector`: after how many seconds a dial seems to hang."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, strategies as st

from qorb_trio._health.hang_detector import (
    SAMPLES,
    SLOW_DIAL,
    SLOW_FACTOR,
    HangDetector,
    abandon_at,
    began_at,
    suspect_at,
)


def after(*samples: tuple[float, float]) -> HangDetector:
    """A detector that knows some connects, as pairs of duration and time."""
    detector = HangDetector()
    for seconds, now in samples:
        detector.record_connect_time(seconds, now)
    return detector


def test_without_connects_a_second_is_slow() -> None:
    """A pool that has not connected yet suspects a dial after the initial timeout of TCP."""
    assert HangDetector().estimate(1000) == 0
    assert HangDetector().hang_timeout(1000) == SLOW_DIAL


def test_fast_connects_change_nothing() -> None:
    """A dial is never suspect before a second, however fast others were."""
    assert after((0.001, 0), (0.3, 1)).hang_timeout(1) == SLOW_DIAL


def test_a_slow_connect_counts_at_once() -> None:
    """Right after a slow connect, others may take several times as long."""
    assert after((0.05, 0), (7, 10)).hang_timeout(10) == SLOW_FACTOR * 7


@pytest.mark.parametrize("before", [0, 1, 2, 100])
@pytest.mark.parametrize("later", [0, 1, 3, 100])
def test_b_one_slow_connect_is_forgotten_within_a_minute(before: int, later: int) -> None:
    """A minute after a connect of 7 s the estimate is near the present connects, whether there
    were many or none."""
    detector = after(*[(0.05, now) for now in range(before)], (7, 100))
    for number in range(later):
        detector.record_connect_time(0.05, 100 + 60 * number / later)
    assert detector.estimate(160) < 0.2
    assert detector.hang_timeout(160) == SLOW_DIAL
    assert detector.estimate(3700) <= 0.05


def test_connects_do_not_speed_up_forgetting() -> None:
    """The estimate depends on the time since a slow connect, not on the number of others."""
    few, many = after((0.05, 0), (7, 10)), after((0.05, 0), (7, 10))
    for number in range(100):
        many.record_connect_time(0.05, 10 + number / 100)
    few.record_connect_time(0.05, 11)
    assert many.estimate(11) == pytest.approx(few.estimate(11), rel=0.01)
    assert many.estimate(11) > 6


def test_usual_connects_are_not_forgotten() -> None:
    """Connects that usually take long are not suspect after a quiet hour."""
    detector = after(*[(2.0, now) for now in range(SAMPLES)])
    assert detector.hang_timeout(3600) == pytest.approx(6)
    for now in range(4000, 4000 + SAMPLES):
        detector.record_connect_time(0.05, now)
    assert detector.hang_timeout(4100) == SLOW_DIAL, "it has become faster"


@given(
    st.lists(st.tuples(st.floats(0, 20), st.floats(0, 100)), min_size=1, max_size=20),
    st.floats(0, 1000),
)
def test_between_the_usual_and_the_slowest(steps: list[tuple[float, float]], later: float) -> None:
    """The estimate is at least that of any later time, at least the latest connect at first,
    and never above the slowest of all."""
    detector, now = HangDetector(), 0.0
    for seconds, step in steps:
        now += step
        detector.record_connect_time(seconds, now)
        assert detector.estimate(now) >= seconds
    slowest = max(seconds for seconds, _ in steps)
    rounding = 1 + 1e-9
    assert detector.estimate(now) <= slowest * rounding
    assert detector.estimate(now + later) <= detector.estimate(now) * rounding


@pytest.mark.parametrize(
    ("since", "retry_at", "began"), [(3, 1, 3), (3, 20, 3), (math.inf, 20, 20), (math.inf, 1, 10)]
)
def test_when_a_dial_began(since: float, retry_at: float, began: float) -> None:
    """A dial that waits for its back-off begins when that is over, but not in the past."""
    assert began_at(since, retry_at, now=10) == began


@pytest.mark.parametrize(
    ("connect_timeout", "max_backoff", "abandoned"),
    [(10, 30, math.inf), (math.inf, 30, 35), (math.inf, 1, 7)],
)
def test_when_a_dial_is_suspect_and_abandoned(
    connect_timeout: float, max_backoff: float, abandoned: float
) -> None:
    """A dial is suspect after its timeout, and abandoned only where nothing else ends it: not
    before it is suspect, nor before the longest back-off."""
    began, timeout = 5.0, 2.0
    limits = {"connect_timeout": connect_timeout, "max_backoff": max_backoff}
    assert suspect_at(began, timeout) == 7
    assert abandon_at(began, timeout, **limits) == abandoned


def test_without_a_dial_nothing_is_due() -> None:
    """A backend that is not dialled never has to be looked at."""
    assert suspect_at(math.inf, 1) == math.inf
    assert abandon_at(math.inf, 1, connect_timeout=math.inf, max_backoff=30.0) == math.inf
