"""redis-py's client for asyncio under load: ``python -m adapters.redis_load PORT``.

One order a line comes in, the number of requests; the figures go out.
"""

from __future__ import annotations

import asyncio
import json
import sys
from time import perf_counter, process_time

import attrs
import redis
from redis.asyncio import BlockingConnectionPool, Redis

from _load import CONNECTIONS, WORKERS, Figures, figures

VERSION = f"redis-py {redis.__version__} on asyncio"


async def load(client: Redis, requests: int) -> Figures:
    """Let the workers send some requests."""
    latencies: list[float] = []

    async def worker(number: int) -> None:
        for turn in range(requests // WORKERS):
            sent = perf_counter()
            assert await client.set(f"key{number}", turn)
            latencies.append(perf_counter() - sent)

    begin, cpu = perf_counter(), process_time()
    async with asyncio.TaskGroup() as group:
        for number in range(WORKERS):
            group.create_task(worker(number))
    return figures(begin, cpu, latencies)


async def serve(port: int) -> None:
    """Carry out orders until there are no more."""
    print(json.dumps(VERSION), flush=True)
    pool = BlockingConnectionPool(
        host="127.0.0.1", port=port, max_connections=CONNECTIONS, timeout=None
    )
    async with Redis(connection_pool=pool) as client:
        await load(client, 10 * WORKERS)  # to connect
        while line := sys.stdin.readline():
            taken = await load(client, json.loads(line)["requests"])
            print(json.dumps(attrs.asdict(taken)), flush=True)


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
