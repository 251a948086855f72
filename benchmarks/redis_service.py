"""What does a Redis command cost over this pool, and over redis-py's own?

32 workers send the same commands to one Redis on this machine, and share 8 connections. redis-py
runs on asyncio with its blocking pool and hiredis, in a process of its own. The rounds alternate.
Then the same commands come at a rate that both can serve, each in a task of its own. The latency
of each counts from the instant at which it was due. Workers that wait for their answers cannot
show what a pool does to those that it lets wait for long, because these send less.

Where redis-py is not installed, this pool runs alone.
"""

from __future__ import annotations

from functools import partial

import trio

from _contestant import leave_out, peer
from _load import (
    CONNECTIONS,
    OURS,
    SHARE,
    compare,
    compare_offered,
    trio_load,
    trio_offered,
    with_peer,
)
from _runner import Report, run, times
from _services import RedisServer, missing, redis_servers
from qorb_trio import FixedResolver, Policy, open_pool
from qorb_trio.redis import RedisConnector


async def measure(report: Report) -> None:
    """Run both against one server."""
    if absent := missing("redis-server"):
        leave_out("Redis", absent)
        return
    async with redis_servers() as [server]:
        await against(server, report)


async def against(server: RedisServer, report: Report) -> None:
    """Let both send commands in turns."""
    policy = Policy(spares_wanted=CONNECTIONS, max_slots=CONNECTIONS)
    resolver = FixedResolver([server.backend])
    async with (
        trio.open_nursery() as nursery,
        open_pool(nursery, resolver, RedisConnector(), policy=policy) as pool,
        peer("redis", "adapters.redis_load", str(server.port)) as other,
    ):
        await pool.wait_ready(CONNECTIONS)

        async def request(worker: int, turn: int) -> None:
            async with pool.claim() as conn:
                assert await conn.execute("SET", f"key{worker}", turn) == b"OK"

        requests = report.size(20_000, 64)
        ours = partial(trio_load, request, requests)
        contenders = with_peer(other, ours, requests=requests)
        goals = {OURS: times(0.5)}
        reached = await compare(report, "SET", contenders, goals, judges_p99=False)
        rate = float(f"{SHARE * reached:.2g}")
        ours = partial(trio_offered, request, requests, rate)
        contenders = with_peer(other, ours, requests=requests, rate=rate)
        await compare_offered(report, "SET", rate, contenders)


if __name__ == "__main__":
    run(__doc__, measure)
