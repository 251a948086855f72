"""`HangDetector`: after how many seconds a dial seems to hang, and what follows from it. Pure."""

from __future__ import annotations

import math
from collections import deque
from typing import final

#: A dial that has not ended after this many seconds makes its backend suspect. It is the
#: initial retransmission timeout of TCP (RFC 6298, section 2.1): by then the network has lost
#: a packet, or the peer does not answer.
SLOW_DIAL = 1.0

#: If connects have lately taken long, a dial is suspect after this many times as long.
SLOW_FACTOR = 3.0

#: The time constant, in seconds, with which the estimate falls from a slow connect to the
#: usual ones: a minute later 2 % of the difference are left.
DECAY = 15.0

#: The usual duration of a connect is the median of this many.
SAMPLES = 9

NEVER = math.inf


@final
class HangDetector:
    """The duration of a pool's recent connects, and the timeout that follows from it.

    The estimate is a maximum that decays with time: it jumps to the duration of a slow connect,
    and falls from there exponentially to the median of the latest connects. (Finagle's peak
    EWMA does so for latencies.) It decays with time, and not with each connect, because one
    slow connect would otherwise switch hang detection off for as long as a pool is quiet.
    """

    __slots__ = ("_peak", "_peak_at", "_recent", "_usual")

    def __init__(self) -> None:
        # Two imaginary connects of no duration: a single slow one is not what is usual.
        self._recent: deque[float] = deque([0.0, 0.0], maxlen=SAMPLES)
        self._usual: float = 0.0
        self._peak: float = 0.0
        self._peak_at: float = -math.inf

    def record_connect_time(self, seconds: float, now: float) -> None:
        """Record that a connect which has succeeded at `now` took this long."""
        self._recent.append(seconds)
        peak = max(seconds, self.estimate(now))
        self._usual = sorted(self._recent)[(len(self._recent) - 1) // 2]
        self._peak, self._peak_at = peak, now

    def estimate(self, now: float) -> float:
        """Return the decaying maximum of recent connect times, in seconds; 0 without any."""
        remaining = math.exp((self._peak_at - now) / DECAY)
        return max(self._usual, self._peak * remaining + self._usual * (1.0 - remaining))

    def hang_timeout(self, now: float) -> float:
        """Return after how many seconds a dial to a backend that does not fail is suspect.

        For a backend that fails, see `FailureDetector.scaled_timeout`.
        """
        return max(SLOW_DIAL, SLOW_FACTOR * self.estimate(now))


def began_at(connecting_since: float, retry_at: float, now: float) -> float:
    """Return when the oldest dial of a backend began, or will begin after its back-off.

    `connecting_since` is ``math.inf`` for a dial that waits for its back-off. It begins at
    `retry_at`, or now if that is past. Without any dial, use ``math.inf`` in place of this.
    """
    return min(connecting_since, max(now, retry_at))


def suspect_at(began: float, timeout: float) -> float:
    """Return when a dial will have taken so long that it seems to hang.

    `timeout` is the pool's `HangDetector.hang_timeout`, scaled by the backend's failures.
    """
    return began + timeout


def abandon_at(
    began: float, timeout: float, *, connect_timeout: float, max_backoff: float
) -> float:
    """Return when a dial is abandoned and begun anew; never if ``connect_timeout`` ends it.

    With an endless ``connect_timeout``, a single lost packet would otherwise keep a backend
    from being found again.
    """
    if connect_timeout < math.inf:
        return NEVER
    return max(suspect_at(began, timeout), began + max_backoff)
