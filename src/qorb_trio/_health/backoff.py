"""Jittered exponential back-off, as a pure function."""

from __future__ import annotations

import random


def delay(
    failures: int, *, minimum: float, maximum: float, spread: float, rng: random.Random
) -> float:
    """Seconds to wait before the try that follows `failures` failures in a row.

    Doubles from `minimum` up to `maximum`, with up to `spread` seconds of jitter on
    *every* delay: added where that stays below `maximum`, taken away where it would
    not, so that tries do not fall into step at the longest delay either. The result
    is always within ``minimum … maximum``.

    The shape is qorb's and cueball's; the jitter at the cap is what both lack.
    """
    try:
        base = min(maximum, minimum * 2.0 ** (failures - 1))
    except OverflowError:
        base = maximum
    low = max(minimum, min(base, maximum - spread))
    high = min(maximum, low + spread)
    return rng.uniform(low, high) if low < high else low
