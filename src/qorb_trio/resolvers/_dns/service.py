"""One service: its names, which of them are due, and the set of backends they add up to.

No I/O: it is told what lookups came to, and asked what to publish.

A new set of SRV records is a *candidate* until the addresses of its targets have been
looked up. Only then is it *adopted*, so that a service that moves from one host to
another is one change of the set, and never an empty set in between.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias, cast, final

from ..._model.backend import Backend
from .assembly import assemble, usable
from .config import DnsResolverConfig
from .lookup import Verdict
from .records import Kind, Question, Srv
from .snapshot import NameSnapshot
from .tracker import Tracker

_Targets: TypeAlias = "tuple[Srv, ...]"


@final
class Service:
    """The names of one service.

    Args:
      name: the service's own name, checked.
      config: how to go about it.
      rng: the source of jitter.
      now: the current time.
    """

    def __init__(
        self, name: str, config: DnsResolverConfig, rng: random.Random, now: float
    ) -> None:
        self.name = name
        self._config = config
        self._rng = rng
        self._trackers: dict[Question, Tracker] = {}
        self._heap: list[tuple[float, int, Tracker]] = []
        self._ids = itertools.count()
        self._own = self._track(Question(name, "SRV"), now)
        # None: not known (yet, or any more).
        self._candidate: _Targets | None = None
        self._adopted: _Targets | None = None
        self._unsettled: set[Question] = set()
        self._progress = self._candidate_since = now
        self._failing: set[Tracker] = set()
        self._last_answer = self._last_full = now
        # Since when there have been lookups, but no answer to any of them.
        self._asking_in_vain_since = math.inf
        #: Whether `poll` should be called before `next_deadline`.
        self.has_news = False
        self._dirty = False
        self._expired = False
        self._assembled: tuple[Backend, ...] = ()
        self._published: tuple[Backend, ...] | None = None
        self._forgotten: list[Question] = []

    # --------------------------------------------------------------- what is to be asked

    @property
    def next_due(self) -> float:
        """When the next name is to be asked for; ``math.inf`` if all are being asked."""
        while self._heap and not self._is_current(*self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else math.inf

    def take_due(self, now: float) -> Tracker | None:
        """The name that is to be asked for now, marked as being asked; or `None`.

        `None` also for a name that is due but need not be asked for, rather than going on
        to the next: of those there may be thousands, and the caller has to come up for air.
        """
        if self.next_due > now:
            return None
        tracker = heapq.heappop(self._heap)[2]
        if tracker.doubted and self._can_spare(tracker):
            tracker.accept_doubt(now)
            self._schedule(tracker)
            return None
        self._begin(tracker, now)
        return tracker

    def _begin(self, tracker: Tracker, now: float) -> None:
        self._asking_in_vain_since = min(self._asking_in_vain_since, now)
        since = tracker.failing_since
        tracker.asking = True
        # If this fails too, it is not because all of DNS does.
        tracker.suspect = since is not None and self._last_answer > since

    def needs_second_opinion(self, tracker: Tracker) -> bool:
        """Whether it matters so much that there are no records as to ask around."""
        return not (tracker.empty and self._can_spare(tracker))

    def hurry(self, now: float) -> None:
        """Ask at once for all that is not known: there are other nameservers now."""
        for tracker in self._trackers.values():
            if not tracker.asking and (tracker.failures or not tracker.records):
                tracker.due = now
                self._schedule(tracker)

    def take_forgotten(self) -> Iterable[Question]:
        """What will not be asked any more, since the last call."""
        forgotten, self._forgotten = self._forgotten, []
        return forgotten

    def _track(self, question: Question, now: float) -> Tracker:
        longest = self._config.query_interval if question.name == self.name else math.inf
        tracker = Tracker(question, self._config, self._rng, now, longest=longest)
        self._trackers[question] = tracker
        self._schedule(tracker)
        return tracker

    def _schedule(self, tracker: Tracker) -> None:
        heapq.heappush(self._heap, (tracker.due, next(self._ids), tracker))

    def _is_current(self, due: float, _id: int, tracker: Tracker) -> bool:
        return self._tracks(tracker) and not tracker.asking and tracker.due == due

    def _tracks(self, tracker: Tracker) -> bool:
        return self._trackers.get(tracker.question) is tracker

    def _can_spare(self, tracker: Tracker) -> bool:
        """Whether there are backends without the records of this name."""
        return not tracker.records and any(
            other.records for other in self._address_trackers(self._candidate)
        )

    # -------------------------------------------------------------------- what happens

    def answered(self, tracker: Tracker, verdict: Verdict, now: float) -> None:
        """A lookup has an answer."""
        if not self._tracks(tracker):
            return  # it has been dropped meanwhile
        self._last_answer = now
        self._asking_in_vain_since = math.inf
        if self._assembled and not verdict.answer.negative:
            self._last_full = now
        changed = tracker.answered(verdict, now)
        self._after(tracker, now, changed=changed)
        if tracker is self._own:
            if changed:
                self._retarget(now)
            self._take_hints(verdict, now)

    def failed(self, tracker: Tracker, error: str, now: float) -> None:
        """A lookup has failed."""
        if self._tracks(tracker):
            before = self._expiry(tracker) if tracker in self._failing else math.inf
            changed = tracker.failed(error, now)
            self._failing.add(tracker)
            self._after(tracker, now, changed=changed)
            self._put_off_siblings(tracker, now)
            if self._expiry(tracker) < before:
                self.has_news = True

    def _after(self, tracker: Tracker, now: float, *, changed: bool) -> None:
        self._schedule(tracker)
        if changed:
            self._dirty = self.has_news = True
        if not tracker.failures:
            self._failing.discard(tracker)
        if tracker.question in self._unsettled:
            self._unsettled.discard(tracker.question)
            if not tracker.failures:
                self._progress = now

    def _take_hints(self, verdict: Verdict, now: float) -> None:
        server = str(verdict.server)
        for question, hint in verdict.answer.hints.items():
            tracker = self._trackers.get(question)
            if tracker is not None and tracker is not self._own:
                self._after(tracker, now, changed=tracker.hinted(hint, server, now))

    # ----------------------------------------------------------------- targets of SRV

    def _retarget(self, now: float) -> None:
        wanted = self._wanted()
        if wanted == self._candidate:
            return
        self._candidate = wanted
        self._progress = self._candidate_since = now
        self._dirty = self.has_news = True
        self._unsettled = set()
        for question in self._questions(wanted):
            tracker = self._trackers.get(question) or self._track(question, now)
            if not tracker.settled:
                self._unsettled.add(question)
        self._drop_strays()

    def _wanted(self) -> _Targets | None:
        """The targets that the service's own name has, or is, now."""
        own = self._own
        if own.records:
            return usable(cast("_Targets", own.records))
        said_no = own.empty or own.doubted
        port = self._config.default_port
        if said_no and port is not None and own.said is not Kind.NOT_OFFERED:
            return (Srv(0, 1, port, self.name),)
        return () if own.empty else None

    def _questions(self, targets: _Targets | None) -> Iterator[Question]:
        seen = set()  # as it goes: most callers do not need them all
        for srv in targets or ():
            if srv.target not in seen:
                seen.add(srv.target)
                for family in self._config.families:
                    yield Question(srv.target, family)

    def _address_trackers(self, targets: _Targets | None) -> Iterator[Tracker]:
        return (self._trackers[question] for question in self._questions(targets))

    def _drop_strays(self) -> None:
        wanted = {self._own.question}
        wanted.update(self._questions(self._candidate), self._questions(self._adopted))
        for question in self._trackers.keys() - wanted:
            self._failing.discard(self._trackers.pop(question))
            self._forgotten.append(question)

    def _addresses_of(self, target: str) -> Sequence[str]:
        return [
            address
            for family in self._config.families
            for address in cast("tuple[str, ...]", self._trackers[Question(target, family)].records)
        ]

    # --------------------------------------------------------------- what is published

    @property
    def published(self) -> tuple[Backend, ...] | None:
        """The set that `poll` gave last; `None` before the first."""
        return self._published

    @property
    def in_trouble(self) -> bool:
        """Whether the service's own name could not be looked up the last time."""
        return self._own.failures > 0

    @property
    def next_deadline(self) -> float:
        """When `poll` may have something new though nothing has happened."""
        deadlines = [self._expiry(tracker) for tracker in self._failing if tracker.records]
        if self._awaits_adoption:
            deadlines.append(self._adoptable_at())
        if self._keeps():
            deadlines.append(self._last_full + self._config.max_stale)
        return min(deadlines, default=math.inf)

    def poll(self, now: float) -> tuple[Backend, ...] | None:
        """The complete set of backends, if it is another one than at the last time."""
        self.has_news = False
        self._expire(now)
        self._adopt(now)
        if self._dirty:
            before, self._assembled = self._assembled, self._assemble()
            self._dirty = False
            if not before:
                self._last_full = self._last_answer
        if not self._should_publish(now):
            return None
        self._published = self._assembled
        return self._published

    def _assemble(self) -> tuple[Backend, ...]:
        return assemble(self._adopted or (), self._addresses_of)

    def _should_publish(self, now: float) -> bool:
        if self._published is None:
            certain = self._is_certainly_empty(self._adopted) and not self._own.doubted
            return bool(self._assembled) or certain
        if self._keeps() and now < self._last_full + self._config.max_stale:
            return False
        return _in_full(self._assembled) != _in_full(self._published)

    def _keeps(self) -> bool:
        """Whether a set is kept though DNS says that there are no backends any more."""
        return (
            self._config.on_empty == "keep"
            and not self._assembled
            and bool(self._published)
            and not self._expired
        )

    def _is_certainly_empty(self, targets: _Targets | None) -> bool:
        return targets is not None and all(
            tracker.empty for tracker in self._address_trackers(targets)
        )

    def _adopt(self, now: float) -> None:
        if self._awaits_adoption and now >= self._adoptable_at():
            self._adopted = self._candidate
            self._dirty = True
            self._drop_strays()

    @property
    def _awaits_adoption(self) -> bool:
        return self._candidate is not None and self._candidate != self._adopted

    def _adoptable_at(self) -> float:
        """When the candidate becomes the service's set, if nothing else happens.

        Its targets are waited for as long as answers come in, and for one that hangs no
        longer than one exchange takes. While none of them could be looked up at all, the
        backends known so far are better than nothing.
        """
        if not self._unsettled and not self._assembled:
            return -math.inf
        if not self._is_usable(self._candidate):
            return self._candidate_since + self._config.max_stale if self._assembled else math.inf
        if not self._unsettled:
            return -math.inf
        since = self._progress if self._is_any_hopeful() else self._candidate_since
        return since + self._config.query_timeout

    def _is_any_hopeful(self) -> bool:
        """Whether a target is waited for of which not even one family has failed."""
        return any(
            not any(self._trackers[other].failures for other in self._siblings(question))
            for question in self._unsettled
        )

    def _siblings(self, question: Question) -> Iterator[Question]:
        return (Question(question.name, family) for family in self._config.families)

    def _put_off_siblings(self, tracker: Tracker, now: float) -> None:
        """A target hangs: let the others go first, not this one's other family."""
        for question in self._siblings(tracker.question):
            if question in self._unsettled and not self._trackers[question].asking:
                self._trackers[question].due = now
                self._schedule(self._trackers[question])

    def _is_usable(self, targets: _Targets | None) -> bool:
        """Whether it is known what these targets add up to, if only in part."""
        known = any(tracker.records for tracker in self._address_trackers(targets))
        return known or self._is_certainly_empty(targets)

    # ------------------------------------------------------------------ staleness

    def _expiry(self, tracker: Tracker) -> float:
        """When the records of a failing name are too old to be used.

        While DNS as a whole fails, all are too old at once, so that an outage which is
        too long is one removal of everything, and one that ends in time is none.
        """
        last = tracker.last_answer if tracker.fails_alone else self._last_answer
        return (last or 0.0) + self._config.max_stale

    def _expire(self, now: float) -> None:
        self._expired = self._expired and not self._assembled
        for tracker in self._too_old(now):
            tracker.expire()
            self._dirty = self._expired = True
            if tracker is self._own:
                self._candidate = self._adopted = ()
        if self._dirty and self._candidate == ():
            self._drop_strays()

    def _too_old(self, now: float) -> list[Tracker]:
        expired = [one for one in self._failing if one.records and now >= self._expiry(one)]
        silent = now >= self._asking_in_vain_since + self._config.query_timeout
        if not silent or all(one.fails_alone for one in expired):
            return expired
        # Nothing is answered any more. What is still being asked for, or waits for its
        # turn, would be found to fail one by one, and each would be another removal.
        return [
            one
            for one in self._trackers.values()
            if one.records and (one.asking or one.failures or one.due <= now)
        ]

    def snapshot(self, now: float) -> tuple[NameSnapshot, ...]:
        """What is known of each name, the service's own first."""
        return tuple(tracker.snapshot(now) for tracker in self._trackers.values())


def _in_full(backends: Iterable[Backend]) -> list[tuple[Backend, int, int]]:
    """Priority and weight take no part in the equality of backends, but are news."""
    return [(backend, backend.priority, backend.weight) for backend in backends]
