"""The state of one name and record type, and the time of its next query.

A state machine without I/O: it is told the outcomes of lookups and the time.

    unknown ──records──> good <───records─── any
       │                  │
       │ no such records  │ no such records      a failure, anywhere: `failures` counts up,
       v                  v                      records and state of confirmation stay
    unconfirmed ───────> unconfirmed (records kept)
       └───no such records, again───> empty
"""

from __future__ import annotations

import math
from typing import final

from .delays import Delays
from .lookup import Verdict
from .records import Answer, Hint, Kind, Question, Records
from .retention import Copy, Retention, common
from .snapshot import NameSnapshot, NameState


@final
class Tracker:
    """One name and record type.

    Args:
      question: the name and type.
      delays: computes when to ask again.
      now: the current time; the first query is due at once.
    """

    # A large service has thousands of these, made all at once.
    __slots__ = (
        "_delays",
        "_empty",
        "_hinted",
        "_retention",
        "_ttl",
        "_unconfirmed",
        "asked_at",
        "asking",
        "due",
        "failing_since",
        "fails_alone",
        "failures",
        "known_at",
        "last_answer",
        "last_error",
        "last_outcome",
        "question",
        "records",
        "server",
        "suspect",
    )

    def __init__(self, question: Question, delays: Delays, now: float) -> None:
        self.question = question
        #: The records to use: those of the last answer that is believed.
        self.records: Records = ()
        #: When to ask next; meaningless while `asking`.
        self.due = now
        self.asking = False
        self.asked_at = -math.inf
        #: The number of lookups that failed in a row; and when the first of them did.
        self.failures = 0
        self.failing_since: float | None = None
        #: True if it fails while other names do not.
        self.fails_alone = False
        #: True if a failure of the present lookup would show that it fails alone.
        self.suspect = False
        #: When a server last gave an answer; and its kind.
        self.last_answer: float | None = None
        self.last_outcome: Kind | None = None
        #: The nameserver that gave it; and the reason why the last lookup failed, if it did.
        self.server: str | None = None
        self.last_error: str | None = None
        #: When the records were last known to be right: an answer, or a hint before any.
        self.known_at: float | None = None
        self._delays = delays
        self._unconfirmed = False
        self._empty = False
        self._hinted = False
        self._retention: Retention | None = None
        self._ttl: float | None = None

    # ---------------------------------------------------------------- what is known

    @property
    def settled(self) -> bool:
        """True if there is an outcome, if only that lookups fail at present."""
        return self.known_at is not None or self.failures > 0

    @property
    def empty(self) -> bool:
        """True if it is certain that there are no records."""
        return self._empty

    @property
    def unconfirmed(self) -> bool:
        """True if a server has said that there are none, and nothing has confirmed it yet."""
        return self._unconfirmed

    @property
    def is_undecided(self) -> bool:
        """True if records were missing from the last answer, and the next one will decide."""
        return self._retention is not None and self._retention.is_undecided

    @property
    def state(self) -> NameState:
        """See `NameSnapshot`."""
        if self.failures:
            return "failing"
        if self._unconfirmed:
            return "unconfirmed"
        if self._empty:
            return "empty"
        return "good" if self.records else "unknown"

    # -------------------------------------------------------------------- what happens

    def answered(self, verdict: Verdict, now: float) -> bool:
        """Take the answer of a lookup. Returns True if that changes what is known."""
        before = self._known()
        self.asking = False
        self._succeeded(verdict.server, now)
        if self._hinted:  # a hint is worth nothing beside an answer (RFC 2181, 5.4.1)
            self._hinted, self.records = False, ()
        if not verdict.answer.negative:
            self._take_records(verdict.answer, now)
        elif kept := common(self.records, verdict.veto):
            self._keep(kept, verdict.answer, now)
        else:
            self._take_no(verdict, now)
        return self._known() != before

    def hinted(self, hint: Hint, now: float) -> bool:
        """Use the addresses of an additional section, where nothing is known yet.

        The query is due as before. Returns True if that changes what is known.
        """
        if self.settled:
            return False
        self.records, self.known_at, self._hinted = hint.addresses, now, True
        return True

    def failed(self, error: str, now: float) -> bool:
        """Note that a lookup has failed: what is known stays, and is asked for again soon.

        Returns True if that changes what is known.
        """
        before = self._known()
        self.asking = False
        self.failures += 1
        if self.failing_since is None:
            self.failing_since = now
        self.fails_alone = self.fails_alone or self.suspect
        self.last_error = error
        if self._retention is not None and self._retention.held is not None:
            self.records, self._retention.held = self._retention.held, None
        self.due = now + self._delays.after_failures(self.failures)
        return self._known() != before

    def expire(self) -> None:
        """Forget the records: DNS has failed for too long."""
        self.records = ()
        self._unconfirmed = False
        self._retention = None

    def accept_negative(self, now: float) -> None:
        """Believe that there are no records without asking once more.

        For names on which nothing depends. The next query is as far off as if the name had
        been asked for now.
        """
        self._unconfirmed, self._empty = False, True
        self.due = now + self._delays.after_negative(self._ttl)

    # -------------------------------------------------------------------------- inside

    def _known(self) -> tuple[object, ...]:
        return self.records, self._empty, self._unconfirmed, self.settled

    def _succeeded(self, server: str, now: float) -> None:
        self.failures = 0
        self.failing_since = None
        self.fails_alone = False
        self.last_answer = self.known_at = now
        self.server = server
        self.last_error = None

    def _take_records(self, answer: Answer, now: float) -> None:
        self.last_outcome = Kind.RECORDS
        self._unconfirmed = self._empty = False
        self._ttl = ttl = answer.ttl or 0
        self.due = now + self._delays.after_records(ttl)
        copy = Copy(answer.records, ttl, self.server or "", answer.authoritative, now)
        if self._retention is None and common(self.records, copy.records) == self.records:
            self.records = copy.records  # nothing is missing
        else:
            self._merge(self._retention or Retention(), copy)

    def _merge(self, retention: Retention, copy: Copy) -> None:
        """Take an answer from which records are missing, or one that follows such an answer."""
        self.records = retention.merge(self.records, copy)
        self._retention = None if retention.is_idle else retention
        if retention.is_undecided:
            may_be_cached = copy.ttl > 0 and not copy.authoritative
            soon = self._delays.before_confirmation(may_be_cached=may_be_cached)
            self.due = min(self.due, copy.time + soon)

    def _keep(self, kept: Records, answer: Answer, now: float) -> None:
        """Keep the records that another server still has, against a negative answer."""
        self.records = kept
        self.last_outcome = answer.kind
        self._unconfirmed = self._empty = False
        self._retention = None
        self._ttl = answer.ttl
        self.due = now + self._delays.after_negative(self._ttl)

    def _take_no(self, verdict: Verdict, now: float) -> None:
        # A failure between two such answers does not make the first one forgotten.
        self._ttl = verdict.answer.ttl
        self.last_outcome = verdict.answer.kind
        if self._empty or self._unconfirmed or verdict.confirmed:
            self.records = ()
            self._retention = None
            self.accept_negative(now)
        else:
            self._unconfirmed = True
            self.due = now + self._delays.before_confirmation(may_be_cached=False)

    def snapshot(self, now: float) -> NameSnapshot:
        """Return what is known, for people and for monitoring."""
        since = self.last_answer if self.last_answer is not None else self.failing_since
        return NameSnapshot(
            name=self.question.name,
            rdtype=self.question.rdtype,
            state=self.state,
            records=tuple(str(record) for record in self.records),
            ttl=self._ttl,
            next_query=None if self.asking else self.due,
            last_answer=self.last_answer,
            stale=now - since if self.failures and since is not None else 0.0,
            server=self.server,
            last_error=self.last_error,
            failures=self.failures,
        )
