"""The weight of a backend that has just come online."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, strategies as st

from qorb_trio._health.slow_start import next_step_at, weight_factor


def test_ten_steps_from_a_tenth_to_the_whole() -> None:
    """The weight begins with a tenth and rises by the same amount in ten steps."""
    now, seen = 100.0, []
    while now < math.inf:
        seen.append((now, weight_factor(100, now, 30)))
        now = next_step_at(100, now, 30)
    assert [time for time, _ in seen] == [100 + 3 * step for step in range(11)]
    factors = [factor for _, factor in seen]
    assert factors == pytest.approx([0.1 + 0.09 * step for step in range(11)])
    assert factors[-1] == 1.0


def test_between_two_steps_the_weight_stays() -> None:
    """Shortly before a step the weight is still that of the last one."""
    assert weight_factor(0, 2.99, 30) == 0.1
    assert weight_factor(0, 29.9, 30) == pytest.approx(0.91)
    assert next_step_at(0, 2.99, 30) == 3


def test_switched_off() -> None:
    """With no seconds the weight is whole at once, and never changes."""
    assert weight_factor(5, 5, 0) == 1.0
    assert next_step_at(5, 5, 0) == math.inf


@given(st.floats(0, 1e9), st.floats(0.001, 1e6), st.integers(1, 10))
def test_each_step_is_a_step(online_since: float, seconds: float, count: int) -> None:
    """At the time of the next step the weight is greater, however the numbers are rounded."""
    now = online_since
    for _ in range(count):
        before, later = weight_factor(online_since, now, seconds), now
        later = next_step_at(online_since, now, seconds)
        assert later > now
        if later == math.inf:
            break
        assert weight_factor(online_since, later, seconds) > before
        now = later
