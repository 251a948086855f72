"""The change from one set of targets to another. No I/O.

A new set of SRV records is a *candidate* until the addresses of its targets have been looked
up. Only then is it *adopted*, so that a service that moves from one host to another is one
change of the set, and never an empty set in between.
"""

from __future__ import annotations

import math
from typing import final

from .config import DnsResolverConfig
from .records import Question
from .table import Targets, TrackerTable
from .tracker import Tracker


@final
class Adoption:
    """The targets in use, and those that are to replace them.

    Args:
      table: the trackers of the service.
      config: the limits of waiting.
      now: the current time.
    """

    def __init__(self, table: TrackerTable, config: DnsResolverConfig, now: float) -> None:
        self._table = table
        self._config = config
        # None: not known (yet, or any more).
        self.candidate: Targets | None = None
        self.adopted: Targets | None = None
        self._unsettled: set[Question] = set()
        self._progress = self._candidate_since = now

    @property
    def is_pending(self) -> bool:
        """True if there is a candidate that has not been adopted."""
        return self.candidate is not None and self.candidate != self.adopted

    def propose(self, targets: Targets | None, now: float) -> None:
        """Make `targets` the candidate, and track the addresses of all of them."""
        self.candidate = targets
        self._progress = self._candidate_since = now
        self._unsettled = set()
        for question in self._table.questions(targets):
            tracker = self._table.get(question) or self._table.add(question, now)
            if not tracker.settled:
                self._unsettled.add(question)

    def forget(self) -> None:
        """Give up all targets, because the service's own records are too old."""
        self.candidate = self.adopted = ()

    def settle(self, tracker: Tracker, now: float) -> None:
        """Note that a lookup has an outcome."""
        if tracker.question in self._unsettled:
            self._unsettled.discard(tracker.question)
            if not tracker.failures:
                self._progress = now

    def adopt(self, now: float, *, has_backends: bool) -> bool:
        """Adopt the candidate if its time has come. Returns True if so."""
        if not self.is_pending or now < self.due(has_backends=has_backends):
            return False
        self.adopted = self.candidate
        return True

    def due(self, *, has_backends: bool) -> float:
        """Return when the candidate is adopted if nothing else happens.

        Its targets are waited for as long as answers come in, and for a target that hangs no
        longer than one exchange takes. While none of them could be looked up at all, the
        backends known so far are better than none.
        """
        if not self._unsettled and not has_backends:
            return -math.inf
        if not self._is_usable():
            return self._candidate_since + self._config.max_stale if has_backends else math.inf
        if not self._unsettled:
            return -math.inf
        since = self._progress if self._is_any_hopeful() else self._candidate_since
        return since + self._config.query_timeout

    def _is_usable(self) -> bool:
        """Return True if it is known, at least in part, which backends the targets are."""
        table = self._table
        return table.has_addresses(self.candidate) or table.is_certainly_empty(self.candidate)

    def _is_any_hopeful(self) -> bool:
        """Return True if there is an unsettled target none of whose families has failed."""
        return any(
            not any(self._has_failed(other) for other in self._table.of_name(question.name))
            for question in self._unsettled
        )

    def _has_failed(self, question: Question) -> bool:
        tracker = self._table.get(question)
        return tracker is not None and tracker.failures > 0

    def waiting_siblings(self, tracker: Tracker) -> list[Tracker]:
        """Return the unsettled families of a tracker's name that are not being asked for."""
        found = (self._table.get(q) for q in self._table.of_name(tracker.question.name))
        return [one for one in found if one and one.question in self._unsettled and not one.asking]
