"""One lookup: ask nameservers, the best one first, until there is an answer.

A race, in the manner of RFC 8305's for addresses: the next server is asked when one has
failed, or has not answered for a while; the first one with records wins.

If a server says that there are no records, and names the zone by its SOA, its answer is final.
The servers after it are not asked, because any of them could otherwise add backends that the
preferred one does not have. They are asked only if records in use would be removed. Then
their records can prevent the removal, but add nothing. A server that gives no SOA may not know
the zone, so the next one is asked as well, and records win.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import TypeAlias, final

import attrs
import trio

from .assembly import as_nothing_if_unusable
from .records import Answer, QueryError, Question, Records
from .server_book import ServerBook
from .servers import Server
from .transport import Transport
from .wire import MAX_CNAMES

# The minimum delay, in seconds, after which a server counts as slow, however short the hedge.
_LEAST_PATIENCE = 0.05
_ROUNDING = 1e-6

_Result: TypeAlias = "tuple[Server, Answer | QueryError]"


@final
@attrs.frozen
class Verdict:
    """The outcome of a lookup."""

    answer: Answer
    server: str
    """The nameserver that gave the answer, or the file."""

    confirmed: bool = False
    """True if a second server said the same; only of negative answers."""

    veto: Records = ()
    """Records that another server has, of a negative answer."""


@final
@attrs.frozen(kw_only=True)
class Stakes:
    """The effect that a negative answer would have on the question of a lookup."""

    second_opinion: bool = True
    """True if an answer without authority should be compared with those of other servers."""

    removes: bool = False
    """True if records are in use, so that other servers are asked before they go."""


@final
class Lookup:
    """Looks up one question after another, and learns which server to ask.

    Args:
      transport: asks one server.
      servers: the nameservers; what is learned about them is kept there.
      timeout: for one exchange with one server, in seconds.
      hedge_delay: the time after which the next server is asked too, in seconds.
    """

    def __init__(
        self, transport: Transport, servers: ServerBook, *, timeout: float, hedge_delay: float
    ) -> None:
        self.transport = transport
        self.servers = servers
        self.timeout = timeout
        self.hedge_delay = hedge_delay

    async def resolve(
        self, question: Question, stakes: Stakes | None = None, *, key: Question | None = None
    ) -> Verdict:
        """Look up `question`, following CNAMEs that the server does not follow itself.

        What is learned about the best server is kept under `key`, by default the question.

        Raises:
          QueryError: no server gave an answer.
        """
        asked, chain_ttl = question, math.inf
        for _ in range(MAX_CNAMES):
            race = _Race(self, asked, key or question, stakes or Stakes())
            await race.run()
            verdict = race.verdict()
            answer = verdict.answer
            ttl = answer.ttl if answer.ttl is None else int(min(answer.ttl, chain_ttl))
            if answer.follow is None:
                answer = attrs.evolve(answer, question=question, ttl=ttl)
                return attrs.evolve(verdict, answer=answer)
            chain_ttl = ttl or 0
            asked = Question(answer.follow, question.rdtype)
        raise QueryError(f"the CNAMEs of {question.name} go round in circles")


class _Race:
    """The servers that are asked one question, and their answers so far."""

    def __init__(self, lookup: Lookup, question: Question, key: Question, stakes: Stakes) -> None:
        self._lookup = lookup
        self._book = lookup.servers
        self._question = question
        self._key = key
        self._stakes = stakes
        self._order = self._book.order(key, trio.current_time())
        self._to_ask = deque(self._order)
        self._asking: dict[Server, float] = {}  # and since when
        self._answers: dict[Server, Answer] = {}
        self._errors: list[tuple[Server, QueryError]] = []
        self._deadline = math.inf
        self._results: deque[_Result] = deque()
        self._arrived = trio.Event()

    # ------------------------------------------------------------------------ the tasks

    async def run(self) -> None:
        """Ask one server after the other until it is decided."""
        if len(self._to_ask) == 1:
            # With one server there is no race: without tasks it costs half.
            await self._ask(self._to_ask.popleft())
            self._note(*self._results.popleft())
            return
        async with trio.open_nursery() as nursery:
            await self._race(nursery)
            nursery.cancel_scope.cancel()

    async def _race(self, nursery: trio.Nursery) -> None:
        self._ask_next(nursery)
        while self._asking:
            result = await self._next_result()
            if result is not None:
                self._note(*result)
            elif self._has_negative():
                return  # the others took too long to object
            if self._is_decided():
                return
            self._ask_next(nursery)
            if self._has_negative() and not any(map(self._is_worth_waiting_for, self._asking)):
                return

    async def _next_result(self) -> _Result | None:
        """Return the next outcome of a server; `None` at the deadline."""
        if not self._results:
            self._arrived = trio.Event()
            with trio.move_on_at(self._deadline):
                await self._arrived.wait()
        return self._results.popleft() if self._results else None

    def _ask_next(self, nursery: trio.Nursery) -> None:
        """Ask the next server, if there is one that could make a difference."""
        now = trio.current_time()
        if self._to_ask and self._may_ask(self._to_ask[0]):
            server = self._to_ask.popleft()
            self._asking[server] = now
            nursery.start_soon(self._ask, server)
        if not self._has_negative():
            self._deadline = now + self._lookup.hedge_delay if self._to_ask else math.inf

    async def _ask(self, server: Server) -> None:
        outcome: Answer | QueryError
        lookup = self._lookup
        try:
            answer = await lookup.transport.exchange(server, self._question, timeout=lookup.timeout)
            outcome = as_nothing_if_unusable(answer)
        except QueryError as exc:
            outcome = exc
        self._results.append((server, outcome))
        self._arrived.set()

    # --------------------------------------------------------------------- the decisions

    def _note(self, server: Server, outcome: Answer | QueryError) -> None:
        self._asking.pop(server, None)
        if isinstance(outcome, QueryError):
            self._errors.append((server, outcome))
            return
        if _is_negative(outcome) and not self._has_negative():
            self._deadline = trio.current_time() + self._lookup.hedge_delay
        self._answers[server] = outcome

    def _has_negative(self) -> bool:
        return any(map(_is_negative, self._answers.values()))

    def _decisive(self) -> Server | None:
        """Return the best-placed server whose answer counts: records, or a final "no"."""
        for server in self._order:
            answer = self._answers.get(server)
            if answer is not None and (not _is_negative(answer) or answer.is_final):
                return server
        return None

    def _is_decided(self) -> bool:
        server = self._decisive()
        if server is None:
            return self._has_negative() and not self._stakes.second_opinion
        if not _is_negative(self._answers[server]):
            return True
        if self._stakes.removes:
            return bool(self._veto())
        return not any(map(self._is_before(server), self._asking))

    def _is_before(self, server: Server) -> Callable[[Server], bool]:
        place = self._order.index(server)
        return lambda other: self._order.index(other) < place

    def _may_ask(self, server: Server) -> bool:
        if not self._has_negative():
            return True
        if self._decisive() is not None and not self._stakes.removes:
            return False
        return self._is_worth_waiting_for(server)

    def _is_worth_waiting_for(self, server: Server) -> bool:
        return not self._book.is_demoted(server, trio.current_time())

    def _negatives(self) -> list[Server]:
        return [server for server in self._order if self._is_no(server)]

    def _is_no(self, server: Server) -> bool:
        answer = self._answers.get(server)
        return answer is not None and _is_negative(answer)

    def _veto(self) -> Records:
        """Return the records of the best-placed server that has any."""
        found = (self._answers[s].records for s in self._order if s in self._answers)
        return next((records for records in found if records), ())

    def verdict(self) -> Verdict:
        """Return the outcome; the book learns which servers failed or were slow.

        Only where some server has answered are the others known to be at fault: while
        nothing can be reached, the order of the servers stays as it is.

        Raises:
          QueryError: if no server has answered.
        """
        for server, error in self._errors:
            self._book.failed(server, str(error))
        if not self._answers:
            raise QueryError("; ".join(f"{server}: {error}" for server, error in self._errors))
        self._blame()
        for server in self._answers:
            self._book.answered(server)
        server = self._decisive() or self._negatives()[0]
        self._book.prefer(self._key, server, trio.current_time())
        answer = self._answers[server]
        if not _is_negative(answer):
            return Verdict(answer, str(server))
        confirmed = len(self._negatives()) > 1
        return Verdict(answer, str(server), confirmed=confirmed, veto=self._veto())

    def _blame(self) -> None:
        now = trio.current_time()
        patience = max(self._lookup.hedge_delay, _LEAST_PATIENCE) - _ROUNDING
        slow = [server for server, since in self._asking.items() if now - since >= patience]
        for server in slow:
            self._book.failed(server, "slower than another nameserver")
        for server in (*slow, *(server for server, _ in self._errors)):
            self._book.demote(server, now)


def _is_negative(answer: Answer) -> bool:
    return answer.negative and answer.follow is None
