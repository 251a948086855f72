"""The times at which idle connections are checked. Pure."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable

#: The part of ``health_interval`` over which the checks are spread.
SPREAD = 0.5


def is_checkable(idle_since: float, now: float, interval: float) -> bool:
    """Return True if a connection has been idle for long enough to be checked at `now`."""
    return now >= idle_since + interval * (1.0 - SPREAD)


def count_checkable(idle_times: Iterable[float], now: float, interval: float) -> int:
    """Return the number of idle connections among which the next check is drawn.

    `idle_times` are the times since which the connections of a backend have been idle, oldest
    first. Those count that may be checked now, or as soon as the oldest may.
    """
    count = 0
    for idle_since in idle_times:
        if count == 0:
            now = max(now, idle_since + interval * (1.0 - SPREAD))
        elif not is_checkable(idle_since, now, interval):
            break
        count += 1
    return count


def next_check_at(
    idle_since: float, idle_count: int, now: float, interval: float, rng: random.Random
) -> float:
    """Return the time of the next health check among the idle connections of a backend.

    `idle_since` is the time since which the connection that is idle for longest has been so,
    and `idle_count` the result of `count_checkable`. If that is 0, or the interval is endless,
    the time is ``math.inf``. When the time has come, the caller checks the connection that is
    idle for longest, if it still `is_checkable`, and asks again.

    Connections that were made in one instant must not be checked in one instant for ever. So
    each is due at a random time in the second half of its interval. No connection remembers a
    time of its own, because only the earliest of them matters. That is a single draw: the
    minimum of `n` uniform numbers is distributed as ``1 - u ** (1 / n)``. A check that is
    overdue is due at `now`.
    """
    end = idle_since + interval
    if not idle_count or end == math.inf:
        return math.inf
    start = max(now, end - interval * SPREAD)
    earliest = 1.0 - math.pow(rng.random(), 1.0 / idle_count)
    return start + max(0.0, end - start) * earliest
