"""The times at which idle connections are checked. Pure."""

from __future__ import annotations

import math
import random

#: The checks of many connections are spread over this part of ``health_interval``.
MAX_SPREAD = 0.75

#: The check of a single connection is late by up to this part of ``health_interval``.
MIN_SPREAD = 0.1

#: With this many connections in a pool, their checks begin in batches, because to wake up for
#: each takes longer than the check.
MANY = 500

#: The part of ``health_interval`` whose checks are one batch.
BATCH = 1 / 256


def tick(connected: int, interval: float) -> float:
    """Return the seconds whose checks are one batch; 0 if each has a time of its own."""
    return interval * BATCH if connected >= MANY else 0.0


def batch_at(due: float, tick: float) -> float:
    """Return when the batch begins to which a check at the time `due` belongs."""
    return max(due, math.ceil(due / tick) * tick)


def is_checkable(idle_since: float, now: float, interval: float) -> bool:
    """Return True if a connection has been idle for long enough to be checked at `now`."""
    return now >= idle_since + interval


def latest_checkable(oldest_idle_since: float, now: float, interval: float) -> float:
    """Return the latest `idle_since` of the connections among which the next check is drawn.

    Those that may be checked now, or as soon as the one that is idle for longest may.
    """
    return max(now - interval, oldest_idle_since)


def next_check_at(
    idle_since: float,
    idle_count: int,
    now: float,
    interval: float,
    rng: random.Random,
    *,
    tick: float = 0.0,
) -> float:
    """Return the time of the next health check among the idle connections of a backend.

    `idle_since` is the time since which the connection that is idle for longest has been so,
    and `idle_count` is the number of those up to `latest_checkable`. If that is 0, or the
    interval is endless, the time is ``math.inf``. When the time has come, the caller checks
    the connection that is idle for longest, if it still `is_checkable`, and asks again.

    Connections that were made in one instant must not be checked in one instant for ever. So
    each is due at a random time after its interval; the more there are, the longer the part of
    the interval over which they are spread. No connection remembers a time of its own, because
    only the earliest of them matters. That is a single draw: the minimum of `n` uniform numbers
    is distributed as ``1 - u ** (1 / n)``. A check that is overdue is due at `now`.

    Where checks begin in batches, of `tick` seconds each, the part is shorter by as much, since
    `batch_at` puts a check off by up to that.
    """
    begin = idle_since + interval
    if not idle_count or begin == math.inf:
        return math.inf
    spread = max(MIN_SPREAD, MAX_SPREAD * (idle_count - 1) / idle_count)
    start, end = max(now, begin), begin + interval * spread - tick
    earliest = 1.0 - math.pow(rng.random(), 1.0 / idle_count)
    return start + max(0.0, end - start) * earliest
