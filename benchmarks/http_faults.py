"""Count the requests that fail when HTTP servers are restarted, killed or stopped.

    python benchmarks/http_faults.py [WORD ...]

12 workers send GET requests with a time-out of 1 s. They use httpx over a pool of three nginx,
and httpx as it comes, which knows one of them. Each fault is inflicted three times; the line of
the round in the middle is printed, in Markdown.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpx  # noqa: ASYNC127 - what most programs use
import trio

from _contestant import leave_out
from _faults import Account, Fault, Request, Table, during
from _services import NginxServer, missing, nginx_servers
from qorb_trio import FixedResolver, Policy, SetConfig, open_pool
from qorb_trio.http import HttpConnector, PoolTransport

TIMEOUT = 1.0
#: Spares are probed every half second, and a probe is given up after a quarter.
POLICY = Policy(
    spares_wanted=6,
    max_slots=18,
    set_config=SetConfig(
        health_interval=0.5,
        health_check_timeout=0.25,
        connect_timeout=1,
        max_connection_backoff=1,
    ),
)


@asynccontextmanager
async def pool_client(servers: list[NginxServer]) -> AsyncIterator[Request]:
    """Open httpx over a pool of all servers."""
    resolver = FixedResolver([server.backend for server in servers])
    connector = HttpConnector(probe="/health")
    async with (
        trio.open_nursery() as nursery,
        open_pool(nursery, resolver, connector, policy=POLICY) as pool,
        httpx.AsyncClient(transport=PoolTransport(pool), timeout=TIMEOUT) as client,
    ):
        await pool.wait_ready()
        yield lambda: client.get("http://web.test/x")


@asynccontextmanager
async def plain_client(servers: list[NginxServer]) -> AsyncIterator[Request]:
    """Open httpx as it comes, to the first server."""
    url = f"http://127.0.0.1:{servers[0].port}/x"
    async with httpx.AsyncClient(timeout=TIMEOUT) as client:
        yield lambda: client.get(url)


CLIENTS: dict[str, Any] = {
    "httpx over qorb_trio": pool_client,
    "httpx, one server": plain_client,
}


def faults(servers: list[NginxServer]) -> dict[str, Fault]:
    """Return what happens to the servers."""

    async def by_quit() -> None:
        for server in servers:
            await server.quit()
            await trio.sleep(0.3)
            await server.start()
            await trio.sleep(0.5)

    async def by_kill() -> None:
        for server in servers:
            await server.kill()
            await trio.sleep(0.3)
            await server.start()
            await trio.sleep(0.5)

    async def one_dead() -> None:
        await servers[0].kill()
        await trio.sleep(5)
        await servers[0].start()

    async def one_stopped() -> None:
        servers[0].send(signal.SIGSTOP)
        await trio.sleep(8)
        servers[0].send(signal.SIGCONT)

    return {
        "rolling restart by QUIT": by_quit,
        "rolling restart by kill -9": by_kill,
        "one server dead for 5 s": one_dead,
        "one server stopped (SIGSTOP) for 8 s": one_stopped,
    }


async def main() -> None:
    """Run each fault with each client."""
    if absent := missing("nginx"):
        leave_out("nginx", absent)
        return
    table = Table()
    async with nginx_servers(3) as servers:
        for title, fault in faults(servers).items():
            if table.wants(title):
                for name, client in CLIENTS.items():
                    await table.add(title, name, partial(once, client, servers, fault, 0.005))
    if table.wants(title := "idle connections closed after 1 s"):
        async with nginx_servers(3, keep_alive=1) as servers:
            for name, client in CLIENTS.items():
                await table.add(title, name, partial(once, client, servers, idle, 1.2))


async def once(client: Any, servers: list[NginxServer], fault: Fault, pause: float) -> Account:
    """Run one fault with one client."""
    async with client(servers) as request:
        return await during(fault, request, workers=12, pause=pause)


async def idle() -> None:
    """Wait while the servers close idle connections."""
    await trio.sleep(8)


if __name__ == "__main__":
    trio.run(main)
