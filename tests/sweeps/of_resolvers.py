"""Sweeps of the resolvers' `run`."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

import trio

from qorb_trio import (
    Backend,
    DnsResolver,
    DnsResolverConfig,
    FixedResolver,
    MappedResolver,
    ProbedResolver,
    Resolver,
)
from qorb_trio.testing import DnsQuery, DnsServer, ManualResolver

from ..dns.net import SERVICE, FakeNet, echo, echo_names
from ..harness import Sweep
from .registry import sweeps

Sets = list[Collection[Backend]]


async def sending(one: Sweep, *, resolver: Resolver, slowly: bool) -> Sets:
    """A resolver runs until it ends; what has been received is returned."""
    send, receive = trio.open_memory_channel[Collection[Backend]](0)
    got: Sets = []

    async def collect() -> None:
        await trio.sleep(slowly)
        async for backends in receive:
            got.append(backends)
            await trio.sleep(slowly)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(collect)
        with send:
            await one.target(resolver.run, send)
            assert send.statistics().tasks_waiting_send == 0
    return got


async def fixed(one: Sweep, *, slowly: bool) -> None:
    """The set is sent, or it is not; and it may be sent again."""
    resolver = FixedResolver(["a.test:1", "b.test:1"])
    got = await sending(one, resolver=resolver, slowly=slowly)
    assert got in ([], [resolver.backends])
    assert await sending(Sweep(), resolver=resolver, slowly=slowly) == [resolver.backends]


async def manual(one: Sweep, *, slowly: bool) -> None:
    """The sets come in order, none twice; a later run begins with the last of them."""
    resolver = ManualResolver(["a.test:1"])
    given = [resolver.backends]

    async def test() -> None:
        for port in (2, 3):
            await trio.sleep(0.5)
            resolver.set([f"a.test:{port}"])
            given.append(resolver.backends)
        await trio.sleep(0.5)
        resolver.finish()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(test)
        got = await sending(one, resolver=resolver, slowly=slowly)
        assert not resolver._feeds
    assert got == given[: len(got)]
    assert len(got) == 3 or one.cancelled
    assert await sending(Sweep(), resolver=resolver, slowly=slowly) == [resolver.backends]


for _slowly in (False, True):
    _suffix = ", nobody listens yet" * _slowly
    sweeps(FixedResolver.run, name=f"sent{_suffix}", seeds=3)(partial(fixed, slowly=_slowly))
    sweeps(ManualResolver.run, name=f"sent{_suffix}", seeds=3)(partial(manual, slowly=_slowly))


async def names_found(resolver: Resolver, count: int) -> list[set[str]]:
    """The first `count` sets of a resolver, which is then stopped."""
    found: list[set[str]] = []
    send, receive = trio.open_memory_channel[Collection[Backend]](0)
    async with receive, trio.open_nursery() as nursery:
        nursery.start_soon(resolver.run, send)
        while len(found) < count:
            found.append({backend.name for backend in await receive.receive()})
        nursery.cancel_scope.cancel()
    return found


async def mapped(one: Sweep) -> None:
    """The function's results come in order; a later run begins with the last set."""
    manual = ManualResolver(["a.test:1", "b.test:1"])
    count = 1
    resolver = MappedResolver(manual, lambda backends: [*backends][:count])

    async def test() -> None:
        nonlocal count
        await trio.sleep(1)
        manual.set(["c.test:1", "d.test:1"])
        await trio.sleep(1)
        count = 2
        resolver.refresh()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(test)
        one.deep = True
        await one.target(names_found, resolver, 3)
        assert not manual._feeds
        assert not resolver._runs
        assert not resolver._waiting
    assert await names_found(resolver, 1) == [{"c.test:1", "d.test:1"}]


async def probed(one: Sweep) -> None:
    """A failover: cancelled at whatever step, no probe is left, and a later run finds the same."""
    primary, probing = "a.test", 0

    async def is_primary(backend: Backend) -> bool:
        nonlocal probing
        probing += 1
        try:
            await trio.sleep(0.2)
        finally:
            probing -= 1
        return backend.host == primary

    resolver = ProbedResolver(FixedResolver(["a.test:1", "b.test:1"]), is_primary)

    async def test() -> None:
        nonlocal primary
        await trio.sleep(2)
        primary = "b.test"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(test)
        one.deep = True
        await one.target(names_found, resolver, 2)
        assert probing == 0
        nursery.cancel_scope.cancel()
    primary = "b.test"
    assert await names_found(resolver, 1) == [{"b.test:1"}]


sweeps(MappedResolver.run, name="with a refresh", seeds=2)(mapped)
sweeps(ProbedResolver.run, name="through a failover", seeds=2)(probed)


async def by_dns(one: Sweep) -> None:
    """Records change, a nameserver fails: at whatever step of a look-up, it stops at once."""
    net = FakeNet("10.0.0.1", "10.0.0.2")
    echo(net, hosts=1, ttl=5)
    net[0].fault = "SERVFAIL"
    config = DnsResolverConfig(families=("AAAA",))
    resolver = DnsResolver(SERVICE, nameservers=net.servers, transport=net, config=config)

    async def change() -> None:
        await trio.sleep(3)
        echo(net, hosts=2, ttl=5)

    one.deep = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(change)
        await one.target(names_found, resolver, 2)
        assert not any(server.asking for server in net.servers.values())
        nursery.cancel_scope.cancel()
    echo(net, hosts=3)
    assert await names_found(resolver, 1) == [echo_names()]


sweeps(DnsResolver.run, name="in virtual time", seeds=1)(by_dns)


async def by_sockets(one: Sweep) -> None:
    """UDP, TCP where an answer was truncated, the system's file: no socket stays open."""

    def fault(query: DnsQuery) -> str | None:
        return "truncate" if query.transport == "udp" and query.type == "SRV" else None

    async with DnsServer(origin="test.", fault=fault) as server:
        server.set("_echo._tcp", "SRV", ["0 1 7001 a", "0 1 7002 b"])
        server.set("a", "A", "127.0.0.1")
        server.set("b", "A", "127.0.0.2")
        resolver = DnsResolver(
            "_echo._tcp.test", nameservers=[server.address], config=DnsResolverConfig(search=True)
        )
        one.deep = True
        await one.target(names_found, resolver, 1)


sweeps(DnsResolver.run, name="on sockets", real=True, seeds=1)(by_sockets)
