"""What is known of one name and record type, and when to ask for it again.

A state machine without I/O: it is told what lookups came to and what time it is.

    unknown ──records──> good <───records─── any
       │                  │
       │ no such records  │ no such records      a failure, anywhere: `failures` counts up,
       v                  v                      records and doubts stay as they are
    doubted ──────────> doubted (records kept)
       └───no such records, again───> empty
"""

from __future__ import annotations

import math
import random
from typing import final

from .config import DnsResolverConfig
from .lookup import Verdict
from .records import Hint, Kind, Question, Records
from .snapshot import NameSnapshot, NameState

# Clients that started together should not ask together for ever: each delay is longer
# by up to this share of it.
_JITTER = 0.1

# From here on doubling changes nothing, and powers of two only get unwieldy.
_MANY_FAILURES = 32


@final
class Tracker:
    """One name and record type.

    Args:
      question: the name and type.
      config: how often to ask.
      rng: the source of jitter.
      now: the current time; the first query is due at once.
      longest: an upper limit on the delay between queries, besides that of `config`.
    """

    # A large service has thousands of these, made all at once.
    __slots__ = (
        "_config",
        "_doubted",
        "_empty",
        "_last_error",
        "_longest",
        "_rng",
        "_server",
        "_ttl",
        "asking",
        "due",
        "failing_since",
        "fails_alone",
        "failures",
        "last_answer",
        "question",
        "records",
        "said",
        "suspect",
    )

    def __init__(
        self,
        question: Question,
        config: DnsResolverConfig,
        rng: random.Random,
        now: float,
        *,
        longest: float = math.inf,
    ) -> None:
        self.question = question
        #: The records to use: those of the last answer that is believed.
        self.records: Records = ()
        #: When to ask next; meaningless while `asking`.
        self.due = now
        self.asking = False
        #: Lookups that failed in a row; and when the first of them did.
        self.failures = 0
        self.failing_since: float | None = None
        #: Whether it fails while other names do not; if not, would a failure now show it?
        self.fails_alone = False
        self.suspect = False
        #: When a server last gave an answer; and of what kind.
        self.last_answer: float | None = None
        self.said: Kind | None = None
        self._config = config
        self._rng = rng
        self._longest = longest
        self._doubted = False
        self._empty = False
        self._ttl: float | None = None
        self._server: str | None = None
        self._last_error: str | None = None

    # ---------------------------------------------------------------- what is known

    @property
    def settled(self) -> bool:
        """Whether it has been found out, if only that it cannot be found out now."""
        return self.last_answer is not None or self.failures > 0

    @property
    def empty(self) -> bool:
        """Whether it is certain that there are no records."""
        return self._empty

    @property
    def doubted(self) -> bool:
        """Whether a server has said that there are none, and that is to be confirmed."""
        return self._doubted

    @property
    def state(self) -> NameState:
        """See `NameSnapshot`."""
        if self.failures:
            return "failing"
        if self._doubted:
            return "doubted"
        if self._empty:
            return "empty"
        return "good" if self.records else "unknown"

    # -------------------------------------------------------------------- what happens

    def answered(self, verdict: Verdict, now: float) -> bool:
        """A lookup has an answer. Returns whether that changes what is known."""
        before = self._known()
        self.asking = False
        self._succeeded(str(verdict.server), now)
        if verdict.answer.negative:
            self._take_no(verdict, now)
        else:
            self._take_records(verdict.answer.records, verdict.answer.ttl, now)
        return self._known() != before

    def hinted(self, hint: Hint, server: str, now: float) -> bool:
        """Records came along with another answer: as good as an answer of its own."""
        before = self._known()
        self._succeeded(server, now)
        self._take_records(hint.addresses, hint.ttl, now)
        return self._known() != before

    def failed(self, error: str, now: float) -> bool:
        """A lookup has failed: what is known stays so, and is asked for again soon.

        Returns whether the tracker is settled by this.
        """
        was_settled = self.settled
        self.asking = False
        self.failures += 1
        if self.failing_since is None:
            self.failing_since = now
        self.fails_alone = self.fails_alone or self.suspect
        self._last_error = error
        self.due = now + self._backoff()
        return not was_settled

    def expire(self) -> None:
        """Forget the records: DNS has failed for too long."""
        self.records = ()
        self._doubted = False

    def accept_doubt(self, now: float) -> None:
        """Believe that there are no records without asking once more.

        For when nothing depends on it. The next query is as far off as if it had been
        asked for now.
        """
        self._doubted, self._empty = False, True
        self.due = now + self._negative_delay()

    # -------------------------------------------------------------------------- inside

    def _known(self) -> tuple[object, ...]:
        return self.records, self._empty, self._doubted, self.settled

    def _succeeded(self, server: str, now: float) -> None:
        self.failures = 0
        self.failing_since = None
        self.fails_alone = False
        self.last_answer = now
        self._server = server
        self._last_error = None

    def _take_records(self, records: Records, ttl: int | None, now: float) -> None:
        self.records = records
        self.said = Kind.RECORDS
        self._doubted = self._empty = False
        self._ttl = ttl
        self.due = now + self._delay(ttl or 0)

    def _take_no(self, verdict: Verdict, now: float) -> None:
        # A failure between two such answers does not make the first one forgotten.
        self._ttl = verdict.answer.ttl
        self.said = verdict.answer.kind
        if self._empty or self._doubted or verdict.confirmed:
            self.records = ()
            self.accept_doubt(now)
        else:
            self._doubted = True
            self.due = now + self._config.min_refresh * self._jitter()

    def _jitter(self) -> float:
        return 1 + _JITTER * self._rng.random()

    def _delay(self, ttl: float) -> float:
        config = self._config
        if config.hardcoded_ttl is not None:
            wanted, most = config.hardcoded_ttl * self._jitter(), math.inf
        else:
            wanted, most = ttl * self._jitter(), config.max_refresh
        return max(config.min_refresh, min(wanted, most, self._longest))

    def _negative_delay(self) -> float:
        config = self._config
        ttl = config.query_retry_if_no_records_found if self._ttl is None else self._ttl
        wanted = min(ttl * self._jitter(), config.max_refresh, self._longest)
        return max(config.min_refresh, wanted)

    def _backoff(self) -> float:
        config = self._config
        doublings = min(self.failures - 1, _MANY_FAILURES)
        delay = config.min_refresh * 2.0**doublings * self._jitter()
        return max(config.min_refresh, min(delay, config.query_retry_if_no_records_found))

    def snapshot(self, now: float) -> NameSnapshot:
        """What is known, for a person to look at."""
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
            server=self._server,
            last_error=self._last_error,
            failures=self.failures,
        )
