"""Sweeps of the connector for PostgreSQL, against a real server."""

from __future__ import annotations

import atexit
import functools
from contextlib import suppress
from typing import Any

import psycopg
import pytest
import trio

from qorb_trio import Backend, FixedResolver, Policy, open_pool
from qorb_trio.postgres import PostgresConnection, PostgresConnector
from qorb_trio.postgres._transaction import PostgresTransaction

from ..harness import Sweep
from ..postgres.kit import USER, PostgresServer, binaries, value
from .registry import sweeps


@functools.cache
def server() -> PostgresServer:
    """The server of all runs: to start one takes longer than they do."""
    if binaries() is None:
        pytest.skip("postgresql is not installed")
    started = PostgresServer()
    atexit.register(started.remove)
    started.start()
    return started


async def exchange(conn: PostgresConnection[Any], number: int) -> None:
    """Run exchanges that must get their own answers."""
    assert await value(conn, f"SELECT {number}") == number
    async with conn.transaction():
        assert await value(conn, f"SELECT {number + 1}") == number + 1
    # Slow answers, one after another: the end of the pipeline must wait, in several steps.
    slow = f"SELECT {number + 2} FROM pg_sleep(0.002)".encode()
    async with conn.pipeline():
        cursors = [await conn.execute(slow) for _ in range(3)]
    assert [await cursor.fetchone() for cursor in cursors] == [(number + 2,)] * 3


async def begin_and_leave(conn: PostgresConnection[Any]) -> None:
    """Leave a command that was cancelled."""
    with trio.CancelScope() as scope:
        scope.cancel()
        await conn.execute("SELECT pg_sleep(60)")


#: What waits by itself in the sweep of one connection.
WAITS = (
    PostgresConnector.connect,
    PostgresConnector.is_valid,
    PostgresConnector.on_recycle,
    PostgresConnector.disconnect,
    PostgresConnector.is_primary,
    PostgresConnection.wait,
    PostgresConnection.pipeline,
    PostgresConnection.settle,
    PostgresConnection.cancel_safe,
)


@sweeps(
    *WAITS,
    PostgresConnection.transaction,
    by=(*WAITS, PostgresTransaction._enter, PostgresTransaction._leave),
    name="one connection",
    real=True,
    seeds=1,
)
async def one_connection(one: Sweep) -> None:
    """A connection is opened, used, cleaned, checked and closed; it leaks no answer."""
    backend = Backend(server().address)
    connector: PostgresConnector[Any] = PostgresConnector(USER, target_session_attrs="primary")
    opened: list[PostgresConnection[Any]] = []

    async def target() -> None:
        conn = await connector.connect(backend)
        opened.append(conn)
        await exchange(conn, 1)
        await begin_and_leave(conn)
        await conn.settle()
        await conn.cancel_safe()
        await begin_and_leave(conn)
        await connector.on_recycle(conn)
        assert await connector.is_valid(conn)
        assert await connector.is_primary(backend)
        await begin_and_leave(conn)
        await connector.disconnect(conn)

    await one.target(target)
    for conn in opened:
        if not conn.closed:
            await connector.on_recycle(conn)
            assert not connector.needs_recycle(conn)
            await exchange(conn, 7)
            await connector.disconnect(conn)


@sweeps(
    PostgresConnection.connect,
    PostgresConnection.tpc_begin,
    PostgresConnection.close,
    name="without a pool",
    real=True,
    seeds=1,
)
async def without_a_pool(one: Sweep) -> None:
    """A two-phase transaction is begun and rolled back; the connection is always closed."""
    opened: list[PostgresConnection[Any]] = []

    async def target() -> None:
        conn = await PostgresConnection.connect(server().conninfo)
        opened.append(conn)
        await conn.tpc_begin("sweep")
        await conn.execute("SELECT 1")
        await conn.tpc_rollback()
        await conn.close()

    await one.target(target)
    for conn in opened:
        await conn.close()
        assert conn.closed


@sweeps(PostgresConnection.wait, name="a pool", real=True, seeds=1)
async def a_pool(one: Sweep) -> None:
    """A pool is opened, used and left; the claimant is struck at each of its steps."""
    policy = Policy(max_slots=1, spares_wanted=1)
    resolver = FixedResolver([server().address])
    async with (
        trio.open_nursery() as nursery,
        open_pool(nursery, resolver, PostgresConnector(USER), policy=policy) as pool,
    ):

        async def target() -> None:
            for number in range(2):
                async with pool.claim() as conn:
                    await exchange(conn, number)

        await pool.wait_ready()
        with suppress(psycopg.Error):
            await one.target(target)
        for number in range(2):
            async with pool.claim() as conn:
                await exchange(conn, number)
