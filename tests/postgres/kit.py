"""Helpers for the tests of PostgreSQL."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import pytest
import trio

import qorb_trio
from _postgres import PostgresServer, binaries, postgres_server
from qorb_trio.postgres import PostgresConnection, PostgresConnector

#: For the tests of a module that need servers.
NEEDS_SERVERS = [
    pytest.mark.real,
    pytest.mark.skipif(binaries() is None, reason="postgresql is not installed"),
]

_numbers = count(1)

__all__ = [
    "NEEDS_SERVERS", "USER", "PostgresServer", "binaries", "new_application", "postgres_pool",
    "postgres_server", "process", "until", "value",
]  # fmt: skip

#: An application's name for each pool, so that its sessions can be counted.
USER = "user=qorb dbname=postgres"


def new_application() -> str:
    """Return a name that no other pool of this run has."""
    return f"test-{next(_numbers)}"


@asynccontextmanager
async def postgres_pool(
    *servers: PostgresServer,
    application: str | None = None,
    slots: int = 2,
    spares: int | None = None,
    set_config: qorb_trio.SetConfig | None = None,
    connector: PostgresConnector[Any] | None = None,
    **kwargs: Any,
) -> AsyncIterator[qorb_trio.Pool[PostgresConnection[Any]]]:
    """A pool over servers; `kwargs` are the connector's."""
    name = application or new_application()
    resolver = qorb_trio.FixedResolver([server.address for server in servers])
    if connector is None:
        connector = PostgresConnector(USER, application_name=name, **kwargs)
    policy = qorb_trio.Policy(
        max_slots=slots,
        spares_wanted=slots if spares is None else spares,
        claim_timeout=10,
        rebalance_interval=math.inf,
        set_config=set_config or qorb_trio.SetConfig(),
    )
    async with (
        trio.open_nursery() as nursery,
        qorb_trio.open_pool(nursery, resolver, connector, policy=policy, name=name) as pool,
    ):
        yield pool


async def value(conn: PostgresConnection[Any], query: str) -> Any:
    """The only value of a query's only row."""
    cursor = await conn.execute(query.encode())
    (row,) = await cursor.fetchall()
    (only,) = row
    return only


async def process(conn: PostgresConnection[Any]) -> int:
    """The server's process for a connection."""
    pid: int = conn.info.backend_pid
    return pid


async def until(condition: Any, *, seconds: float = 5.0) -> None:
    """Wait until something is true."""
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - it is in another process
            await trio.sleep(0.01)
