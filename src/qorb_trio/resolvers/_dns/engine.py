"""What runs: tasks that ask what is due, and publish what changes.

Everything is decided in `Service` and `Lookup`; here are only the waits.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import TypeAlias, final

import attrs
import trio

from ..._model.backend import Backend
from .config import DnsResolverConfig
from .lookup import Lookup, Verdict
from .records import QueryError, Question
from .servers import ServerBook
from .service import Service
from .snapshot import DnsSnapshot
from .tracker import Tracker
from .transport import Transport

_Publish: TypeAlias = Callable[[tuple[Backend, ...]], Awaitable[None]]


@final
@attrs.frozen
class Engine:
    """One run of a resolver: the service, and the one that finds nameservers, if any."""

    _runner: Runner
    _finder: Runner | None
    _servers: ServerBook
    _config: DnsResolverConfig

    @classmethod
    def make(
        cls,
        name: str,
        finder_name: str | None,
        *,
        names: Sequence[str],
        config: DnsResolverConfig,
        servers: ServerBook,
        transport: Transport,
        rng: random.Random,
    ) -> Engine:
        """Build it; nothing runs yet. To be called where `trio.current_time` is.

        Args:
          name: the service's own name.
          finder_name: that of the service that lists nameservers, if any.
          names: what to ask for where `name` is meant, in order: see `search_names`.
          config: how to go about it.
          servers: the nameservers.
          transport: asks one of them.
          rng: the source of jitter.
        """
        lookup = Lookup(
            transport, servers, timeout=config.query_timeout, hedge_delay=config.hedge_delay
        )
        limit = trio.Semaphore(config.max_dns_concurrency)
        now = trio.current_time()
        runner = Runner(Service(name, config, rng, now), names, lookup, limit)
        finder = None
        if finder_name is not None:
            # An SRV name or nothing; and a list of nameservers that is gone is not kept.
            finder_config = attrs.evolve(config, default_port=None, on_empty="drop")
            service = Service(finder_name, finder_config, rng, now)
            finder = Runner(service, (finder_name,), lookup, limit)
        return cls(runner, finder, servers, config)

    async def run(self, updates: trio.MemorySendChannel[Collection[Backend]]) -> None:
        """Send the set each time it changes, until cancelled or nobody listens."""

        async def publish(backends: tuple[Backend, ...]) -> None:
            try:
                await updates.send(backends)
            except trio.BrokenResourceError:  # whoever wanted to know has gone
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            if self._finder is not None:
                nursery.start_soon(self._finder.run, self._use_nameservers)
                with trio.move_on_after(self._config.query_timeout):
                    await self._finder.tried.wait()
            await self._runner.run(publish)

    async def _use_nameservers(self, backends: tuple[Backend, ...]) -> None:
        self._servers.set_dynamic(backends)
        self._runner.hurry()

    def snapshot(self) -> DnsSnapshot:
        """Everything that is known."""
        now = trio.current_time()
        service = self._runner.service
        names = service.snapshot(now)
        if self._finder is not None:
            names += self._finder.service.snapshot(now)
        return DnsSnapshot(
            service=service.name,
            time=now,
            backends=service.published,
            names=names,
            nameservers=self._servers.snapshot(now),
        )


@final
class Runner:
    """The tasks of one service."""

    def __init__(
        self, service: Service, names: Sequence[str], lookup: Lookup, limit: trio.Semaphore
    ) -> None:
        self.service = service
        #: Set when the service's own name has been looked up, with whatever outcome.
        self.tried = trio.Event()
        self._names = tuple(names)
        self._lookup = lookup
        self._limit = limit
        self._news = trio.Event()
        self._rescheduled = trio.Event()

    async def run(self, publish: _Publish) -> None:
        """Track the service, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ask_what_is_due, nursery)
            while True:
                backends = self.service.poll(trio.current_time())
                if backends is not None:
                    await publish(backends)
                    self.tried.set()
                else:
                    await _wait(self._news, self.service.next_deadline)
                    self._news = trio.Event()

    def hurry(self) -> None:
        """Ask at once for what is not known."""
        self.service.hurry(trio.current_time())
        self._rescheduled.set()

    async def _ask_what_is_due(self, nursery: trio.Nursery) -> None:
        while True:
            await _wait(self._rescheduled, self.service.next_due)
            self._rescheduled = trio.Event()
            while self.service.next_due <= trio.current_time():
                await self._limit.acquire()
                tracker = self.service.take_due(trio.current_time())
                if tracker is None:
                    self._limit.release()
                else:
                    nursery.start_soon(self._ask, tracker)

    async def _ask(self, tracker: Tracker) -> None:
        service = self.service
        try:
            verdict = await self._resolve(
                tracker.question, second_opinion=service.needs_second_opinion(tracker)
            )
        except QueryError as exc:
            service.failed(tracker, str(exc), trio.current_time())
        else:
            service.answered(tracker, verdict, trio.current_time())
        finally:
            self._limit.release()
        self._tell()

    def _tell(self) -> None:
        self._rescheduled.set()
        if self.service.has_news:
            self._news.set()
        if self.service.in_trouble:
            self.tried.set()
        for question in self.service.take_forgotten():
            self._lookup.servers.forget(question)

    async def _resolve(self, question: Question, *, second_opinion: bool) -> Verdict:
        if question.name != self.service.name or len(self._names) == 1:
            return await self._lookup.resolve(question, second_opinion=second_opinion)
        return await self._search(question, second_opinion=second_opinion)

    async def _search(self, question: Question, *, second_opinion: bool) -> Verdict:
        """Try one name after the other: the first that has records is it."""
        verdict: Verdict | None = None
        error: QueryError | None = None
        for name in self._names:
            try:
                verdict = await self._lookup.resolve(
                    Question(name, question.rdtype), second_opinion=second_opinion
                )
            except QueryError as exc:
                error = exc
                continue
            if not verdict.answer.negative:
                return verdict
        if verdict is None or error is not None:
            # That there is nothing is known only if none of the names has failed.
            raise error or QueryError("no names to search")
        return verdict


async def _wait(event: trio.Event, deadline: float) -> None:
    """Wait for an event or a time, but let others run in any case."""
    await trio.lowlevel.checkpoint()
    with trio.move_on_at(deadline):
        await event.wait()
