"""`WaitTimes`: percentiles of recent durations, by backend. No I/O here."""

from __future__ import annotations

import math
from typing import final

#: Percentiles are those of the last one to two windows. The length of a window, in seconds.
WINDOW = 10.0
#: Buckets for each doubling: a percentile is rounded up, by at most an eighth.
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
    """Counts durations in buckets whose bounds grow by an eighth.

    There are two generations of buckets, and the older one is dropped as a whole. So the
    memory does not grow with the number of durations, and nothing is copied.
    """

    def __init__(self, now: float) -> None:
        self._turn_at: float = now + WINDOW
        self._newer: dict[str | None, dict[int, int]] = {}
        self._older: dict[str | None, dict[int, int]] = {}
        #: The percentiles as last computed; the keys in `_changed` have new durations since.
        self._found: dict[str | None, tuple[float, float]] = {}
        self._changed: set[str | None] = set()

    def add(self, backend: str, seconds: float, now: float) -> None:
        """Count a duration for a backend, and for the pool as a whole."""
        if now >= self._turn_at:
            self._turn(now)
        bucket = _bucket(seconds)
        for key in (backend, None):
            buckets = self._newer.setdefault(key, {})
            buckets[bucket] = buckets.get(bucket, 0) + 1
            self._changed.add(key)

    def of(self, key: str | None, now: float) -> tuple[float, float] | None:
        """Return the median and the 99th percentile of a backend; `None` without durations.

        The key `None` is the pool as a whole.
        """
        if now >= self._turn_at:
            self._turn(now)
        if key in self._changed:
            self._changed.discard(key)
            self._found[key] = self._percentiles_of(key)
        return self._found.get(key)

    def _percentiles_of(self, key: str | None) -> tuple[float, float]:
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
