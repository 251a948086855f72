"""redis-py's blocking pool for asyncio."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import redis
from redis.asyncio.connection import BlockingConnectionPool, Connection

from _work import Lend

VERSION = f"redis-py {redis.__version__}"


class FakeConnection(Connection):
    """A connection that is always there, with nothing to read."""

    async def connect(self) -> None:
        """Nothing."""

    async def disconnect(self, *args: object, **kwargs: object) -> None:
        """Nothing."""

    async def can_read(self, *args: object, **kwargs: object) -> bool:
        """Nothing to read."""
        return False

    #: The same under the name of older versions.
    can_read_destructive = can_read

    def __del__(self, *args: object) -> None:
        pass


class Checkout:
    """One claim, as the client makes it for each command."""

    __slots__ = ("_connection", "_pool")

    def __init__(self, pool: BlockingConnectionPool) -> None:
        self._pool = pool

    async def __aenter__(self) -> object:
        self._connection = await self._pool.get_connection()
        return self._connection

    async def __aexit__(self, *exc: object) -> None:
        await self._pool.release(self._connection)  # noqa: ASYNC102 - this is asyncio


@asynccontextmanager
async def full_pool(slots: int) -> AsyncIterator[Lend]:
    """Yield a pool with `slots` open connections: each is taken once, and kept."""
    pool = BlockingConnectionPool(slots, timeout=None, connection_class=FakeConnection)
    async with AsyncExitStack() as stack:
        for _ in range(slots):
            await stack.enter_async_context(Checkout(pool))
    yield lambda: Checkout(pool)
    await pool.disconnect()
