"""What does a query to PostgreSQL cost over this pool, and over psycopg_pool?

32 workers send the same statements, by the same driver, to one server on this machine, and share
8 connections in autocommit mode. Both pools clean a connection only if there is something to
clean. psycopg_pool runs on asyncio, in a process of its own. The rounds alternate.
"""

from __future__ import annotations

import sys
from typing import Any

import trio

from _contestant import HERE, Contestant, contestant, installed, leave_out
from _load import CONNECTIONS, Figures, compare, trio_load
from _postgres import PostgresServer, binaries, postgres_server
from _runner import Report, run, times
from qorb_trio import FixedResolver, Policy, Pool, open_pool
from qorb_trio.postgres import PostgresConnection, PostgresConnector

OURS = "qorb_trio"
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
    if binaries() is None or not installed("psycopg_pool"):
        leave_out("PostgreSQL", "the server or the pool to compare with is not installed")
        return
    with postgres_server() as server:
        await against(server, report)


async def against(server: PostgresServer, report: Report) -> None:
    """Let both do each work in turns."""
    policy = Policy(spares_wanted=CONNECTIONS, max_slots=CONNECTIONS)
    resolver = FixedResolver([server.address])
    connector = PostgresConnector("user=qorb dbname=postgres")
    command = [sys.executable, "-m", "adapters.psycopg_load", server.conninfo]
    async with (
        trio.open_nursery() as nursery,
        open_pool(nursery, resolver, connector, policy=policy) as pool,
        contestant(command, HERE) as other,
    ):
        await pool.wait_ready(CONNECTIONS)
        for work, size in (("query", 16_000), ("transaction", 8_000)):
            requests = report.size(size, 64)
            await compare_work(report, pool, other, work, requests)


async def compare_work(
    report: Report, pool: Pool[Connection], other: Contestant, work: str, requests: int
) -> None:
    """Compare one work."""
    do = WORKS[work]

    async def request(worker: int, turn: int) -> None:
        async with pool.claim() as conn:
            await do(conn, worker, turn)

    async def theirs() -> Figures:
        answer = await other.ask(work=work, requests=requests)
        assert isinstance(answer, dict)
        return Figures(**answer)

    contenders = {other.name: theirs, OURS: lambda: trio_load(request, requests)}
    await compare(report, work, contenders, {OURS: GOAL})


if __name__ == "__main__":
    run(__doc__, measure)
