"""What does an HTTP request cost over this pool, and over httpx's own?

32 workers send the same requests to one nginx on this machine, and share 8 connections. They use
the clients of httpx and of httpx2, each over its own pool and over this one. The rounds alternate.
"""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import trio

from _contestant import installed, leave_out
from _load import CONNECTIONS, Figures, Request, compare, trio_load
from _runner import Report, run, times
from _services import NginxServer, missing, nginx_servers
from qorb_trio import FixedResolver, Policy, open_pool
from qorb_trio.http import HttpConnector, PoolTransport


@asynccontextmanager
async def own_pool(library: Any, server: NginxServer) -> AsyncIterator[Request]:
    """Open a client with its own pool."""
    limits = library.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
    async with library.AsyncClient(limits=limits) as client:
        yield request_of(client, server)


@asynccontextmanager
async def this_pool(library: Any, server: NginxServer) -> AsyncIterator[Request]:
    """Open a client over this pool."""
    policy = Policy(spares_wanted=CONNECTIONS, max_slots=CONNECTIONS)
    async with (
        trio.open_nursery() as nursery,
        open_pool(nursery, FixedResolver([server.backend]), HttpConnector(), policy=policy) as pool,
        library.AsyncClient(transport=PoolTransport(pool)) as client,
    ):
        await pool.wait_ready(CONNECTIONS)
        yield request_of(client, server)


def request_of(client: Any, server: NginxServer) -> Request:
    """Return the request that is measured."""

    async def request(worker: int, turn: int) -> None:
        path = f"/{worker}.{turn}"
        response = await client.get(f"http://127.0.0.1:{server.port}{path}")
        assert response.text.endswith(path)

    return request


def load_of(request: Request, requests: int) -> Callable[[], Awaitable[Figures]]:
    """Return the load of one contender."""
    return lambda: trio_load(request, requests)


async def measure(report: Report) -> None:
    """Run both clients, each over both pools, against one server."""
    if absent := missing("nginx"):
        leave_out("nginx", absent)
        return
    requests = report.size(2_000, 64)
    async with nginx_servers() as [server]:
        for name in ("httpx", "httpx2"):
            if not installed(name):
                continue
            library = importlib.import_module(name)
            title = f"{name} {library.__version__}"
            async with AsyncExitStack() as stack:
                own = await stack.enter_async_context(own_pool(library, server))
                this = await stack.enter_async_context(this_pool(library, server))
                await trio_load(own, 64)  # to connect
                await compare(
                    report,
                    "GET",
                    {
                        f"{title}, its own pool": load_of(own, requests),
                        f"{title}, qorb_trio": load_of(this, requests),
                    },
                    {f"{title}, qorb_trio": times(0.55)} if name == "httpx" else {},
                )


if __name__ == "__main__":
    run(__doc__, measure)
