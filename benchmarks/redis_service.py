"""What does a Redis command cost over this pool, and over redis-py's own?

32 workers send the same commands to one Redis on this machine, and share 8 connections. redis-py
runs on asyncio with its blocking pool and hiredis, in a process of its own. The rounds alternate.
"""

from __future__ import annotations

import sys

import trio

from _contestant import HERE, Contestant, contestant, installed, leave_out
from _load import CONNECTIONS, Figures, compare, trio_load
from _runner import Report, run, times
from _services import missing, redis_servers
from qorb_trio import FixedResolver, Policy, open_pool
from qorb_trio.redis import RedisConnector

OURS = "qorb_trio"


async def measure(report: Report) -> None:
    """Run both against one server."""
    absent = missing("redis-server")
    if absent or not installed("redis"):
        leave_out("Redis", absent or "no client to compare with")
        return
    policy = Policy(spares_wanted=CONNECTIONS, max_slots=CONNECTIONS)
    async with redis_servers() as [server]:
        command = [sys.executable, "-m", "adapters.redis_load", str(server.port)]
        async with (
            trio.open_nursery() as nursery,
            open_pool(
                nursery, FixedResolver([server.backend]), RedisConnector(), policy=policy
            ) as pool,
            contestant(command, HERE) as other,
        ):
            await pool.wait_ready(CONNECTIONS)

            async def request(worker: int, turn: int) -> None:
                async with pool.claim() as conn:
                    assert await conn.execute("SET", f"key{worker}", turn) == b"OK"

            requests = report.size(20_000, 64)
            await compare(
                report,
                "SET",
                {
                    other.name: lambda: theirs(other, requests),
                    OURS: lambda: trio_load(request, requests),
                },
                {OURS: times(0.5)},
            )


async def theirs(other: Contestant, requests: int) -> Figures:
    """Have the other process send some requests."""
    answer = await other.ask(requests=requests)
    assert isinstance(answer, dict)
    return Figures(**answer)


if __name__ == "__main__":
    run(__doc__, measure)
