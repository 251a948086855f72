"""`RateLimit`: so much at once, then so much per second."""

from __future__ import annotations

from qorb_trio.qtop._rate_limit import RateLimit


def test_a_burst_and_then_the_rate() -> None:
    """A burst is allowed at once; after it, as much as the rate brings back."""
    limit = RateLimit(rate=10, burst=3)
    assert [limit.take(5.0) for _ in range(5)] == [True, True, True, False, False]
    assert [limit.take(5.2) for _ in range(3)] == [True, True, False]
    assert [limit.take(99.0) for _ in range(4)] == [True, True, True, False]


def test_a_clock_that_goes_back_brings_nothing() -> None:
    """Time that was counted is not counted again."""
    limit = RateLimit(rate=1, burst=1)
    assert [limit.take(now) for now in (2.0, 1.0, 2.0, 2.5, 3.0)] == [True, *[False] * 3, True]
