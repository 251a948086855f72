"""The world of the soak: servers, proxies, and the DNS server that publishes them."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import attrs
import trio

from qorb_trio import Backend, DnsResolver, DnsResolverConfig
from qorb_trio.testing import DnsServer
from tests.faults.proxy import FaultProxy
from tests.faults.servers import EchoServer, open_servers

SITES = 6
SERVICE = "_echo._tcp.test."


@attrs.define(eq=False)
class Site:
    """One backend: a server, some of them with a proxy before it."""

    name: str
    server: EchoServer
    proxy: FaultProxy | None
    weight: int = 1
    listed: bool = True
    """True if DNS names it."""
    fails_fast: bool = False
    """True if it fails each claim at once, and works otherwise."""
    harmed: bool = False
    """True while a fault is inflicted on it."""

    @property
    def port(self) -> int:
        """The port to which clients connect."""
        return self.server.port if self.proxy is None else self.proxy.address[1]


@attrs.define(eq=False)
class World:
    """All servers and proxies, and the DNS server."""

    sites: list[Site]
    dns: DnsServer
    hidden: int = 0
    """Number of faults under way that make DNS name no backend."""

    def publish(self) -> None:
        """Publish the addresses of the listed sites in DNS."""
        for site in self.sites:
            self.dns.set(site.name, "A", "127.0.0.1")
            if site.proxy is not None:
                site.proxy.target = site.server.address
        records = [f"0 {one.weight} {one.port} {one.name}" for one in self.sites if one.listed]
        if records and not self.hidden:
            self.dns.set("_echo._tcp", "SRV", records)
        else:
            with suppress(LookupError):  # there is nothing that could be removed
                self.dns.remove("_echo._tcp")

    def resolver(self) -> DnsResolver:
        """A resolver that follows it closely."""
        config = DnsResolverConfig(
            families=("A",),
            min_refresh=0.25,
            max_refresh=0.5,
            query_timeout=0.3,
            query_retry_if_no_records_found=0.2,
        )
        return DnsResolver(SERVICE, nameservers=[self.dns.address], config=config)

    def fails_fast(self, backend: Backend) -> bool:
        """Return True if a claim on that backend has to fail at once."""
        return any(site.fails_fast and site.port == backend.port for site in self.sites)

    def links(self) -> int:
        """Return the number of connections through the proxies."""
        return sum(len(one.proxy.links) for one in self.sites if one.proxy is not None)

    def sockets(self) -> set[int]:
        """The descriptors of the proxies' connections."""
        return {
            descriptor
            for one in self.sites
            if one.proxy is not None
            for link in one.proxy.links
            for descriptor in link.sockets()
        }


@asynccontextmanager
async def open_world(rng: random.Random) -> AsyncIterator[World]:
    """Everything up and well, while the block runs."""
    async with (
        open_servers(SITES) as servers,
        DnsServer(origin="test.", default_ttl=0) as dns,
        trio.open_nursery() as nursery,
    ):
        sites = []
        for number, server in enumerate(servers):
            proxy = None
            if number % 3 == 0:
                proxy = FaultProxy(server.address, rng=rng)
                await nursery.start(proxy.serve)
            sites.append(Site(f"site{number}", server, proxy))
        world = World(sites, dns)
        world.publish()
        yield world
        nursery.cancel_scope.cancel()
