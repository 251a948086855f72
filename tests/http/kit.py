"""HTTP servers in memory, each written by the test that needs it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeAlias, cast

import attrs
import h11
import httpx  # noqa: ASYNC127 - both are tested
import httpx2
import pytest
import trio
import trio.testing

from qorb_trio import Backend, Connector, FixedResolver, Policy, Pool, SetConfig, open_pool
from qorb_trio.http import HttpConnection, HttpConnector, PoolTransport

BACKEND = Backend(("web.test", 80))
URL = "http://service.test/path?q=1"

POLICY = Policy(max_slots=1, spares_wanted=1, set_config=SetConfig(health_interval=float("inf")))

MEMORY = trio.testing.memory_stream_pair

#: Both packages that `PoolTransport` serves.
LIBRARIES: list[Any] = [httpx, httpx2]
both = pytest.mark.parametrize("library", LIBRARIES, ids=["httpx", "httpx2"])


class Peer:
    """The server's end of one connection."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.http = h11.Connection(h11.SERVER)
        self.requests: list[h11.Request] = []

    async def event(self) -> Any:
        """Return the next part of the request."""
        while (event := self.http.next_event()) is h11.NEED_DATA:
            self.http.receive_data(bytes(await self.stream.receive_some(65536)))
        return event

    async def head(self) -> h11.Request:
        """Return the head of the next request; end the server if there is none."""
        event = await self.event()
        if isinstance(event, h11.ConnectionClosed):
            raise trio.ClosedResourceError
        assert isinstance(event, h11.Request)
        self.requests.append(event)
        return event

    async def body(self) -> bytes:
        """Return the rest of the request."""
        parts = []
        while not isinstance(event := await self.event(), h11.EndOfMessage):
            parts.append(bytes(event.data))
        return b"".join(parts)

    async def send(self, *events: Any) -> None:
        """Send parts of a response."""
        await self.stream.send_all(b"".join(self.http.send(event) or b"" for event in events))

    async def answer(
        self, body: bytes = b"hello", status: int = 200, headers: Any = (), *, reuse: bool = True
    ) -> None:
        """Send a whole response, and wait for the next request."""
        fields = [("Content-Length", str(len(body))), *headers]
        head = h11.Response(status_code=status, headers=fields)
        data = [] if self.requests[-1].method == b"HEAD" else [h11.Data(data=body)]
        await self.send(head, *data, h11.EndOfMessage())
        if reuse:
            self.http.start_next_cycle()


Serve: TypeAlias = "Callable[[Peer], Awaitable[None]]"


async def hello(peer: Peer) -> None:
    """Answer every request with its path."""
    while True:
        target = (await peer.head()).target
        await peer.body()
        await peer.answer(target)


class Streams(Connector[trio.abc.Stream]):
    """Streams in memory, each to a server that the test has written."""

    def __init__(self, nursery: trio.Nursery, serve: Serve) -> None:
        self.serve = serve
        self.peers: list[Peer] = []
        self.closed = 0
        self.descriptor: int | None = None
        self.broken = False
        #: True if the bytes of one side are sent only as the other side reads them.
        self.lockstep = False
        self._nursery = nursery

    async def connect(self, backend: Backend) -> trio.abc.Stream:
        """Open a stream."""
        await trio.lowlevel.checkpoint()
        make: Any = trio.testing.lockstep_stream_pair if self.lockstep else MEMORY
        pair: tuple[trio.abc.Stream, trio.abc.Stream] = make()
        ours, theirs = pair
        peer = Peer(theirs)
        self.peers.append(peer)
        self._nursery.start_soon(self._run, peer)
        return ours

    async def disconnect(self, conn: trio.abc.Stream) -> None:
        """Close it."""
        self.closed += 1
        await conn.aclose()

    def is_broken(self, conn: trio.abc.Stream) -> bool:
        """Answer as the test wants."""
        return self.broken

    def fileno(self, conn: trio.abc.Stream) -> int | None:
        """Return the number that a test has chosen, if one has."""
        return self.descriptor

    @property
    def open(self) -> int:
        """The number of connections that are open."""
        return len(self.peers) - self.closed

    @property
    def targets(self) -> list[str]:
        """The paths of the requests that were received."""
        return [request.target.decode() for peer in self.peers for request in peer.requests]

    async def _run(self, peer: Peer) -> None:
        with suppress(trio.ClosedResourceError, trio.BrokenResourceError, h11.RemoteProtocolError):
            await self.serve(peer)
        await peer.stream.aclose()


@attrs.define
class Web:
    """A server in memory, and a client that reaches it through a pool."""

    streams: Streams
    pool: Pool[HttpConnection]
    client: Any

    async def settle(self) -> None:
        """Wait until nothing moves."""
        await trio.testing.wait_all_tasks_blocked()

    def assert_clean(self) -> None:
        """Check that nothing is claimed, and that the pool knows what is open."""
        stats = self.pool.stats()
        assert sum(it.claimed for it in stats.backends.values()) == 0
        assert self.streams.open == stats.slots


@asynccontextmanager
async def web(
    serve: Serve = hello,
    library: Any = httpx,
    *,
    policy: Policy = POLICY,
    client: Any = None,
    probe: Any = None,
    lockstep: bool = False,
    backends: Sequence[Backend] = (BACKEND,),
    **options: Any,
) -> AsyncIterator[Web]:
    """Open a server, a pool and a client; check at the end that everything was closed."""
    async with trio.open_nursery() as servers:
        streams = Streams(servers, serve)
        streams.lockstep = lockstep
        connector = HttpConnector(streams, probe=probe)
        async with (
            trio.open_nursery() as nursery,
            open_pool(nursery, FixedResolver(backends), connector, policy=policy) as pool,
            library.AsyncClient(
                transport=PoolTransport(pool, **options), **{"timeout": None, **(client or {})}
            ) as one,
        ):
            await pool.wait_ready()
            it = Web(streams, pool, one)
            yield it
            await it.settle()
            it.assert_clean()
        assert streams.open == 0
        servers.cancel_scope.cancel()


def as_any(thing: object) -> Any:
    """Return a value of a wrong type."""
    return cast("Any", thing)
