"""asyncio-connection-pool: a pool of anything, without locks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version

from asyncio_connection_pool import ConnectionPool, ConnectionStrategy

from _work import Lend

VERSION = f"asyncio-connection-pool {version('asyncio-connection-pool')}"


class FakeStrategy(ConnectionStrategy[object]):
    """Connections are mere objects."""

    async def make_connection(self) -> object:
        """Another one."""
        return object()

    def connection_is_closed(self, conn: object) -> bool:
        """Never."""
        return False

    async def close_connection(self, conn: object) -> None:
        """Nothing."""


@asynccontextmanager
async def full_pool(slots: int) -> AsyncIterator[Lend]:
    """Yield a pool with `slots` open connections: each is taken once, and kept."""
    pool = ConnectionPool(strategy=FakeStrategy(), max_size=slots)
    async with AsyncExitStack() as stack:
        for _ in range(slots):
            await stack.enter_async_context(pool.get_connection())
    yield pool.get_connection
