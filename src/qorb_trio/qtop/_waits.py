"""`WaitTimes`: percentiles of durations, of the last few seconds and by key."""

from __future__ import annotations

import math
from typing import final

#: The durations of the last one to two times so many seconds are what percentiles tell of.
WINDOW = 10.0
#: Buckets for each doubling: a percentile is rounded up, by an eighth at most.
_PER_DOUBLING = 8
_SHORTEST = 1e-6


def _bucket(seconds: float) -> int:
    fraction, exponent = math.frexp(max(seconds, _SHORTEST))
    return exponent * _PER_DOUBLING + int((fraction - 0.5) * 2 * _PER_DOUBLING)


def _upper_bound(bucket: int) -> float:
    exponent, step = divmod(bucket, _PER_DOUBLING)
    return math.ldexp(0.5 + (step + 1) / (2 * _PER_DOUBLING), exponent)


def _percentile(buckets: dict[int, int], total: int, share: float) -> float:
    rank = math.ceil(total * share)
    for bucket in sorted(buckets):
        rank -= buckets[bucket]
        if rank <= 0:
            return _upper_bound(bucket)
    raise AssertionError("the buckets hold less than their total")


@final
class WaitTimes:
    """Counts durations in buckets that grow by steps of an eighth.

    There are two generations of buckets, and the older one is dropped as a whole: so what
    is kept does not grow with the number of durations, and nothing is ever copied.
    """

    def __init__(self, now: float) -> None:
        self._turn_at: float = now + WINDOW
        self._newer: dict[str, dict[int, int]] = {}
        self._older: dict[str, dict[int, int]] = {}
        #: The percentiles as they were found last, without those that have changed since.
        self._found: dict[str, tuple[float, float]] = {}
        self._changed: set[str] = set()

    def add(self, key: str, seconds: float, now: float) -> None:
        """Count a duration under a key."""
        if now >= self._turn_at:
            self._turn(now)
        buckets = self._newer.setdefault(key, {})
        bucket = _bucket(seconds)
        buckets[bucket] = buckets.get(bucket, 0) + 1
        self._changed.add(key)

    def percentiles(self, now: float) -> dict[str, tuple[float, float]]:
        """The median and the 99th percentile for each key that has any durations."""
        if now >= self._turn_at:
            self._turn(now)
        for key in self._changed:
            self._found[key] = self._percentiles_of(key)
        self._changed.clear()
        return self._found

    def _percentiles_of(self, key: str) -> tuple[float, float]:
        buckets = dict(self._older.get(key, ()))
        for bucket, count in self._newer.get(key, {}).items():
            buckets[bucket] = buckets.get(bucket, 0) + count
        total = sum(buckets.values())
        return _percentile(buckets, total, 0.5), _percentile(buckets, total, 0.99)

    def _turn(self, now: float) -> None:
        late = now >= self._turn_at + WINDOW
        self._older = {} if late else self._newer
        self._newer = {}
        self._found = {}
        self._changed = set(self._older)
        self._turn_at = now + WINDOW
