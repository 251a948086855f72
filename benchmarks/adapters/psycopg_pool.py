"""psycopg_pool: the pool of Psycopg 3, for PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Self

import psycopg_pool
from psycopg.pq import TransactionStatus

from _work import Lend

VERSION = f"psycopg_pool {psycopg_pool.__version__}"


class FakeConnection:
    """The part of a connection that the pool uses: an idle transaction, and commits."""

    def __init__(self) -> None:
        self.pgconn = SimpleNamespace(transaction_status=TransactionStatus.IDLE)

    @classmethod
    async def connect(cls, conninfo: str, **kwargs: object) -> FakeConnection:
        """Another one."""
        return cls()

    async def close(self) -> None:
        """Nothing."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        pass


@asynccontextmanager
async def full_pool(slots: int) -> AsyncIterator[Lend]:
    """Yield a pool whose minimum and maximum size are both `slots`."""
    async with psycopg_pool.AsyncConnectionPool(
        connection_class=FakeConnection, min_size=slots, max_size=slots, open=False, timeout=3600
    ) as pool:
        await pool.wait()
        yield pool.connection
