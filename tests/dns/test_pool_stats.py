"""What the statistics of a pool tell of its resolver."""

from __future__ import annotations

import pytest
import trio

from qorb_trio import DnsResolver, FixedResolver, open_pool
from qorb_trio.resolvers import DnsSnapshot
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


async def test_a_resolver_without_a_snapshot_shows_nothing(nursery: trio.Nursery) -> None:
    """`PoolStats.resolution` is `None` unless the resolver overrides ``snapshot``."""
    async with open_pool(nursery, FixedResolver(["a.test:1"]), FakeConnector()) as pool:
        assert pool.stats().resolution is None
