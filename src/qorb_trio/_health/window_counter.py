"""A count of recent events, in constant space."""

from __future__ import annotations

from typing import final

BUCKETS = 10


@final
class WindowCounter:
    """Counts the events of the last `window` seconds, to within a tenth of it.

    Time is divided into buckets of a tenth of the window; those that have left the
    window are dropped when the counter is next used. The scheme is that of qorb's
    ``WindowedCounter``.
    """

    __slots__ = ("_buckets", "_width")

    def __init__(self, window: float) -> None:
        self._width = window / BUCKETS
        # [number of the bucket, events]; a list, because most are empty: a deque takes 600 bytes
        self._buckets: list[list[int]] = []

    def add(self, now: float) -> None:
        """Count one event that happens at the time `now`."""
        bucket = self._expire(now)
        if self._buckets and self._buckets[-1][0] == bucket:
            self._buckets[-1][1] += 1
        else:
            self._buckets.append([bucket, 1])

    def total(self, now: float) -> int:
        """Return the number of events within the window that ends at `now`."""
        self._expire(now)
        return sum(events for _, events in self._buckets)

    def _expire(self, now: float) -> int:
        bucket = int(now // self._width)
        while self._buckets and self._buckets[0][0] <= bucket - BUCKETS:
            del self._buckets[0]
        return bucket
