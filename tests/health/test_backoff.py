"""The back-off, as a function."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, strategies as st

from qorb_trio._health.backoff import delay


class Edge(random.Random):
    """Draws always one end of what there is to draw from."""

    def __init__(self, where: float) -> None:
        super().__init__()
        self._where = where

    def random(self) -> float:
        """The end."""
        return self._where


LOWEST, HIGHEST = Edge(0.0), Edge(1.0)


@given(
    failures=st.integers(1, 10_000),
    minimum=st.floats(0.001, 10),
    above=st.floats(0, 100),
    spread=st.floats(0, 50),
    where=st.floats(0, 1),
)
def test_always_within_the_range(
    failures: int, minimum: float, above: float, spread: float, where: float
) -> None:
    """Whatever the numbers, the delay is between the shortest and the longest."""
    maximum = minimum + above
    wait = delay(failures, minimum=minimum, maximum=maximum, spread=spread, rng=Edge(where))
    assert minimum <= wait <= maximum * (1 + 1e-12)


@pytest.mark.parametrize("failures", range(1, 20))
def test_doubles_up_to_the_longest(failures: int) -> None:
    """The shortest delay of each try is twice that of the try before, up to the cap."""
    wait = delay(failures, minimum=0.5, maximum=30, spread=0.25, rng=LOWEST)
    assert wait == min(0.5 * 2 ** (failures - 1), 30 - 0.25)


@pytest.mark.parametrize(
    ("failures", "shortest", "longest"),
    [(1, 0.5, 0.75), (2, 1.0, 1.25), (6, 16.0, 16.25), (7, 29.75, 30.0), (9, 29.75, 30.0)],
)
def test_jitter_at_both_ends(failures: int, shortest: float, longest: float) -> None:
    """There is jitter on the first delay, on those that follow, and at the cap."""
    ends = [
        delay(failures, minimum=0.5, maximum=30, spread=0.25, rng=rng) for rng in (LOWEST, HIGHEST)
    ]
    assert ends == [shortest, longest]


def test_jitter_wider_than_the_range() -> None:
    """A spread beyond the range stays within the range."""
    ends = [delay(5, minimum=1, maximum=2, spread=60, rng=rng) for rng in (LOWEST, HIGHEST)]
    assert ends == [1, 2]


@pytest.mark.parametrize("failures", [100, 1025, 10_000])
def test_very_many_failures(failures: int) -> None:
    """Ten thousand failures in a row overflow nothing."""
    assert delay(failures, minimum=0.02, maximum=30, spread=0, rng=LOWEST) == 30


def test_no_longest_delay() -> None:
    """Without a longest delay it goes on doubling, until it is endless."""
    assert delay(11, minimum=1, maximum=math.inf, spread=0, rng=LOWEST) == 1024
    assert delay(11, minimum=1, maximum=math.inf, spread=2, rng=HIGHEST) == 1026


def test_no_longest_delay_at_the_end_of_the_floats() -> None:
    """Where there is no number for it any more, the delay is endless."""
    assert delay(10_000, minimum=1, maximum=math.inf, spread=0, rng=LOWEST) == math.inf
