"""The age of what is known while DNS fails, and the moment at which it is too old. No I/O."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import final

from .config import DnsResolverConfig
from .tracker import Tracker


@final
class Staleness:
    """Which names of a service fail, and for how long.

    Args:
      config: the limits.
      now: the current time.
    """

    def __init__(self, config: DnsResolverConfig, now: float) -> None:
        self._config = config
        #: The names whose last lookup failed.
        self.failing: set[Tracker] = set()
        #: When any lookup last had an answer.
        self.last_answer = now
        # Since when there have been lookups, but no answer to any of them.
        self._unanswered_since = math.inf

    def began(self, tracker: Tracker, now: float) -> None:
        """Note that a lookup begins."""
        self._unanswered_since = min(self._unanswered_since, now)
        since = tracker.failing_since
        # If this lookup fails too, it is not because all of DNS does.
        tracker.suspect = since is not None and self.last_answer > since

    def answered(self, tracker: Tracker, now: float) -> None:
        """Note that a lookup has an answer."""
        self.last_answer = now
        self._unanswered_since = math.inf
        self.failing.discard(tracker)

    def failed(self, tracker: Tracker) -> None:
        """Note that a lookup has failed."""
        self.failing.add(tracker)

    def forget(self, trackers: Iterable[Tracker]) -> None:
        """Forget trackers that have been dropped."""
        self.failing.difference_update(trackers)

    def expiry(self, tracker: Tracker) -> float:
        """Return when the records of a failing name are too old.

        While DNS as a whole fails, all are too old at once, so that an outage which is too
        long is one removal of everything, and one that ends in time is none. A name that does
        not fail never gets too old.
        """
        if tracker not in self.failing:
            return math.inf
        last = tracker.known_at if tracker.fails_alone else self.last_answer
        return (last or 0.0) + self._config.max_stale

    @property
    def next_expiry(self) -> float:
        """The time at which the next records become too old."""
        return min((self.expiry(one) for one in self.failing if one.records), default=math.inf)

    def too_old(self, trackers: Iterable[Tracker], now: float) -> list[Tracker]:
        """Return the trackers whose records are too old."""
        expired = [one for one in self.failing if one.records and now >= self.expiry(one)]
        silent = now >= self._unanswered_since + self._config.query_timeout
        if not silent or all(one.fails_alone for one in expired):
            return expired
        # Nothing is answered any more. Names that are being asked for, or wait for their
        # turn, would be found to fail one by one, and each would be another removal.
        return [
            one
            for one in trackers
            if one.records and (one.asking or one.failures or one.due <= now)
        ]
