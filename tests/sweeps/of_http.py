"""Sweeps of the connector and the transport for HTTP, against servers in memory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import h11
import httpx  # noqa: ASYNC127 - both are tested
import trio

from qorb_trio import FixedResolver, Policy, open_pool
from qorb_trio.http import HttpConnection, HttpConnector, PoolTransport

from ..harness import Sweep
from ..http.kit import BACKEND, URL, Peer, Streams, hello, web
from .registry import sweeps


@sweeps(
    HttpConnector.connect,
    HttpConnector.is_valid,
    HttpConnector.disconnect,
    HttpConnection.request,
    HttpConnection.receive_head,
    HttpConnection.receive,
    HttpConnection.receive_bytes,
    name="one connection",
)
async def one_connection(one: Sweep) -> None:
    """A connection is opened, used, checked and closed; cut short, it is not lent again."""
    async with trio.open_nursery() as nursery:
        streams = Streams(nursery, hello)
        connector = HttpConnector(streams, probe="/health")
        opened: list[HttpConnection] = []

        async def target() -> None:
            conn = await connector.connect(BACKEND)
            opened.append(conn)
            assert (await conn.request("GET", "/a")).body == b"/a"
            assert await connector.is_valid(conn)
            await connector.disconnect(opened.pop())

        await one.target(target)
        for conn in opened:
            await connector.disconnect(conn)
        nursery.cancel_scope.cancel()


async def fetch(pool: Any, method: str, **options: Any) -> bytes:
    """Send a request through the transport, and read the response from its stream."""
    request = httpx.Request(method, URL, **options)
    response = await PoolTransport(pool).handle_async_request(request)
    body: Any = response.stream
    try:
        return b"".join([chunk async for chunk in body])
    finally:
        await body.aclose()  # noqa: ASYNC102 - it never waits


class Parts:
    """A body in parts."""

    def __init__(self) -> None:
        self.left = [b"ab", b"c"]

    def __aiter__(self) -> Parts:
        return self

    async def __anext__(self) -> bytes:
        await trio.lowlevel.checkpoint()
        if not self.left:
            raise StopAsyncIteration
        return self.left.pop(0)


async def slow(peer: Peer) -> None:
    """Answer each request in several steps."""
    while True:
        target = (await peer.head()).target
        await peer.send(h11.InformationalResponse(status_code=100, headers=[]))
        await peer.body()
        await peer.send(h11.Response(status_code=200, headers=[]))
        for part in (target[:1], target[1:]):
            await peer.send(h11.Data(data=part))
        await peer.send(h11.EndOfMessage())
        peer.http.start_next_cycle()


WAYS: dict[str, tuple[Any, Callable[[Any], Awaitable[bytes]]]] = {
    "a small request": (hello, lambda pool: fetch(pool, "GET")),
    "a body in parts": (slow, lambda pool: fetch(pool, "POST", content=Parts())),
    "an expectation": (
        slow,
        lambda pool: fetch(pool, "PUT", content=b"x", headers={"Expect": "100-continue"}),
    ),
}


def sweep_way(way: str) -> None:
    """Register a sweep of one way to use the transport."""
    serve, use = WAYS[way]

    async def scenario(one: Sweep) -> None:
        """A request is cancelled; the next ones get their own answers, and nothing is claimed."""
        async with web(serve) as it:
            await one.target(lambda: use(it.pool))
            await it.settle()
            it.assert_clean()
            for _ in range(2):
                assert await use(it.pool) == b"/path?q=1"

    sweeps(PoolTransport.handle_async_request, name=way)(scenario)


for _way in WAYS:
    sweep_way(_way)


@sweeps(PoolTransport.handle_async_request, name="a pool", seeds=1)
async def a_pool(one: Sweep) -> None:
    """A pool is opened, used and left; each step of each task counts."""

    async def target(streams: Streams) -> None:
        resolver = FixedResolver([BACKEND])
        policy = Policy(max_slots=2, spares_wanted=1)
        async with (
            trio.open_nursery() as nursery,
            open_pool(nursery, resolver, HttpConnector(streams), policy=policy) as pool,
        ):
            for _ in range(2):
                assert await fetch(pool, "GET") == b"/path?q=1"

    one.deep = True
    async with trio.open_nursery() as servers:
        streams = Streams(servers, hello)
        await one.target(target, streams)
        servers.cancel_scope.cancel()
