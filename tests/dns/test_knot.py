"""The resolver and real nameservers: knot, changed by RFC 2136, and unbound as a cache."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from qorb_trio.resolvers import DnsResolver, DnsResolverConfig

from .net import echo_names, until
from .servers import knot, unbound
from .test_real import following, names

pytestmark = pytest.mark.real

SERVICE = "_echo._tcp.test.com"
QUICK = DnsResolverConfig(
    min_refresh=0.05, max_refresh=0.1, query_retry_if_no_records_found=0.2, query_timeout=1
)


async def nothing_comes(updates: trio.MemoryReceiveChannel[object], seconds: float) -> None:
    with trio.move_on_after(seconds):
        unexpected = await updates.receive()
        raise AssertionError(f"an update: {unexpected!r}")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_qorbs_example_zone(tmp_path: Path, host: str) -> None:
    """The zone of qorb's examples works unchanged."""
    async with knot(tmp_path) as server:
        resolver = DnsResolver(SERVICE, nameservers=[(host, server.port)])
        async with following(resolver) as updates:
            backends = await updates.receive()
            assert names(backends) == echo_names()
            assert {(b.priority, b.weight) for b in backends} == {(1, 1)}
            assert {b.address for b in backends} == {("::1", 6000 + i) for i in (1, 2, 3)}


async def test_updates_arrive(tmp_path: Path) -> None:
    """Records added, changed and removed at the server arrive, each as one update."""
    async with knot(tmp_path) as server:
        resolver = DnsResolver(SERVICE, nameservers=[server.address], config=QUICK)
        async with following(resolver) as updates:
            assert names(await updates.receive()) == echo_names()
            await server.update(
                ("echo004", "AAAA", "::1"),
                ("_echo._tcp", "SRV", *(f"1 1 {6000 + i} echo00{i}" for i in (2, 3, 4))),
            )
            assert names(await updates.receive()) == echo_names(2, 3, 4)
            await server.update(("echo004", "AAAA", "::2"))
            expected = echo_names(2, 3) | {"echo004.test.com:6004@::2"}
            assert names(await updates.receive()) == expected
            await server.update(("_echo._tcp", "SRV", "1 1 6002 echo002"))
            assert names(await updates.receive()) == echo_names(2)
            await server.update(("_echo._tcp", "CNAME", "_other._tcp"), ("_echo._tcp", "SRV"))
            await server.update(("_echo._tcp", "SRV"), ("_other._tcp", "SRV", "1 1 6003 echo003"))
            await server.update(("_echo._tcp", "CNAME", "_other._tcp"))
            seen = names(await updates.receive())
            if not seen:  # there was nothing for a moment
                seen = names(await updates.receive())
            assert seen == echo_names(3)
            await server.update(("_echo._tcp", "CNAME"))
            assert names(await updates.receive()) == set()


async def test_a_set_too_large_for_udp(tmp_path: Path) -> None:
    """Hundreds of records are truncated over UDP, and come over TCP, all of them."""
    async with knot(tmp_path) as server:
        await server.update(("_echo._tcp", "SRV", *(f"1 1 {7000 + i} echo001" for i in range(400))))
        async with following(DnsResolver(SERVICE, nameservers=[server.address])) as updates:
            assert len(await updates.receive()) == 400


async def test_a_hung_server(tmp_path: Path) -> None:
    """One of two servers is stopped: no event, and the other one's changes arrive."""
    async with knot(tmp_path / "a") as a, knot(tmp_path / "b") as b:
        servers = [a.address, b.address]
        resolver = DnsResolver(SERVICE, nameservers=servers, config=QUICK)
        async with following(resolver) as updates:
            assert names(await updates.receive()) == echo_names()
            a.hang()
            await nothing_comes(updates, 1)
            snapshot = resolver.snapshot()
            assert snapshot.nameservers[0].address == b.address
            assert {one.state for one in snapshot.names} <= {"good", "empty"}
            start = trio.current_time()
            await b.update(("echo001", "AAAA", "::9"))
            changed = names(await updates.receive())
            assert "echo001.test.com:6001@::9" in changed
            assert trio.current_time() - start < 0.5
            a.wake()
            await nothing_comes(updates, 0.5)


async def test_a_killed_server(tmp_path: Path) -> None:
    """One of two servers is killed: no event; killed both and back: no event."""
    async with knot(tmp_path / "a") as a, knot(tmp_path / "b") as b:
        resolver = DnsResolver(SERVICE, nameservers=[a.address, b.address], config=QUICK)
        async with following(resolver) as updates:
            assert names(await updates.receive()) == echo_names()
            a.kill()
            await nothing_comes(updates, 0.5)
            assert resolver.snapshot().names[0].state == "good"
            b.kill()
            await nothing_comes(updates, 1)
            own = resolver.snapshot().names[0]
            assert own.state == "failing"
            assert "refused" in (own.last_error or "")
            await a.start()
            await nothing_comes(updates, 0.5)
            assert resolver.snapshot().names[0].state == "good"


async def test_through_a_cache(tmp_path: Path) -> None:
    """Through unbound: the same backends, and changes once its cache lets them pass."""
    async with knot(tmp_path / "knot") as server, unbound(tmp_path / "unbound", server) as cache:
        resolver = DnsResolver(SERVICE, nameservers=[cache.address], config=QUICK)
        async with following(resolver) as updates:
            assert names(await updates.receive()) == echo_names()
    async with knot(tmp_path / "knot2") as server, unbound(tmp_path / "unbound2", server) as cache:
        await server.update(("_echo._tcp", "SRV", "1 1 6001 echo001"), ttl=1)
        resolver = DnsResolver(SERVICE, nameservers=[cache.address], config=QUICK)
        async with following(resolver) as updates:
            assert names(await updates.receive()) == echo_names(1)
            await server.update(("_echo._tcp", "SRV", "1 1 6002 echo002"), ttl=1)
            assert names(await updates.receive()) == echo_names(2)
            # The cache fails or hangs when what is behind it is dead: that is no event.
            server.kill()
            await until(lambda: resolver.snapshot().names[0].state == "failing")
            await nothing_comes(updates, 0.5)


async def test_nameservers_from_dns(tmp_path: Path) -> None:
    """A nameserver that another one's SRV records name is asked, on its own port."""
    finder_zone = "@ SOA ns root 1 60 60 60 1\nns A 127.0.0.1\n"
    async with (
        knot(tmp_path / "a", finder_zone, origin="ns.test") as bootstrap,
        knot(tmp_path / "b") as server,
    ):
        await bootstrap.update(("_dns._udp", "SRV", f"0 0 {server.port} ns"))
        resolver = DnsResolver(
            SERVICE,
            nameservers=[bootstrap.address],
            config=DnsResolverConfig(resolver_service="_dns._udp.ns.test"),
        )
        async with following(resolver) as updates:
            assert names(await updates.receive()) == echo_names()
            assert resolver.snapshot().nameservers[0].address == server.address
