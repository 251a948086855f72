"""psycopg_pool on asyncio under load: ``python -m adapters.psycopg_load CONNINFO``.

One order a line comes in, the work and the number of requests; the figures go out.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from time import perf_counter, process_time

import attrs
import psycopg_pool
from psycopg import AsyncConnection

from _load import CONNECTIONS, WORKERS, Figures, figures

VERSION = f"psycopg_pool {psycopg_pool.__version__} on asyncio"


async def query(conn: AsyncConnection, worker: int, turn: int) -> None:
    """Ask for one row."""
    cursor = await conn.execute("SELECT %s::int, %s::int", [worker, turn])
    assert await cursor.fetchone() == (worker, turn)


async def transaction(conn: AsyncConnection, worker: int, turn: int) -> None:
    """Do the same in a transaction."""
    async with conn.transaction():
        await query(conn, worker, turn)


#: The work that is compared; `benchmarks/postgres.py` does the same.
WORKS: dict[str, Callable[[AsyncConnection, int, int], Awaitable[None]]] = {
    "query": query,
    "transaction": transaction,
}


async def load(pool: psycopg_pool.AsyncConnectionPool, work: str, requests: int) -> Figures:
    """Let the workers send some requests."""
    latencies: list[float] = []
    request = WORKS[work]

    async def worker(number: int) -> None:
        for turn in range(requests // WORKERS):
            sent = perf_counter()
            async with pool.connection() as conn:
                await request(conn, number, turn)
            latencies.append(perf_counter() - sent)

    begin, cpu = perf_counter(), process_time()
    async with asyncio.TaskGroup() as group:
        for number in range(WORKERS):
            group.create_task(worker(number))
    return figures(begin, cpu, latencies)


async def serve(conninfo: str) -> None:
    """Carry out orders until there are no more."""
    print(json.dumps(VERSION), flush=True)
    async with psycopg_pool.AsyncConnectionPool(
        conninfo,
        min_size=CONNECTIONS,
        max_size=CONNECTIONS,
        timeout=3600,
        kwargs={"autocommit": True},
    ) as pool:
        await pool.wait()
        await load(pool, "query", 10 * WORKERS)  # to prepare the statements
        while line := sys.stdin.readline():
            print(json.dumps(attrs.asdict(await load(pool, **json.loads(line)))), flush=True)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
