"""asyncpg's own pool, for PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace

import asyncpg

from _work import Lend

VERSION = f"asyncpg {asyncpg.__version__}"


class FakeProtocol:
    """The part of a connection's protocol that the pool uses."""

    queries_count = 0

    def _is_cancelling(self) -> bool:
        return False

    def is_connected(self) -> bool:
        """Always."""
        return True

    def get_settings(self) -> object:
        """Return the server's version."""
        return SimpleNamespace(server_version="17.0")


class FakeConnection(asyncpg.Connection):
    """A connection that has nothing to reset and nothing to close."""

    def __init__(self) -> None:
        configuration = asyncpg.connect_utils._ClientConfiguration(
            command_timeout=None,
            statement_cache_size=0,
            max_cached_statement_lifetime=0,
            max_cacheable_statement_size=0,
        )
        super().__init__(
            FakeProtocol(), None, asyncio.get_running_loop(), None, configuration, None
        )

    async def reset(self, *, timeout: float | None = None) -> None:
        """Reset as an unused connection does."""
        self._log_listeners.clear()

    async def close(self, *, timeout: float | None = None) -> None:
        """Tell the pool."""
        self.terminate()

    def terminate(self) -> None:
        """Tell the pool."""
        self._cleanup()


async def connect(*args: object, **kwargs: object) -> FakeConnection:
    """Another one."""
    return FakeConnection()


@asynccontextmanager
async def full_pool(slots: int) -> AsyncIterator[Lend]:
    """Yield a pool whose minimum and maximum size are both `slots`."""
    async with asyncpg.create_pool(
        connect=connect, connection_class=FakeConnection, min_size=slots, max_size=slots
    ) as pool:
        yield pool.acquire
