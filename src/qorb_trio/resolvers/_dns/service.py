"""One service: its names, and the set of backends that they add up to. No I/O.

It is told the outcomes of lookups, and asked which set to publish.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Collection
from typing import Final, cast, final

from ..._model.backend import Backend
from .adoption import Adoption
from .assembly import usable
from .config import DnsResolverConfig
from .lookup import Verdict
from .moves import Moves
from .publication import Publication
from .records import Kind, Question, Srv
from .snapshot import NameSnapshot
from .staleness import Staleness
from .table import Targets, TrackerTable
from .tracker import Tracker

#: The maximum number of SRV records of a service that are used. More fit into one DNS message,
#: but nobody means that; a pool with more backends should have a resolver of its own.
MAX_TARGETS: Final = 2000


@final
class Service:
    """The names of one service.

    Args:
      name: the service's own name, checked.
      config: the intervals and limits.
      rng: the source of jitter.
      now: the current time.
    """

    def __init__(
        self, name: str, config: DnsResolverConfig, rng: random.Random, now: float
    ) -> None:
        self.name = name
        self._config = config
        self._seed = rng.randbytes(8)
        self.table = TrackerTable(config, rng)
        self.own = self.table.add(Question(name, "SRV"), now, is_own=True)
        self._adoption = Adoption(self.table, config, now)
        self._staleness = Staleness(config, now)
        self._publication = Publication(self.table, config, now)
        self._moves = Moves(self.table, self.own)
        #: True if `poll` should be called before `next_deadline`.
        self.changed = False
        #: The number of SRV records that were left out, of the last answer that had too many.
        self.left_out = 0

    # --------------------------------------------------------------------- what to ask

    def take_due(self, now: float) -> Tracker | None:
        """Return a name that is due, marked as being asked; or `None`.

        `None` also for a name that is due but that nothing depends on. There may be thousands
        of those, so the caller must let other tasks run before it asks for the next.
        """
        tracker = self.table.pop_due(now)
        if tracker is None:
            return None
        if tracker.unconfirmed and self._can_spare(tracker):
            tracker.accept_negative(now)
            self.table.reschedule(tracker)
            return None
        tracker.asking, tracker.asked_at = True, now
        self._staleness.began(tracker, now)
        return tracker

    def needs_second_opinion(self, tracker: Tracker) -> bool:
        """Return True if other servers should be asked when one says "no such records"."""
        return not (tracker.empty and self._can_spare(tracker))

    def refresh_now(self, now: float) -> None:
        """Make due at once all that is not known: there are other nameservers now."""
        for tracker in self.table:
            if not tracker.asking and (tracker.failures or not tracker.records):
                tracker.due = now
                self.table.reschedule(tracker)

    def _can_spare(self, tracker: Tracker) -> bool:
        """Return True if there are backends without the records of this name."""
        return not tracker.records and self.table.has_addresses(self._adoption.candidate)

    # -------------------------------------------------------------------- what happens

    def answered(self, tracker: Tracker, verdict: Verdict, now: float) -> None:
        """Take the answer of a lookup."""
        if tracker not in self.table:
            return  # it has been dropped meanwhile
        self._staleness.answered(tracker, now)
        if not verdict.answer.negative:
            self._publication.note_records(now)
        before = tracker.records
        changed = tracker.answered(verdict, now)
        self._note(tracker, now, changed=changed)
        if before and (changed or tracker.is_undecided):
            self._moves.expect_more(tracker, before, now)
        if tracker is self.own:
            if changed:
                self._retarget(now)
            self._take_hints(verdict, now)

    def failed(self, tracker: Tracker, error: str, now: float) -> None:
        """Note that a lookup has failed."""
        if tracker not in self.table:
            return
        before = self._staleness.expiry(tracker)
        changed = tracker.failed(error, now)
        self._staleness.failed(tracker)
        self._note(tracker, now, changed=changed)
        if changed and tracker is self.own:
            self._retarget(now)
        for sibling in self._adoption.waiting_siblings(tracker):
            # The target hangs: ask for others first, not for its other family.
            sibling.due = now
            self.table.reschedule(sibling)
        if self._staleness.expiry(tracker) < before:
            self.changed = True

    def _note(self, tracker: Tracker, now: float, *, changed: bool) -> None:
        self.table.reschedule(tracker)
        self._adoption.settle(tracker, now)
        if changed:
            self._publication.is_dirty = self.changed = True
        # A set that waits may be complete now.
        self.changed = self.changed or self._moves.held_until < math.inf

    def _take_hints(self, verdict: Verdict, now: float) -> None:
        for question, hint in verdict.answer.hints.items():
            tracker = self.table.get(question)
            if tracker is not None and tracker.hinted(hint, now):
                self._note(tracker, now, changed=True)

    def _retarget(self, now: float) -> None:
        wanted = self._wanted()
        if wanted != self._adoption.candidate:
            self._publication.is_dirty = self.changed = True
            self._adoption.propose(wanted, now)
            self._drop_strays()

    def _wanted(self) -> Targets | None:
        """Return the targets that the service's own name has, or is, now."""
        own = self.own
        if own.records:
            return self._within_limit(usable(cast("Targets", own.records)))
        port = self._config.default_port
        says_no = own.empty or own.unconfirmed
        if says_no and port is not None and own.last_outcome is not Kind.NOT_OFFERED:
            return (Srv(0, 1, port, self.name),)
        return () if own.empty else None

    def _within_limit(self, targets: Targets) -> Targets:
        """Return at most `MAX_TARGETS` targets: best priority first, then a stable choice.

        The choice differs between resolvers, so that clients spread over all targets.
        """
        self.left_out = max(0, len(targets) - MAX_TARGETS)
        if not self.left_out:
            return targets

        def rank(srv: Srv) -> tuple[int, bytes]:
            text = f"{srv.target}:{srv.port}".encode()
            return srv.priority, hashlib.blake2b(text, key=self._seed, digest_size=8).digest()

        return tuple(sorted(sorted(targets, key=rank)[:MAX_TARGETS]))

    def _drop_strays(self) -> None:
        wanted = {self.own.question}
        wanted.update(self.table.questions(self._adoption.candidate))
        wanted.update(self.table.questions(self._adoption.adopted))
        self._staleness.forget(self.table.drop_all_but(wanted))

    # --------------------------------------------------------------- what is published

    @property
    def published(self) -> tuple[Backend, ...] | None:
        """The set that `poll` gave last; `None` before the first."""
        return self._publication.published

    @property
    def is_cut(self) -> bool:
        """True if the set was cut down to the maximum number of backends."""
        return self._publication.is_cut

    @property
    def failing(self) -> Collection[Tracker]:
        """The names whose last lookup failed."""
        return self._staleness.failing

    @property
    def next_deadline(self) -> float:
        """The time at which `poll` may have a new set although nothing has happened."""
        if self._moves.held_until < math.inf:
            return self._moves.held_until
        deadline = self._staleness.next_expiry
        if self._adoption.is_pending:
            has_backends = bool(self._publication.assembled)
            deadline = min(deadline, self._adoption.due(has_backends=has_backends))
        kept_until = self._publication.kept_until
        return deadline if kept_until is None else min(deadline, kept_until)

    def poll(self, now: float) -> tuple[Backend, ...] | None:
        """Return the complete set of backends, if it is another one than at the last time."""
        self.changed = False
        publication, adoption = self._publication, self._adoption
        if publication.is_dirty and self.published is not None and self._moves.hold(now):
            return None
        self._expire(now)
        if adoption.adopt(now, has_backends=bool(publication.assembled)):
            publication.is_dirty = True
            self._drop_strays()
        publication.assemble(adoption.adopted, self._staleness.last_answer)
        is_certain = not self.own.unconfirmed and self.table.is_certainly_empty(adoption.adopted)
        return publication.publish(now, is_certain=is_certain)

    def _expire(self, now: float) -> None:
        """Forget records that are too old."""
        expired = self._staleness.too_old(self.table, now)
        self._publication.note_expiry(expired=bool(expired))
        for tracker in expired:
            tracker.expire()
            if tracker is self.own:
                self._adoption.forget()
                self._drop_strays()

    def snapshot(self, now: float) -> tuple[NameSnapshot, ...]:
        """Return what is known of each name, the service's own first."""
        return tuple(tracker.snapshot(now) for tracker in self.table)
