"""`PoolTransport` against real servers, with both packages of clients."""

from __future__ import annotations

import random
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import httpx2
import pytest
import trio
import trustme

import _services
from _services import NginxServer, nginx_servers
from qorb_trio import (
    Backend,
    DnsResolver,
    FixedResolver,
    Policy,
    Pool,
    Resolver,
    SetConfig,
    TlsConnector,
    open_pool,
)
from qorb_trio.http import HttpConnection, HttpConnector, PoolTransport
from qorb_trio.testing import DnsServer

from .kit import both

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(_services.missing("nginx") is not None, reason="nginx is not installed"),
]

POLICY = Policy(
    spares_wanted=4,
    max_slots=8,
    claim_timeout=10,
    set_config=SetConfig(max_connection_backoff=0.2, health_interval=0.5, health_check_timeout=1),
)


@asynccontextmanager
async def a_pool(
    resolver: Resolver, policy: Policy = POLICY, **options: Any
) -> AsyncIterator[Pool[HttpConnection]]:
    """Open a pool, and let a test last no longer than a minute."""
    with trio.fail_after(60):
        async with (
            trio.open_nursery() as nursery,
            open_pool(nursery, resolver, HttpConnector(**options), policy=policy) as pool,
        ):
            yield pool


@asynccontextmanager
async def a_client(
    *servers: NginxServer, library: Any = httpx2, policy: Policy = POLICY, **options: Any
) -> AsyncIterator[Any]:
    """Open a client over a pool of servers."""
    resolver = FixedResolver([server.backend for server in servers])
    async with (
        a_pool(resolver, policy) as pool,
        library.AsyncClient(
            transport=PoolTransport(pool), base_url="http://web.test", timeout=10, **options
        ) as client,
    ):
        yield client


@both
async def test_requests_of_many_kinds(library: Any) -> None:
    """Small and large, sent and received, refused early: each gets its own answer."""
    async with nginx_servers() as [server], a_client(server, library=library) as client:
        for _ in range(3):
            assert (await client.get("/a")).text == "1 /a"
            assert len((await client.get("/files/big")).content) == 1_000_000
            assert (await client.head("/files/big")).headers["content-length"] == "1000000"
            put = await client.put("/files/up", content=b"y" * 500_000)
            assert put.status_code in {201, 204}
            assert (await client.get("/files/up")).content == b"y" * 500_000
            expecting = {"Expect": "100-continue"}
            put = await client.put("/files/up", content=b"z" * 100_000, headers=expecting)
            assert put.status_code == 204
            refused = await client.put("/files/up", content=b"y" * 10_000_000)
            assert refused.status_code == 413
            refused = await client.put("/files/up", content=b"y" * 3_000_000, headers=expecting)
            assert refused.status_code == 413
            assert (await client.delete("/files/up")).status_code == 204
            assert (await client.get("/files/none")).status_code == 404
            one = await client.get("/a", headers={"Connection": "close"})
            assert one.text == "1 /a"


async def test_balancing_and_backends() -> None:
    """Requests are spread over the servers, and each response says which one it is from."""
    async with nginx_servers(3) as servers, a_client(*servers) as client:
        counts: Counter[str] = Counter()

        async def ask() -> None:
            for _ in range(20):
                response = await client.get("/x")
                counts[response.text] += 1
                backend = response.extensions["backend"]
                assert servers[int(response.text[0]) - 1].backend == backend

        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(ask)
        assert set(counts) == {"1 /x", "2 /x", "3 /x"}


def target_of(backend: Backend) -> str:
    """Return the target of the SRV record, with which the backend's name begins."""
    return backend.name.partition(":")[0]


async def test_tls_with_the_target_of_srv_as_the_name(tmp_path: Any) -> None:
    """The servers that DNS names are verified by those names, whatever the URL's host."""
    authority = trustme.CA()
    certificate = tmp_path / "pem"
    authority.issue_cert("web1.test").private_key_and_cert_chain_pem.write_to_path(certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    streams = TlsConnector(context, server_hostname=target_of, https_compatible=True)
    async with nginx_servers(certificate=str(certificate)) as [server], DnsServer() as dns:
        dns.set("_web._tcp.test", "SRV", [f"1 1 {server.port} web1.test."])
        dns.set("web1.test", "A", "127.0.0.1")
        resolver = DnsResolver("_web._tcp.test.", nameservers=[dns.address])
        async with (
            a_pool(resolver, streams=streams) as pool,
            httpx2.AsyncClient(transport=PoolTransport(pool)) as client,
        ):
            for _ in range(5):
                assert (await client.get("https://service.test/a")).text == "1 /a"
            with pytest.raises(httpx2.UnsupportedProtocol, match="use a URL of https"):
                await client.get("http://service.test/a")


async def test_a_name_that_does_not_match_is_refused(tmp_path: Any) -> None:
    """A certificate for another name makes the backend unusable, and the error says why."""
    authority = trustme.CA()
    certificate = tmp_path / "pem"
    authority.issue_cert("other.test").private_key_and_cert_chain_pem.write_to_path(certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    streams = TlsConnector(context, server_hostname="web.test")
    async with nginx_servers(certificate=str(certificate)) as [server]:
        resolver = FixedResolver([server.backend])
        async with (
            a_pool(resolver, streams=streams) as pool,
            httpx2.AsyncClient(transport=PoolTransport(pool), timeout=0.3) as client,
        ):
            with pytest.raises(httpx2.PoolTimeout, match=r"web\.test"):
                await client.get("https://web.test/a")


# ---------------------------------------------------------------------------- storm


@both
async def test_storm_of_cancelled_requests(library: Any) -> None:
    """After 2,000 cancelled requests every answer is right, and no connection was lost."""
    rng = random.Random(1)
    cancelled = 0

    async def worker(client: Any, number: int) -> None:
        nonlocal cancelled
        for turn in range(60):
            path = f"/{number}.{turn}"
            with trio.CancelScope(deadline=trio.current_time() + rng.expovariate(200)) as scope:
                if turn % 3 == 0:
                    await client.put("/files/up", content=b"x" * 70_000)
                assert (await client.get(path)).text == f"1 {path}"
            cancelled += scope.cancelled_caught

    policy = attrs.evolve(POLICY, max_slots=8, spares_wanted=8)
    async with nginx_servers() as [server], a_client(server, library=library, policy=policy) as it:
        while cancelled < 2000:
            async with trio.open_nursery() as nursery:
                for number in range(24):
                    nursery.start_soon(worker, it, number)
        for number in range(1000):
            assert (await it.get(f"/{number}")).text == f"1 /{number}"
        await trio.sleep(0.2)
        assert await connections_of(server) == 8


async def connections_of(server: NginxServer) -> int:
    """Return the number of connections that a server has, without the one that asks."""
    async with httpx2.AsyncClient() as client:
        status = await client.get(f"http://127.0.0.1:{server.port}/status")
    return int(status.text.split()[2]) - 1


# --------------------------------------------------------------------------- faults


@pytest.mark.parametrize("way", ["quit", "kill"])
async def test_rolling_restart(way: str) -> None:
    """Three servers are restarted in turn, and no idempotent request fails."""
    answered = 0

    async def worker(client: Any, scope: trio.CancelScope) -> None:
        nonlocal answered
        while not scope.cancel_called:
            assert (await client.get("/x")).status_code == 200
            answered += 1

    async with nginx_servers(3) as servers, a_client(*servers) as client:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                for _ in range(6):
                    nursery.start_soon(worker, client, scope)
                for server in servers:
                    await trio.sleep(0.3)
                    await (server.quit() if way == "quit" else server.kill())
                    await trio.sleep(0.2)
                    await server.start()
                await trio.sleep(0.3)
                scope.cancel()
    assert answered > 50


async def test_a_server_that_closes_idle_connections() -> None:
    """Connections that the server has closed fail no request of any method."""
    async with nginx_servers(keep_alive=1) as [server], a_client(server) as client:
        for _ in range(2):
            await trio.sleep(1.3)
            for _ in range(6):
                assert (await client.post("/x")).status_code == 200
