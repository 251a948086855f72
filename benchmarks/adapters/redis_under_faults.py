"""redis-py's client for asyncio during a fault: ``python -m adapters.redis_under_faults PORT``.

A line says how many workers there are, and seconds to pause between requests; the next line
ends it, and the account goes out.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys

from redis.asyncio import BlockingConnectionPool, Redis

from _faults import Account


async def worker(client: Redis, account: Account, pause: float) -> None:
    """Send requests until cancelled."""
    while True:
        try:
            await client.incr("counter")
        except Exception as exc:  # noqa: BLE001 - whatever a client raises is a failed request
            account.note(exc)
        else:
            account.note(None)
        await asyncio.sleep(pause)


async def serve(port: int) -> None:
    """Carry out one order."""
    print(json.dumps("redis-py"), flush=True)
    order = json.loads(sys.stdin.readline())
    account = Account()
    pool = BlockingConnectionPool(
        host="127.0.0.1", port=port, max_connections=8, timeout=5, socket_timeout=1
    )
    client = Redis(connection_pool=pool)
    workers = [
        asyncio.create_task(worker(client, account, order["pause"]))
        for _ in range(order["workers"])
    ]
    await asyncio.to_thread(sys.stdin.readline)
    account.look()
    figures = [account.answered, account.failed, account.longest_gap, account.errors]
    print(json.dumps(figures), flush=True)
    # redis-py turns a cancellation into an error of its own now and then, so that workers go on.
    os._exit(len(workers) != order["workers"])


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
