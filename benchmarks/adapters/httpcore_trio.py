"""httpcore's pool under Trio; it runs in the event loop of the benchmark itself.

A claim is a request to a connection that answers at once with nothing, so that what is
measured is the pool.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpcore

from _work import Lend

VERSION = f"httpcore {httpcore.__version__}"
URL = "http://test.com/"


class FakeConnection(httpcore.AsyncConnectionInterface):
    """The part of a connection that the pool uses; it serves one request at a time."""

    def __init__(self, origin: httpcore.Origin) -> None:
        self._origin = origin
        self._busy = False

    async def handle_async_request(self, request: httpcore.Request) -> httpcore.Response:
        """Answer at once."""
        if self._busy:  # another task was faster: the pool tries again
            raise httpcore.ConnectionNotAvailable
        self._busy = True
        return httpcore.Response(200, content=Body(self))

    def finished(self) -> None:
        """The response has been read."""
        self._busy = False

    async def aclose(self) -> None:
        """Nothing."""

    def info(self) -> str:
        """For error messages."""
        return "fake"

    def can_handle_request(self, origin: httpcore.Origin) -> bool:
        """Return True if the connection leads to `origin`."""
        return bool(origin == self._origin)

    def is_available(self) -> bool:
        """Return True if the connection can take a request."""
        return not self._busy

    def has_expired(self) -> bool:
        """Never."""
        return False

    def is_idle(self) -> bool:
        """Return True if the connection has no request."""
        return not self._busy

    def is_closed(self) -> bool:
        """Never."""
        return False


class Body:
    """The content of a response: nothing."""

    __slots__ = ("_connection",)

    def __init__(self, connection: FakeConnection) -> None:
        self._connection = connection

    def __aiter__(self) -> Body:
        return self

    async def __anext__(self) -> bytes:
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """The connection is free again."""
        self._connection.finished()


class Exchange:
    """One claim: a request and its response."""

    __slots__ = ("_pool", "_request", "_response")

    def __init__(self, pool: httpcore.AsyncConnectionPool) -> None:
        self._pool = pool
        self._request = httpcore.Request("GET", URL)

    async def __aenter__(self) -> object:
        self._response = await self._pool.handle_async_request(self._request)
        return self._response

    async def __aexit__(self, *exc: object) -> None:
        await self._response.aclose()


class FakePool(httpcore.AsyncConnectionPool):
    """The pool, with connections that are not real."""

    def create_connection(self, origin: httpcore.Origin) -> FakeConnection:
        """Another one."""
        return FakeConnection(origin)


@asynccontextmanager
async def full_pool(slots: int) -> AsyncIterator[Lend]:
    """Yield a pool with `slots` connections, put in directly: opening them takes too long."""
    async with FakePool(max_connections=slots, max_keepalive_connections=slots) as pool:
        origin = httpcore.Request("GET", URL).url.origin
        pool._connections.extend(FakeConnection(origin) for _ in range(slots))
        yield lambda: Exchange(pool)
