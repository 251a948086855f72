"""`WaitTimes`: percentiles of the last few seconds."""

from __future__ import annotations

import math
import random

import pytest

from qorb_trio.qtop._waits import WINDOW, WaitTimes


def of(times: WaitTimes, key: str | None, now: float) -> tuple[float, float]:
    """The percentiles of a key that has some."""
    found = times.of(key, now)
    assert found is not None
    return found


@pytest.mark.parametrize("share", [0, 1])
def test_a_percentile_is_rounded_up_by_an_eighth_at_most(share: int) -> None:
    """The median and the 99th percentile are what sorting gives, or up to 12.5 % more."""
    rng = random.Random(6)
    times = WaitTimes(0.0)
    waits = [10 ** rng.uniform(-6, 3) for _ in range(5000)]
    for wait in waits:
        times.add("a", wait, 0.0)
    exact = sorted(waits)[math.ceil(len(waits) * (0.5, 0.99)[share]) - 1]
    assert exact <= of(times, "a", 0.0)[share] <= exact * 1.125


def test_no_wait_at_all_is_a_microsecond_or_so() -> None:
    """A claim that took no time, as on a mock clock, has its place too."""
    times = WaitTimes(0.0)
    times.add("a", 0.0, 0.0)
    assert of(times, "a", 0.0) == pytest.approx((1e-6, 1e-6), rel=0.125)


def test_keys_are_apart() -> None:
    """Each backend has its own percentiles, the pool has those of all, others have none."""
    times = WaitTimes(0.0)
    times.add("a", 1.0, 0.0)
    times.add("b", 2.0, 0.0)
    assert of(times, "a", 0.0) < (1.2, 1.2) < of(times, "b", 0.0)
    assert of(times, None, 0.0) == (of(times, "a", 0.0)[0], of(times, "b", 0.0)[1])
    assert times.of("c", 0.0) is None


def test_old_waits_are_forgotten() -> None:
    """A wait is remembered for one to two windows, whether others come or not."""
    times = WaitTimes(0.0)
    times.add("a", 1.0, 0.0)
    assert of(times, "a", WINDOW)[1] >= 1
    times.add("a", 0.001, WINDOW)
    assert of(times, "a", 2 * WINDOW - 1)[1] >= 1
    assert of(times, "a", 2 * WINDOW)[1] < 1
    assert times.of("a", 3 * WINDOW) is times.of(None, 3 * WINDOW) is None


def test_a_pause_forgets_all() -> None:
    """Waits before and after a long silence are not mixed."""
    times = WaitTimes(0.0)
    times.add("a", 1.0, 0.0)
    times.add("a", 0.001, 5 * WINDOW)
    assert of(times, "a", 5 * WINDOW)[1] < 1
