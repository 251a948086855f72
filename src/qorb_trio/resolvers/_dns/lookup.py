"""One lookup: ask nameservers, the best one first, until there is an answer.

A race, in the manner of RFC 8305's for addresses: the next server is asked when one has
failed or said that there is nothing, or when it has not answered for a while; the first
one with records wins.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TypeAlias, final

import attrs
import trio

from .assembly import as_nothing_if_unusable
from .records import Answer, Kind, QueryError, Question
from .servers import Server, ServerBook
from .transport import Transport
from .wire import MAX_CNAMES

# A server is never called slow for less than so many seconds, however short the hedge.
_LEAST_PATIENCE = 0.05
_ROUNDING = 1e-6

_Result: TypeAlias = "tuple[Server, Answer | QueryError]"


@final
@attrs.frozen
class Verdict:
    """What a lookup has come to."""

    answer: Answer
    server: Server
    confirmed: bool
    """Whether a second server said the same; only of answers that there is nothing."""


@final
class Lookup:
    """Looks up one question after another, and learns which server to ask.

    Args:
      transport: asks one server.
      servers: the nameservers; what is learned about them is kept there.
      timeout: for one exchange with one server, in seconds.
      hedge_delay: after so many seconds without an answer the next server is asked too.
    """

    def __init__(
        self, transport: Transport, servers: ServerBook, *, timeout: float, hedge_delay: float
    ) -> None:
        self._transport = transport
        self.servers = servers
        self._timeout = timeout
        self._hedge_delay = hedge_delay

    async def resolve(self, question: Question, *, second_opinion: bool = True) -> Verdict:
        """Look up `question`, following CNAMEs that the server does not follow itself.

        With `second_opinion`, the answer that there is nothing is compared with those
        of the other servers; without, it is taken from the first that gives it.

        Raises:
          QueryError: no server gave an answer.
        """
        asked, chain_ttl = question, math.inf
        for _ in range(MAX_CNAMES):
            verdict = await self._race(asked, second_opinion=second_opinion)
            answer = verdict.answer
            ttl = answer.ttl if answer.ttl is None else int(min(answer.ttl, chain_ttl))
            if answer.follow is None:
                answer = attrs.evolve(answer, question=question, ttl=ttl)
                return attrs.evolve(verdict, answer=answer)
            chain_ttl = ttl or 0
            asked = Question(answer.follow, question.rdtype)
        raise QueryError(f"the CNAMEs of {question.name} go round in circles")

    async def _race(self, question: Question, *, second_opinion: bool) -> Verdict:
        race = _Race(
            self._transport,
            self.servers,
            question,
            timeout=self._timeout,
            hedge_delay=self._hedge_delay,
            second_opinion=second_opinion,
        )
        await race.run()
        return race.verdict()


class _Race:
    """The servers that are asked one question, and what they have said so far."""

    def __init__(
        self,
        transport: Transport,
        book: ServerBook,
        question: Question,
        *,
        timeout: float,
        hedge_delay: float,
        second_opinion: bool,
    ) -> None:
        self._transport = transport
        self._book = book
        self._question = question
        self._timeout = timeout
        self._hedge_delay = hedge_delay
        self._second_opinion = second_opinion
        self._to_ask = deque(book.order(question, trio.current_time()))
        self._asking: dict[Server, float] = {}  # and since when
        self._said_no: list[tuple[Server, Answer]] = []
        self._errors: list[tuple[Server, QueryError]] = []
        self._winner: tuple[Server, Answer] | None = None
        self._deadline = math.inf
        self._results: deque[_Result] = deque()
        self._news = trio.Event()

    async def run(self) -> None:
        """Ask one server after the other until it is decided."""
        if len(self._to_ask) == 1:
            # Nobody to race: no need for tasks, and half the cost.
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
            elif self._said_no:
                return  # the others took too long to object
            if self._is_decided():
                return
            self._ask_next(nursery)
            if self._said_no and not any(map(self._is_worth_waiting_for, self._asking)):
                return

    async def _next_result(self) -> _Result | None:
        """What comes in next; `None` at the deadline."""
        if not self._results:
            self._news = trio.Event()
            with trio.move_on_at(self._deadline):
                await self._news.wait()
        return self._results.popleft() if self._results else None

    def _note(self, server: Server, outcome: Answer | QueryError) -> None:
        self._asking.pop(server, None)
        if isinstance(outcome, QueryError):
            self._errors.append((server, outcome))
        elif outcome.negative and outcome.follow is None:
            if not self._said_no:
                self._deadline = trio.current_time() + self._hedge_delay
            self._said_no.append((server, outcome))
        else:
            self._winner = (server, outcome)

    def _is_decided(self) -> bool:
        return self._winner is not None or (bool(self._said_no) and not self._second_opinion)

    def _is_worth_waiting_for(self, server: Server) -> bool:
        return not self._book.is_demoted(server, trio.current_time())

    def _ask_next(self, nursery: trio.Nursery) -> None:
        """Ask the next server, if there is one that could make a difference."""
        now = trio.current_time()
        if self._to_ask and (not self._said_no or self._is_worth_waiting_for(self._to_ask[0])):
            server = self._to_ask.popleft()
            self._asking[server] = now
            nursery.start_soon(self._ask, server)
        if not self._said_no:
            self._deadline = now + self._hedge_delay if self._to_ask else math.inf

    async def _ask(self, server: Server) -> None:
        outcome: Answer | QueryError
        try:
            answer = await self._transport.exchange(server, self._question, timeout=self._timeout)
            outcome = as_nothing_if_unusable(answer)
        except QueryError as exc:
            outcome = exc
        self._results.append((server, outcome))
        self._news.set()

    def verdict(self) -> Verdict:
        """Who has won; and the book learns who has not.

        Only where some server has answered are the others known to be at fault: while
        nothing can be reached, the order of the servers stays as it is.

        Raises:
          QueryError: nobody has.
        """
        for server, error in self._errors:
            self._book.failed(server, str(error))
        answers = [self._winner] if self._winner is not None else self._said_no
        if not answers:
            raise QueryError("; ".join(f"{server}: {error}" for server, error in self._errors))
        self._blame()
        for server, _ in (*self._said_no, *answers):
            self._book.answered(server)
        # That the service is not offered is in a record, and so tells more than a "no".
        server, answer = min(answers, key=lambda said: said[1].kind is not Kind.NOT_OFFERED)
        self._book.prefer(self._question, server, trio.current_time())
        return Verdict(answer, server, confirmed=len(self._said_no) > 1)

    def _blame(self) -> None:
        now = trio.current_time()
        patience = max(self._hedge_delay, _LEAST_PATIENCE) - _ROUNDING
        slow = [server for server, since in self._asking.items() if now - since >= patience]
        for server in slow:
            self._book.failed(server, "slower than another nameserver")
        for server in (*slow, *(server for server, _ in self._errors)):
            self._book.demote(server, now)
