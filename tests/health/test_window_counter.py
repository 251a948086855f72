"""The count of recent events."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from qorb_trio._health.window_counter import BUCKETS, WindowCounter


@given(st.lists(st.floats(0, 300), max_size=60), st.floats(0, 100))
def test_counts_to_within_a_bucket(times: list[float], later: float) -> None:
    """All events of the last nine tenths of the window count, and none older than it."""
    times.sort()
    counter = WindowCounter(60)
    for time in times:
        counter.add(time)
    now = (times[-1] if times else 0) + later
    ages = [now - time for time in times]
    assert sum(age < 53.9 for age in ages) <= counter.total(now) <= sum(age < 60 for age in ages)


@pytest.mark.parametrize(
    ("now", "total"), [(0, 3), (5.9, 3), (53, 3), (59.9, 3), (60, 0), (999, 0)]
)
def test_events_leave_the_window(now: float, total: int) -> None:
    """The events of one instant are forgotten when the window has passed."""
    counter = WindowCounter(60)
    for _ in range(3):
        counter.add(0)
    assert counter.total(now) == total


def test_looking_changes_nothing() -> None:
    """The total may be asked for as often as one likes."""
    counter = WindowCounter(60)
    counter.add(1)
    assert [counter.total(t) for t in (1, 2, 2, 30)] == [1, 1, 1, 1]


def test_constant_space() -> None:
    """The counter keeps at most one number for each bucket."""
    counter = WindowCounter(60)
    for i in range(5000):
        counter.add(i / 7)
        assert len(counter._buckets) <= BUCKETS
