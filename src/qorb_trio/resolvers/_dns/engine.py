"""The tasks that ask for the names that are due, and publish changes.

Everything is decided in `Service` and `Lookup`; this module only waits.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Collection
from typing import Final, TypeAlias, final

import attrs
import trio

from ..._model.backend import Backend
from .config import DnsResolverConfig
from .lookup import Lookup, Stakes, Verdict
from .records import QueryError, Question
from .report import PATIENCE, Reporter, trouble_of
from .server_book import ServerBook
from .service import Service
from .snapshot import DnsSnapshot
from .system_files import HOSTS, SystemNames
from .tracker import Tracker
from .transport import Transport

_Publish: TypeAlias = Callable[[tuple[Backend, ...]], Awaitable[None]]

#: The minimum time between two sets, in seconds. Changes that come sooner are one set.
PUBLISH_INTERVAL: Final = 0.25


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
        system: SystemNames,
        config: DnsResolverConfig,
        transport: Transport,
        rng: random.Random,
    ) -> Engine:
        """Build it, inside ``trio.run``; no task starts yet.

        Args:
          name: the service's own name.
          finder_name: that of the service that lists nameservers, if any.
          system: the nameservers, and what the system's files say.
          config: the intervals and limits.
          transport: asks one nameserver.
          rng: the source of jitter.
        """
        now = trio.current_time()
        servers = ServerBook(system.nameservers(now))
        lookup = Lookup(
            transport, servers, timeout=config.query_timeout, hedge_delay=config.hedge_delay
        )
        limit = trio.Semaphore(config.max_dns_concurrency)
        runner = Runner(Service(name, config, rng, now), config, lookup, limit, system)
        finder = None
        if finder_name is not None:
            # An SRV name or nothing; and a list of nameservers that is gone is not kept.
            finder_config = attrs.evolve(config, default_port=None, on_empty="drop")
            service = Service(finder_name, finder_config, rng, now)
            names = SystemNames(finder_name, absolute=True, given=servers.servers)
            finder = Runner(service, finder_config, lookup, limit, names)
        return cls(runner, finder, servers, config)

    async def run(self, updates: trio.MemorySendChannel[Collection[Backend]]) -> None:
        """Send the set each time it changes, until cancelled or nobody listens."""

        async def publish(backends: tuple[Backend, ...]) -> None:
            try:
                await updates.send(backends)
            except trio.BrokenResourceError:  # the receiver has gone
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            if self._finder is not None:
                nursery.start_soon(self._finder.run, self._use_nameservers)
                with trio.move_on_after(self._config.query_timeout):
                    await self._finder.tried.wait()
            await self._runner.run(publish)

    async def _use_nameservers(self, backends: tuple[Backend, ...]) -> None:
        self._servers.set_dynamic(backends)
        self._runner.refresh_now()

    def snapshot(self) -> DnsSnapshot:
        """Return everything that is known."""
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
    """The tasks of one service.

    Args:
      service: decides what to ask and what to publish.
      config: the intervals and limits.
      lookup: asks.
      limit: bounds the lookups at once.
      system: the files of the system.
    """

    def __init__(
        self,
        service: Service,
        config: DnsResolverConfig,
        lookup: Lookup,
        limit: trio.Semaphore,
        system: SystemNames,
    ) -> None:
        self.service = service
        #: Set when the service's own name has been looked up, with whatever outcome.
        self.tried = trio.Event()
        self._default_port = config.default_port
        self._lookup = lookup
        self._limit = limit
        self._system = system
        self._reporter = Reporter(service.name)
        self._changed = trio.Event()
        self._rescheduled = trio.Event()

    async def run(self, publish: _Publish) -> None:
        """Track the service, until cancelled."""
        self._system.has_changed(trio.current_time())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ask_what_is_due, nursery)
            nursery.start_soon(self._report_silence)
            while True:
                self._changed = trio.Event()
                backends = self.service.poll(trio.current_time())
                self._report()
                if backends is None:
                    await _wait(self._changed, self.service.next_deadline)
                else:
                    await publish(backends)
                    self.tried.set()
                    await trio.sleep(PUBLISH_INTERVAL)

    def refresh_now(self) -> None:
        """Ask at once for what is not known."""
        self.service.refresh_now(trio.current_time())
        self._rescheduled.set()

    # ------------------------------------------------------------------------- the log

    async def _report_silence(self) -> None:
        """Report a first query that stays without an answer."""
        await trio.sleep(PATIENCE)
        self._report()

    def _report(self) -> None:
        now = trio.current_time()
        servers = ", ".join(map(str, self._lookup.servers.servers[:3]))
        self._reporter.update(trouble_of(self.service, servers, now), now)
        self._reporter.note_limits(self.service, now)

    # ------------------------------------------------------------------------- lookups

    async def _ask_what_is_due(self, nursery: trio.Nursery) -> None:
        while True:
            await _wait(self._rescheduled, self.service.table.next_due)
            self._rescheduled = trio.Event()
            while self.service.table.next_due <= trio.current_time():
                await self._limit.acquire()
                self._look_at_system()
                tracker = self.service.take_due(trio.current_time())
                if tracker is None:
                    self._limit.release()
                else:
                    nursery.start_soon(self._ask, tracker)

    def _look_at_system(self) -> None:
        """Use other nameservers once the system's have changed."""
        now = trio.current_time()
        if self._system.has_changed(now):
            self._lookup.servers.set_bootstrap(self._system.nameservers(now))
            self.service.refresh_now(now)

    async def _ask(self, tracker: Tracker) -> None:
        service = self.service
        stakes = Stakes(
            second_opinion=service.needs_second_opinion(tracker), removes=bool(tracker.records)
        )
        try:
            verdict = await self._resolve(tracker.question, stakes)
        except QueryError as exc:
            service.failed(tracker, str(exc), trio.current_time())
        else:
            service.answered(tracker, verdict, trio.current_time())
            self._reporter.note_answer(verdict.answer, trio.current_time())
        finally:
            self._limit.release()
        self._tell()

    def _tell(self) -> None:
        self._rescheduled.set()
        if self.service.changed:
            self._changed.set()
        else:
            self._report()
        if self.service.own.failures:
            self.tried.set()
        for question in self.service.table.take_forgotten():
            self._lookup.servers.forget(question)

    async def _resolve(self, question: Question, stakes: Stakes) -> Verdict:
        now = trio.current_time()
        answer = self._system.answer(question, default_port=self._default_port, now=now)
        if answer is not None:
            await trio.lowlevel.checkpoint()
            return Verdict(answer, HOSTS, confirmed=answer.negative)
        if question.name == self.service.name:
            return await self._search(question, self._system.names(now), stakes)
        return await self._lookup.resolve(question, stakes)

    async def _search(self, question: Question, names: Collection[str], stakes: Stakes) -> Verdict:
        """Try one name after the other: the first that has records counts."""
        verdict: Verdict | None = None
        error: QueryError | None = None
        for name in names:
            try:
                asked = Question(name, question.rdtype)
                verdict = await self._lookup.resolve(asked, stakes, key=question)
            except QueryError as exc:
                error = exc
                continue
            if not verdict.answer.negative or verdict.veto:
                return verdict
        if verdict is None or error is not None:
            # It is certain that there is nothing only if none of the names has failed.
            raise error or QueryError("no names to search")
        return verdict


async def _wait(event: trio.Event, deadline: float) -> None:
    """Wait for an event or a time, but let others run in any case."""
    await trio.lowlevel.checkpoint()
    with trio.move_on_at(deadline):
        await event.wait()
