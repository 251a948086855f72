"""The trackers of one service, and the order in which they are due. No I/O.

The table holds what is asked for now and nothing else: a name that the service no longer
has is dropped at once, with everything that is known of it.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Collection, Iterator, Sequence
from typing import Final, TypeAlias, cast, final

from .config import DnsResolverConfig
from .delays import Delays
from .records import Question, Srv
from .tracker import Tracker

#: The SRV records of a service that are in use, or its name with ``default_port``.
Targets: TypeAlias = "tuple[Srv, ...]"

#: The maximum number of queries per second for a service, in the long run. A name of a
#: service with N names is thus asked for at most every N / 100 seconds.
QUERIES_PER_SECOND: Final = 100

# Entries of the heap that are out of date are removed once they are this many more than half.
_SLACK = 64


@final
class TrackerTable:
    """The trackers, by question.

    Args:
      config: the families and intervals.
      rng: the source of jitter.
    """

    def __init__(self, config: DnsResolverConfig, rng: random.Random) -> None:
        self._config = config
        self._delays = Delays(config, rng)
        self._own_delays = Delays(config, rng, longest=config.query_interval)
        self._own_name: str | None = None
        self._trackers: dict[Question, Tracker] = {}
        self._heap: list[tuple[float, int, Tracker]] = []
        self._ids = itertools.count()
        self._forgotten: list[Question] = []

    # ------------------------------------------------------------------- which there are

    def __iter__(self) -> Iterator[Tracker]:
        return iter(self._trackers.values())

    def __contains__(self, tracker: Tracker) -> bool:
        return self._trackers.get(tracker.question) is tracker

    def get(self, question: Question) -> Tracker | None:
        """Return the tracker of a question, if there is one."""
        return self._trackers.get(question)

    def add(self, question: Question, now: float, *, is_own: bool = False) -> Tracker:
        """Begin to track a question; its first query is due at once.

        With `is_own` the question is about the service's own name, not about a target.
        """
        self._own_name = question.name if is_own else self._own_name
        delays = self._own_delays if question.name == self._own_name else self._delays
        tracker = Tracker(question, delays, now)
        self._trackers[question] = tracker
        self.reschedule(tracker)
        return tracker

    def drop_all_but(self, questions: Collection[Question]) -> list[Tracker]:
        """Drop the other trackers, and return them."""
        strays = self._trackers.keys() - questions
        self._forgotten += strays
        return [self._trackers.pop(question) for question in strays]

    def take_forgotten(self) -> list[Question]:
        """Return the questions that were dropped since the last call."""
        forgotten, self._forgotten = self._forgotten, []
        return forgotten

    # ----------------------------------------------------------------------- when to ask

    @property
    def next_due(self) -> float:
        """The time at which the next question is due; ``math.inf`` if all are being asked."""
        while self._heap and not self._is_current(*self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else math.inf

    def pop_due(self, now: float) -> Tracker | None:
        """Return a tracker that is due, until it is rescheduled; `None` if none is."""
        return heapq.heappop(self._heap)[2] if self.next_due <= now else None

    def reschedule(self, tracker: Tracker) -> None:
        """Take note of a tracker's new due time, which must respect the pace of queries."""
        if tracker.asking:
            return
        pace = len(self._trackers) / QUERIES_PER_SECOND
        if pace > self._config.min_refresh:
            tracker.due = max(tracker.due, tracker.asked_at + pace)
        heapq.heappush(self._heap, (tracker.due, next(self._ids), tracker))
        if len(self._heap) > 2 * len(self._trackers) + _SLACK:
            self._heap = [(one.due, next(self._ids), one) for one in self if not one.asking]
            heapq.heapify(self._heap)

    def _is_current(self, due: float, _id: int, tracker: Tracker) -> bool:
        return tracker in self and not tracker.asking and tracker.due == due

    # ------------------------------------------------------------------ those of targets

    def questions(self, targets: Targets | None) -> Iterator[Question]:
        """Yield the questions for the addresses of targets."""
        seen = set()  # filled on the way, because most callers stop early
        for srv in targets or ():
            if srv.target not in seen:
                seen.add(srv.target)
                yield from self.of_name(srv.target)

    def of_name(self, name: str) -> Iterator[Question]:
        """Yield the questions for the addresses of one name."""
        return (Question(name, family) for family in self._config.families)

    def of_targets(self, targets: Targets | None) -> Iterator[Tracker]:
        """Yield the trackers of the addresses of targets, which must all be tracked."""
        return (self._trackers[question] for question in self.questions(targets))

    def addresses(self, target: str) -> Sequence[str]:
        """Return the addresses of a target that are known."""
        return [
            address
            for question in self.of_name(target)
            for address in cast("tuple[str, ...]", self._trackers[question].records)
        ]

    def has_addresses(self, targets: Targets | None) -> bool:
        """Return True if an address of any of the targets is known."""
        return any(tracker.records for tracker in self.of_targets(targets))

    def is_certainly_empty(self, targets: Targets | None) -> bool:
        """Return True if it is certain that the targets have no addresses."""
        return targets is not None and all(tracker.empty for tracker in self.of_targets(targets))
