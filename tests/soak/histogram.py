"""Quantiles of many durations, in little memory."""

from __future__ import annotations

import math
from collections import Counter
from typing import Final

import attrs

#: Buckets for each power of ten: what is told is at most 6 % too much.
_PER_DECADE: Final = 40
_LEAST: Final = 1e-6


@attrs.define(eq=False)
class Histogram:
    """Counts durations, in seconds, by their logarithm."""

    count: int = 0
    longest: float = 0.0
    _buckets: Counter[int] = attrs.field(factory=Counter)

    def add(self, seconds: float) -> None:
        """Count one."""
        self.count += 1
        self.longest = max(self.longest, seconds)
        self._buckets[math.ceil(math.log10(max(seconds, _LEAST)) * _PER_DECADE)] += 1

    def quantile(self, share: float) -> float:
        """A duration that so large a share of all were no longer than."""
        wanted = math.ceil(share * self.count)
        for bucket in sorted(self._buckets):
            wanted -= self._buckets[bucket]
            if wanted <= 0:
                return min(self.longest, math.pow(10, bucket / _PER_DECADE))
        return 0.0

    def __str__(self) -> str:
        quantiles = ((f"p{share:g}", self.quantile(share / 100)) for share in (50, 90, 99, 99.9))
        return "  ".join(
            f"{name} {value * 1000:.2f} ms" for name, value in (*quantiles, ("max", self.longest))
        )
