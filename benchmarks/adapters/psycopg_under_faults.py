"""psycopg_pool on asyncio during a fault: ``python -m adapters.psycopg_under_faults CONNINFO``.

A line says how many workers there are, and seconds to pause between requests; the next line
ends it, and the account goes out.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys

import psycopg_pool

from _faults import Account

#: Seconds that a request may take.
LIMIT = 2.0


async def request(pool: psycopg_pool.AsyncConnectionPool) -> None:
    """Count up in a transaction of its own."""
    async with asyncio.timeout(LIMIT), pool.connection() as conn:
        await conn.execute("UPDATE counter SET n = n + 1 WHERE id = pg_backend_pid() % 64")


async def worker(pool: psycopg_pool.AsyncConnectionPool, account: Account, pause: float) -> None:
    """Send requests until cancelled."""
    while True:
        try:
            await request(pool)
        except Exception as exc:  # noqa: BLE001 - whatever a client raises is a failed request
            account.note(exc)
        else:
            account.note(None)
        await asyncio.sleep(pause)


async def serve(conninfo: str) -> None:
    """Carry out one order."""
    logging.getLogger("psycopg").setLevel(logging.ERROR)
    print(json.dumps("psycopg_pool"), flush=True)
    order = json.loads(sys.stdin.readline())
    account = Account()
    async with psycopg_pool.AsyncConnectionPool(
        conninfo, min_size=8, max_size=8, kwargs={"autocommit": True}
    ) as pool:
        workers = [
            asyncio.create_task(worker(pool, account, order["pause"]))
            for _ in range(order["workers"])
        ]
        await asyncio.to_thread(sys.stdin.readline)
        account.look()
        for task in workers:
            task.cancel()
        await asyncio.wait(workers, timeout=10)
    print(json.dumps([account.answered, account.failed, account.longest_gap, account.errors]))


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
