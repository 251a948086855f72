"""redis-py's client for asyncio under load: ``python -m adapters.redis_load PORT``.

One order a line comes in, the number of requests, and their rate if they are to come at one; the
figures go out.
"""

from __future__ import annotations

import asyncio
import json
import sys
from time import perf_counter, process_time

import attrs
import redis
from redis.asyncio import BlockingConnectionPool, Redis

from _load import CONNECTIONS, WORKERS, Figures, arrivals, figures

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


async def offered(client: Redis, requests: int, rate: float) -> Figures:
    """Send requests when they are due. A latency counts from when a request is due."""
    latencies: list[float] = []

    async def one(number: int, due: float) -> None:
        assert await client.set(f"key{number % WORKERS}", number)
        latencies.append(perf_counter() - due)

    begin, cpu = perf_counter(), process_time()
    async with asyncio.TaskGroup() as group:
        for number, after in enumerate(arrivals(requests, rate)):
            due = begin + after
            if (left := due - perf_counter()) > 0:
                await asyncio.sleep(left)
            group.create_task(one(number, due))
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
            order = json.loads(line)
            taken = await (offered if "rate" in order else load)(client, **order)
            print(json.dumps(attrs.asdict(taken)), flush=True)


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
