"""The pool of SQLAlchemy's asyncio extension, as its engine uses it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import sqlalchemy
from sqlalchemy.pool import AsyncAdaptedQueuePool
from sqlalchemy.util import greenlet_spawn

from _work import Lend

VERSION = f"SQLAlchemy {sqlalchemy.__version__}"


class FakeConnection:
    """The part of a DBAPI connection that the pool uses."""

    def rollback(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class Checkout:
    """One claim: each half runs in a greenlet, as in ``AsyncConnection``."""

    __slots__ = ("_connection", "_pool")

    def __init__(self, pool: AsyncAdaptedQueuePool) -> None:
        self._pool = pool

    async def __aenter__(self) -> object:
        self._connection = await greenlet_spawn(self._pool.connect)
        return self._connection

    async def __aexit__(self, *exc: object) -> None:
        await greenlet_spawn(self._connection.close)  # noqa: ASYNC102 - this is asyncio


@asynccontextmanager
async def full_pool(slots: int) -> AsyncIterator[Lend]:
    """Yield a pool with `slots` open connections: each is checked out once, and kept."""
    pool = AsyncAdaptedQueuePool(FakeConnection, pool_size=slots, max_overflow=0, timeout=3600)
    async with AsyncExitStack() as stack:
        for _ in range(slots):
            await stack.enter_async_context(Checkout(pool))
    yield lambda: Checkout(pool)
    await greenlet_spawn(pool.dispose)
