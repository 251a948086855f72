"""What does a query to PostgreSQL cost over this pool, and over psycopg_pool?

32 workers send the same statements, by the same driver, to one server on this machine, and share
8 connections in autocommit mode. Both pools clean a connection only if there is something to
clean. psycopg_pool runs on asyncio, in a process of its own. The rounds alternate. Where
psycopg_pool is not installed, this pool runs alone.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import trio

from _contestant import Contestant, leave_out, peer
from _load import CONNECTIONS, OURS, compare, trio_load, with_peer
from _postgres import PostgresServer, binaries, postgres_server
from _runner import Report, run, times
from qorb_trio import FixedResolver, Policy, Pool, open_pool
from qorb_trio.postgres import PostgresConnection, PostgresConnector

Connection = PostgresConnection[Any]

#: The target of the comparison: at least 1.4 times the rate.
GOAL = times(round(1 / 1.4, 2))


async def query(conn: Connection, worker: int, turn: int) -> None:
    """Ask for one row."""
    cursor = await conn.execute("SELECT %s::int, %s::int", [worker, turn])
    assert await cursor.fetchone() == (worker, turn)


async def transaction(conn: Connection, worker: int, turn: int) -> None:
    """Do the same in a transaction."""
    async with conn.transaction():
        await query(conn, worker, turn)


#: The work that is compared; `adapters/psycopg_load.py` does the same.
WORKS = {"query": query, "transaction": transaction}


async def measure(report: Report) -> None:
    """Run both against one server."""
    if binaries() is None:
        leave_out("PostgreSQL", "not installed")
        return
    with postgres_server() as server:
        await against(server, report)


async def against(server: PostgresServer, report: Report) -> None:
    """Let both do each work in turns."""
    policy = Policy(spares_wanted=CONNECTIONS, max_slots=CONNECTIONS)
    resolver = FixedResolver([server.address])
    connector = PostgresConnector("user=qorb dbname=postgres")
    async with (
        trio.open_nursery() as nursery,
        open_pool(nursery, resolver, connector, policy=policy) as pool,
        peer("psycopg_pool", "adapters.psycopg_load", server.conninfo) as other,
    ):
        await pool.wait_ready(CONNECTIONS)
        for work, size in (("query", 16_000), ("transaction", 8_000)):
            requests = report.size(size, 64)
            await compare_work(report, pool, other, work, requests)


async def compare_work(
    report: Report, pool: Pool[Connection], other: Contestant | None, work: str, requests: int
) -> None:
    """Compare one work."""
    do = WORKS[work]

    async def request(worker: int, turn: int) -> None:
        async with pool.claim() as conn:
            await do(conn, worker, turn)

    ours = partial(trio_load, request, requests)
    contenders = with_peer(other, ours, work=work, requests=requests)
    await compare(report, work, contenders, {OURS: GOAL})


if __name__ == "__main__":
    run(__doc__, measure)
