"""Shared by the tests of qtop: pools to be watched, and clients without a network."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import FrameType
from typing import Any

import trio
import trio.testing

from qorb_trio import Policy, Pool, Resolver, open_pool
from qorb_trio.qtop import _recorder
from qorb_trio.qtop._client import Target, shake_hands
from qorb_trio.qtop._guard import Guard
from qorb_trio.qtop._server import Server
from qorb_trio.qtop._websocket import WebSocket
from qorb_trio.testing import FakeConnection, FakeConnector, HookedFakeConnector, ManualResolver

#: The address at which the server believes to be.
HOST = "127.0.0.1:42069"
POLICY = Policy(spares_wanted=4, max_slots=8)

StreamPair = tuple[trio.StapledStream[Any, Any], trio.StapledStream[Any, Any]]


@asynccontextmanager
async def a_pool(
    *backends: str,
    name: str = "db",
    connector: FakeConnector | HookedFakeConnector | None = None,
    resolver: Resolver | None = None,
    policy: Policy = POLICY,
) -> AsyncIterator[Pool[FakeConnection]]:
    """A pool with spares at each backend; by default there is one backend."""
    resolver = resolver or ManualResolver(backends or ["a.test:80"])
    async with (
        trio.open_nursery() as nursery,
        open_pool(
            nursery, resolver, connector or FakeConnector(), policy=policy, name=name
        ) as pool,
    ):
        await pool.wait_ready(min(policy.spares_wanted, policy.max_slots))
        yield pool


class Program:
    """A program that serves its pools, to which one connects without a network."""

    def __init__(self, nursery: trio.Nursery, *pools: Pool[Any], guard: Guard) -> None:
        self.server = Server(pools, guard)
        self._nursery = nursery

    def connect(
        self, pair: Callable[[], StreamPair] = trio.testing.memory_stream_pair
    ) -> trio.abc.Stream:
        """The client's end of a new connection."""
        ours, theirs = pair()
        self._nursery.start_soon(self.server.handle, theirs)
        return ours

    async def ask(self, head: str, *headers: str) -> bytes:
        """Send a request; all of the answer."""
        stream = self.connect()
        lines = [f"{head} HTTP/1.1", *headers]
        if not any(line.lower().startswith("host:") for line in headers):
            lines.append(f"Host: {HOST}")
        await stream.send_all("".join(f"{line}\r\n" for line in [*lines, ""]).encode())
        with trio.fail_after(60):
            return await read_all(stream)

    @asynccontextmanager
    async def watched(
        self, *, path: str = "/qtop/stats", token: str | None = None
    ) -> AsyncIterator[WebSocket]:
        """A WebSocket to it."""
        async with self.connect() as stream:
            target = Target("ws", "127.0.0.1", 42069, HOST, path)
            yield await shake_hands(stream, target, token=token)


@asynccontextmanager
async def a_program(*pools: Pool[Any], **guard: Any) -> AsyncIterator[Program]:
    """A program that serves these pools."""
    async with trio.open_nursery() as nursery:
        yield Program(nursery, *pools, guard=Guard(**({"host": "127.0.0.1"} | guard)))
        nursery.cancel_scope.cancel()


async def is_recorded(pool: Pool[Any]) -> bool:
    """Return True if the pool calls a recorder of qtop while a connection is claimed."""
    called: set[str] = set()

    def profile(frame: FrameType, _event: str, _argument: object) -> None:
        called.add(frame.f_code.co_filename)

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        async with pool.claim(timeout=0):
            pass
    finally:
        sys.setprofile(before)
    return _recorder.__file__ in called


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    """Read until the other end closes the stream."""
    return b"".join([chunk async for chunk in stream])


async def message(socket: WebSocket) -> dict[str, Any]:
    """The next message."""
    text = await socket.receive()
    assert text is not None
    found: dict[str, Any] = json.loads(text)
    return found
