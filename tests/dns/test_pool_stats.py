"""The resolver in the statistics of a pool."""

from __future__ import annotations

import attrs
import pytest
import trio

from qorb_trio import Backend, DnsResolver, FixedResolver, NoBackendsError, Policy, open_pool
from qorb_trio.resolvers import DnsSnapshot, NameSnapshot
from qorb_trio.testing import DnsServer, FakeConnector


@pytest.mark.real
async def test_a_pool_shows_what_its_dns_resolver_knows() -> None:
    """`PoolStats.resolution` is the resolver's snapshot, with the records in use."""
    async with DnsServer(origin="lab.test") as server, trio.open_nursery() as nursery:
        server.set("_db._tcp", "SRV", ["1 1 5432 db1"])
        server.set("db1", "A", ["127.0.0.1"])
        resolver = DnsResolver("_db._tcp.lab.test", nameservers=[server.address])
        async with open_pool(nursery, resolver, FakeConnector()) as pool:
            await pool.wait_ready()
            resolution = pool.stats().resolution
        assert isinstance(resolution, DnsSnapshot)
        states = {(name.name, name.rdtype): name.state for name in resolution.names}
        assert states["_db._tcp.lab.test", "SRV"] == "good"
        assert states["db1.lab.test", "A"] == "good"


@pytest.mark.real
async def test_the_error_tells_why_there_is_no_backend() -> None:
    """The claim's error says what is wrong in DNS if that is why there is no backend."""
    async with DnsServer(origin="lab.test") as server, trio.open_nursery() as nursery:
        for service, policy, words in [
            ("_gone._tcp.lab.test", Policy(claim_timeout=5), "SRV: no such records"),
            ("_db._tcp.lab.test", Policy(claim_timeout=0.2), "SRV: .*127.0.0.1.*SERVFAIL"),
        ]:
            resolver = DnsResolver(service, nameservers=[server.address])
            async with open_pool(nursery, resolver, FakeConnector(), policy=policy) as pool:
                with pytest.raises(NoBackendsError, match=words):
                    async with pool.claim():
                        raise AssertionError("there is no backend to be had")
            server.fault = lambda query: "SERVFAIL"


def test_no_trouble() -> None:
    """A snapshot tells of no trouble while the names that it has are in order."""
    empty = DnsSnapshot(service="x", time=0, backends=None, names=(), nameservers=())
    assert empty.trouble is None
    new = NameSnapshot("x", "SRV", "unknown", (), None, None, None, 0, None, None, 0)
    assert attrs.evolve(empty, names=(new,)).trouble == "x SRV: not answered yet"
    assert attrs.evolve(empty, names=(new,), backends=(Backend(("a", 1)),)).trouble is None
    good = attrs.evolve(new, state="good")
    assert attrs.evolve(empty, names=(good,)).trouble is None


async def test_a_resolver_without_a_snapshot_shows_nothing(nursery: trio.Nursery) -> None:
    """`PoolStats.resolution` is `None` unless the resolver overrides ``snapshot``."""
    async with open_pool(nursery, FixedResolver(["a.test:1"]), FakeConnector()) as pool:
        assert pool.stats().resolution is None
