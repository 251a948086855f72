"""`RateLimit`: a token bucket. No I/O here."""

from __future__ import annotations

import math
from typing import final


@final
class RateLimit:
    """A bound on how often something may happen: `burst` times at once, then `rate` per second."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate: float = rate
        self._burst: float = burst
        self._left: float = burst
        self._now: float = -math.inf

    def take(self, now: float) -> bool:
        """Count one more at the time `now`; return False if that is too many."""
        if now > self._now:
            self._left = min(self._burst, self._left + (now - self._now) * self._rate)
            self._now = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
