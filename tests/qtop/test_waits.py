"""`WaitTimes`: percentiles of the last few seconds."""

from __future__ import annotations

import math
import random

import pytest

from qorb_trio.qtop._waits import WINDOW, WaitTimes


@pytest.mark.parametrize("share", [0, 1])
def test_a_percentile_is_rounded_up_by_an_eighth_at_most(share: int) -> None:
    """The median and the 99th percentile are what sorting gives, or up to 12.5 % more."""
    rng = random.Random(6)
    times = WaitTimes(0.0)
    waits = [10 ** rng.uniform(-6, 3) for _ in range(5000)]
    for wait in waits:
        times.add("a", wait, 0.0)
    exact = sorted(waits)[math.ceil(len(waits) * (0.5, 0.99)[share]) - 1]
    assert exact <= times.percentiles(0.0)["a"][share] <= exact * 1.125


def test_no_wait_at_all_is_a_microsecond_or_so() -> None:
    """A claim that took no time, as on a mock clock, has its place too."""
    times = WaitTimes(0.0)
    times.add("a", 0.0, 0.0)
    assert times.percentiles(0.0)["a"] == pytest.approx((1e-6, 1e-6), rel=0.125)


def test_keys_are_apart() -> None:
    """Each key has its own percentiles, and one that has waited for nothing has none."""
    times = WaitTimes(0.0)
    times.add("a", 1.0, 0.0)
    times.add("b", 2.0, 0.0)
    found = times.percentiles(0.0)
    assert found.keys() == {"a", "b"}
    assert found["a"] < (1.2, 1.2) < found["b"]


def test_old_waits_are_forgotten() -> None:
    """A wait is remembered for one to two windows, whether others come or not."""
    times = WaitTimes(0.0)
    times.add("a", 1.0, 0.0)
    assert times.percentiles(WINDOW)["a"][1] >= 1
    times.add("a", 0.001, WINDOW)
    assert times.percentiles(2 * WINDOW - 1)["a"][1] >= 1
    assert times.percentiles(2 * WINDOW)["a"][1] < 1
    assert times.percentiles(3 * WINDOW) == {}


def test_a_pause_forgets_all() -> None:
    """What comes after a long silence is not mixed with what was before it."""
    times = WaitTimes(0.0)
    times.add("a", 1.0, 0.0)
    times.add("a", 0.001, 5 * WINDOW)
    assert times.percentiles(5 * WINDOW)["a"][1] < 1
