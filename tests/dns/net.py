"""A network of nameservers that exists only in virtual time.

Each `FakeServer` answers from a table. Its answers go through the wire format and the
resolver's own parser, so that everything but the sockets is real.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import attrs
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import trio

from qorb_trio import Backend
from qorb_trio._phases import finish
from qorb_trio.resolvers import DnsResolver, DnsResolverConfig
from qorb_trio.resolvers._dns.records import Answer, QueryError, Question
from qorb_trio.resolvers._dns.servers import Server
from qorb_trio.resolvers._dns.wire import make_query, read

#: "hang", the name of an rcode, a number of seconds to wait first, or `None`.
Fault: TypeAlias = "str | float | None"

SERVICE = "_echo._tcp.test.com"


class FakeServer:
    """One nameserver, with its records and its faults."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, str], tuple[int, list[str]]] = {}
        self.latency = 0.001
        self.negative_ttl: int | None = 60
        self.additional = False
        self.follows_cnames = True
        self.fault: Callable[[Question], Fault] | Fault = None
        self.tweak: Callable[[dns.message.Message], None] | None = None
        self.log: list[tuple[float, Question]] = []
        self.asking = self.most_at_once = 0
        self._cache: dict[Question, Answer | QueryError] = {}

    def set(self, name: str, rdtype: str, *values: str, ttl: int = 60) -> None:
        """Make `values` the only records of this name and type; without any: remove it."""
        if values:
            self.records[name, rdtype] = (ttl, list(values))
        else:
            self.records.pop((name, rdtype), None)
        self.changed()

    def changed(self) -> None:
        """Forget rendered answers, because records were changed by hand."""
        self._cache.clear()

    def count(self, name: str | None = None, rdtype: str | None = None) -> int:
        """Return the number of queries."""
        return sum(
            (name is None or q.name == name) and (rdtype is None or q.rdtype == rdtype)
            for _, q in self.log
        )

    def counts(self) -> Counter[Question]:
        """Return the number of queries for each question."""
        return Counter(question for _, question in self.log)

    async def ask(self, question: Question) -> Answer:
        self.log.append((trio.current_time(), question))
        self.asking += 1
        self.most_at_once = max(self.most_at_once, self.asking)
        try:
            return await self._ask(question)
        finally:
            self.asking -= 1

    async def _ask(self, question: Question) -> Answer:
        fault = self.fault(question) if callable(self.fault) else self.fault
        await trio.sleep(fault if isinstance(fault, int | float) else self.latency)
        if fault == "hang":
            await trio.sleep_forever()
        if fault == "closed":
            raise QueryError("[Errno 111] Connection refused")
        if isinstance(fault, str):
            raise QueryError(fault)
        if question not in self._cache:
            self._cache[question] = self._answer(question)
        answer = self._cache[question]
        if isinstance(answer, QueryError):
            raise answer
        return answer

    def _answer(self, question: Question) -> Answer | QueryError:
        query = make_query(question, payload=1232)
        message = dns.message.make_response(dns.message.from_wire(query.wire))
        self._fill(message, question.name, question.rdtype)
        if self.tweak is not None:
            self.tweak(message)
        return finish(read(message.to_wire(max_size=65535), query)).outcome

    def _fill(self, message: dns.message.Message, name: str, rdtype: str) -> None:
        for _ in range(20):
            alias = self.records.get((name, "CNAME"))
            if alias is None or rdtype == "CNAME":
                break
            message.answer.append(self._rrset(name, "CNAME"))
            name = alias[1][0].rstrip(".")
            if not self.follows_cnames:
                return
        if (name, rdtype) in self.records:
            message.answer.append(self._rrset(name, rdtype))
            if self.additional and rdtype == "SRV":
                self._add_additional(message)
            return
        if not any(known == name or known.endswith(f".{name}") for known, _ in self.records):
            message.set_rcode(dns.rcode.NXDOMAIN)
        if self.negative_ttl is not None:
            ttl = self.negative_ttl
            soa = dns.rrset.from_text("com.", ttl, "IN", "SOA", f"a. b. 1 2 3 4 {ttl}")
            message.authority.append(soa)

    def _rrset(self, name: str, rdtype: str) -> dns.rrset.RRset:
        ttl, values = self.records[name, rdtype]
        return dns.rrset.from_text_list(f"{name}.", ttl, "IN", rdtype, values)

    def _add_additional(self, message: dns.message.Message) -> None:
        for rdata in message.answer[-1]:
            target = str(rdata).split()[-1].rstrip(".")
            message.additional += [
                self._rrset(target, family)
                for family in ("A", "AAAA")
                if (target, family) in self.records
            ]


class FakeNet:
    """The transport: nameservers by address. One that is not there is a closed port."""

    def __init__(self, *names: str) -> None:
        self.servers: dict[str, FakeServer] = {}
        for name in names or ("10.0.0.1",):
            self.add(name)

    def add(self, address: str) -> FakeServer:
        """Add a nameserver at "host" or "host:port"."""
        self.servers[address if ":" in address else f"{address}:53"] = server = FakeServer()
        return server

    def __getitem__(self, index: int) -> FakeServer:
        return list(self.servers.values())[index]

    @property
    def log(self) -> list[tuple[float, Question]]:
        return sorted(
            (entry for server in self.servers.values() for entry in server.log),
            key=lambda entry: entry[0],
        )

    def set(self, name: str, rdtype: str, *values: str, ttl: int = 60) -> None:
        """Set records at all servers."""
        for server in self.servers.values():
            server.set(name, rdtype, *values, ttl=ttl)

    def fault(self, fault: Callable[[Question], Fault] | Fault) -> None:
        """Set a fault at all servers."""
        for server in self.servers.values():
            server.fault = fault

    async def exchange(self, server: Server, question: Question, *, timeout: float) -> Answer:
        fake = self.servers.get(str(server))
        if fake is None:
            await trio.lowlevel.checkpoint()
            raise QueryError("[Errno 111] Connection refused")
        with trio.move_on_after(timeout):
            return await fake.ask(question)
        raise QueryError(f"no answer within {timeout:g} s")


class Watch:
    """A running resolver, and what it has sent so far."""

    def __init__(self, resolver: DnsResolver, net: FakeNet) -> None:
        self.resolver = resolver
        self.net = net
        self.updates: list[tuple[float, tuple[Backend, ...]]] = []

    @property
    def sets(self) -> list[set[str]]:
        """The names in each update."""
        return [{backend.name for backend in update} for _, update in self.updates]

    @property
    def backends(self) -> tuple[Backend, ...]:
        """The last update."""
        return self.updates[-1][1]

    @property
    def names(self) -> set[str]:
        """The names in the last update."""
        return self.sets[-1]

    def state(self, name: str = SERVICE, rdtype: str = "SRV") -> Any:
        """The snapshot of one name."""
        return next(
            one
            for one in self.resolver.snapshot().names
            if (one.name, one.rdtype) == (name, rdtype)
        )

    async def collect(self, inbox: trio.MemoryReceiveChannel[Collection[Backend]]) -> None:
        async for update in inbox:
            self.updates.append((trio.current_time(), tuple(update)))


@asynccontextmanager
async def watching(
    net: FakeNet,
    service: str = SERVICE,
    *,
    nameservers: Iterable[str] | None = None,
    config: DnsResolverConfig | None = None,
    **settings: Any,
) -> AsyncIterator[Watch]:
    """Run a resolver over `net` while the block runs."""
    resolver = DnsResolver(
        service,
        nameservers=net.servers if nameservers is None else nameservers,
        config=attrs.evolve(config or DnsResolverConfig(), **settings),
        rng=random.Random(1),
        transport=net,
    )
    watch = Watch(resolver, net)
    outbox, inbox = trio.open_memory_channel[Collection[Backend]](0)
    async with outbox, inbox, trio.open_nursery() as nursery:
        nursery.start_soon(watch.collect, inbox)
        nursery.start_soon(resolver.run, outbox)
        yield watch
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], object], *, step: float = 0.1) -> None:
    """Wait until a condition holds that has no event."""
    while not condition():  # noqa: ASYNC110
        await trio.sleep(step)


def echo(net: FakeNet, *, hosts: int = 3, ttl: int = 60) -> None:
    """The zone of qorb's examples: echo001 … at ::1, ports 6001 …."""
    numbers = range(1, hosts + 1)
    srv = [f"1 1 {6000 + i} echo{i:03}.test.com." for i in numbers]
    net.set(SERVICE, "SRV", *srv, ttl=ttl)
    for i in numbers:
        net.set(f"echo{i:03}.test.com", "AAAA", "::1", ttl=ttl)


def echo_names(*numbers: int) -> set[str]:
    """The names of backends of that zone."""
    return {f"echo{i:03}.test.com:{6000 + i}@::1" for i in numbers or (1, 2, 3)}
