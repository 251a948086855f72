"""Thousands of claims that are cancelled at random instants, over a real server."""

from __future__ import annotations

import os
import random
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

import pytest
import trio

from qorb_trio import Pool
from qorb_trio.postgres import PostgresConnection
from tests.postgres.kit import (
    NEEDS_SERVERS,
    PostgresServer,
    new_application,
    postgres_pool,
    process,
    until,
    value,
)

pytestmark = NEEDS_SERVERS

Connection = PostgresConnection[Any]

CANCELLATIONS = int(os.environ.get("QORB_STORM", "2200"))
REQUESTS = 1000
SLOTS = 6
WORKERS = 24


async def query(conn: Connection, number: int) -> None:
    """Two statements that are prepared at their sixth execution."""
    for factor in (1, 2):
        cursor = await conn.execute("SELECT %s::int * %s::int", [number, factor])
        assert await cursor.fetchone() == (number * factor,)


async def slow_query(conn: Connection, number: int) -> None:
    """A statement that would take a minute."""
    await conn.execute("SELECT pg_sleep(60), %s::int", [number])


async def transaction(conn: Connection, number: int) -> None:
    """A transaction with a savepoint that fails."""
    async with conn.transaction():
        await conn.execute("INSERT INTO storm VALUES (%s)", [number])
        async with conn.transaction(force_rollback=True):
            await query(conn, number)
        assert await value(conn, f"SELECT n FROM storm WHERE n = {number}") == number
        await conn.execute("DELETE FROM storm WHERE n = %s", [number])


async def pipeline(conn: Connection, number: int) -> None:
    """Several statements at once."""
    async with conn.pipeline():
        cursors = [await conn.execute("SELECT %s::int + %s::int", [number, n]) for n in range(5)]
    assert [await cursor.fetchone() for cursor in cursors] == [(number + n,) for n in range(5)]


async def executemany(conn: Connection, number: int) -> None:
    """Many statements by one call."""
    cursor = conn.cursor()
    numbers = [(number + n,) for n in range(20)]
    await cursor.executemany("SELECT %s::int", numbers, returning=True)
    assert await cursor.fetchone() == (number,)


async def copy(conn: Connection, number: int) -> None:
    """A COPY in each direction."""
    async with conn.transaction(force_rollback=True):
        async with conn.cursor() as cursor, cursor.copy("COPY storm FROM STDIN") as sink:
            await sink.write(f"{number}\n" * 2000)
        query = f"COPY (SELECT * FROM storm WHERE n = {number}) TO STDOUT"
        async with conn.cursor() as cursor, cursor.copy(query.encode()) as source:
            assert b"".join([bytes(block) async for block in source]) == b"%d\n" % number * 2000


async def stream(conn: Connection, number: int) -> None:
    """Rows one by one."""
    rows: Any = conn.cursor().stream("SELECT %s::int + generate_series(0, 300)", [number])
    async with aclosing(rows):
        assert [row async for row in rows] == [(number + n,) for n in range(301)]


async def server_cursor(conn: Connection, number: int) -> None:
    """Rows in portions."""
    async with conn.transaction(), conn.cursor("portions") as cursor:
        await cursor.execute("SELECT %s::int + generate_series(0, 30)", [number])
        assert await cursor.fetchmany(2) == [(number,), (number + 1,)]


WORKS: list[Callable[[Connection, int], Awaitable[None]]] = [
    query,
    query,
    slow_query,
    transaction,
    pipeline,
    executemany,
    copy,
    stream,
    server_cursor,
]


async def cancelled_claims(pool: Pool[Connection], source: random.Random) -> int:
    """Cancel claims at random instants, and return how many of them held a connection."""
    left = CANCELLATIONS
    holding = 0

    async def worker() -> None:
        nonlocal left, holding
        while left > 0:
            work, number = source.choice(WORKS), source.randrange(10**6)
            with trio.CancelScope() as scope:
                if source.random() < 0.2:  # perhaps before there is a connection
                    scope.deadline = trio.current_time() + delay()
                async with pool.claim() as conn:
                    scope.deadline = min(scope.deadline, trio.current_time() + delay())
                    try:
                        await work(conn, number)
                    except trio.Cancelled:
                        holding += 1
                        raise
            left -= scope.cancelled_caught

    def delay() -> float:
        return source.choice([0.0, source.uniform(0, 0.003), source.uniform(0, 0.02)])

    async with trio.open_nursery() as nursery:
        for _ in range(WORKERS):
            nursery.start_soon(worker)
    return holding


async def numbered_requests(pool: Pool[Connection], pids: set[int]) -> None:
    """Ask for numbers, and check that each answer is the one that was asked for."""

    async def worker(first: int) -> None:
        for number in range(first, REQUESTS, WORKERS):
            async with pool.claim() as conn:
                pids.add(await process(conn))
                await query(conn, number)
                async with conn.transaction():
                    await query(conn, number)

    async with trio.open_nursery() as nursery:
        for first in range(WORKERS):
            nursery.start_soon(worker, first)


async def test_storm(server: PostgresServer, caplog: pytest.LogCaptureFixture) -> None:
    """After it every answer is right, nothing runs on the server, and no session was lost."""
    source = random.Random(os.environ.get("QORB_TEST_SEED", "0"))
    application = new_application()
    server.sql("CREATE TABLE IF NOT EXISTS storm (n int)")
    before: set[int] = set()
    after: set[int] = set()
    with trio.fail_after(110):
        async with postgres_pool(server, slots=SLOTS, application=application) as pool:
            await numbered_requests(pool, before)
            assert await cancelled_claims(pool, source) > CANCELLATIONS / 2
            await numbered_requests(pool, after)
            await until(lambda: not server.busy(application))
            assert server.clients(application) == SLOTS == pool.stats().slots
            # The same processes serve as before: no cancellation has cost a connection.
            assert after == before
            assert server.sql("SELECT count(*) FROM storm") == [(0,)]
    await until(lambda: server.clients(application) == 0)
    assert [record.getMessage() for record in caplog.records] == []
