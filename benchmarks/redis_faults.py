"""Count the commands that fail when Redis servers are restarted, killed or replaced.

    python benchmarks/redis_faults.py [WORD ...]

12 workers increment a counter. They use a pool that knows a primary and its replica, and redis-py
on asyncio, which knows one address and retries as it does by default. Each fault is inflicted
three times; the line of the round in the middle is printed, in Markdown.
"""

from __future__ import annotations

import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import attrs
import trio

from _contestant import HERE, contestant, installed, leave_out
from _faults import QUIET, Account, Fault, Table, during
from _services import RedisServer, missing, redis_servers
from qorb_trio import FixedResolver, Policy, Pool, SetConfig, open_pool
from qorb_trio.redis import RedisConnection, RedisConnector

#: Seconds after which a fault that does not end is given up.
LIMIT = 60.0
POLICY = Policy(
    spares_wanted=4,
    max_slots=8,
    claim_timeout=5,
    set_config=SetConfig(health_interval=1, health_check_timeout=0.5, max_connection_backoff=0.25),
)


@attrs.frozen
class Pair:
    """A primary and its replica."""

    primary: RedisServer
    replica: RedisServer

    async def tell(self, server: RedisServer, *command: str | int) -> None:
        """Send a server one command."""
        connector = RedisConnector()
        conn = await connector.connect(server.backend)
        try:
            await conn.execute(*command)
        finally:
            with trio.move_on_after(1, shield=True):
                await connector.disconnect(conn)


@asynccontextmanager
async def pair() -> AsyncIterator[Pair]:
    """Start a primary and its replica."""
    async with redis_servers(2) as [primary, replica]:
        both = Pair(primary, replica)
        await both.tell(replica, "REPLICAOF", "127.0.0.1", primary.port)
        yield both


@asynccontextmanager
async def a_pool(servers: Pair) -> AsyncIterator[Pool[RedisConnection]]:
    """Open a pool that knows both servers, and wants the primary."""
    resolver = FixedResolver([servers.primary.backend, servers.replica.backend])
    connector = RedisConnector(role="primary")
    async with (
        trio.open_nursery() as nursery,
        open_pool(nursery, resolver, connector, policy=POLICY) as pool,
    ):
        await pool.wait_ready()
        yield pool


async def with_pool(servers: Pair, fault: Fault, workers: int, pause: float) -> Account:
    """Let workers use the pool during a fault."""
    async with a_pool(servers) as pool:

        async def request() -> None:
            with trio.fail_after(1):
                async with pool.claim() as conn:
                    await conn.execute("INCR", "counter")

        return await during(fault, request, workers=workers, pause=pause)


async def with_redis_py(servers: Pair, fault: Fault, workers: int, pause: float) -> Account:
    """Let workers of another process use redis-py during a fault."""
    command = [sys.executable, "-m", "adapters.redis_under_faults", str(servers.primary.port)]
    async with contestant(command, HERE) as other, trio.open_nursery() as nursery:
        account = Account()

        async def listen() -> None:
            answer = await other.ask(workers=workers, pause=pause)
            assert isinstance(answer, list)
            account.answered, account.failed, account.longest_gap = answer[:3]
            account.errors = Counter(answer[3])

        nursery.start_soon(listen)
        await trio.sleep(QUIET)
        await fault()
        await trio.sleep(QUIET)
        await other.say(stop=True)
    return account


Client = Callable[[Pair, Fault, int, float], Awaitable[Account]]
CLIENTS: dict[str, Client] = {
    "qorb_trio": with_pool,
    "redis-py, one address": with_redis_py,
}


def faults(servers: Pair) -> dict[str, Fault]:
    """Return what happens to the servers."""
    primary, replica = servers.primary, servers.replica

    async def kill_and_start() -> None:
        await primary.kill()
        await trio.sleep(1)
        await primary.start()

    async def restart() -> None:
        primary.send(signal.SIGTERM)
        await primary.wait()
        await primary.start()

    async def end_sessions() -> None:
        for _ in range(5):
            await servers.tell(primary, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await trio.sleep(0.3)

    async def limit_connections() -> None:
        await servers.tell(primary, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await servers.tell(primary, "CONFIG", "SET", "maxclients", 5)
        await trio.sleep(5)

    async def fail_over() -> None:
        await primary.kill()
        await trio.sleep(0.3)
        await servers.tell(replica, "REPLICAOF", "NO", "ONE")
        await trio.sleep(3)

    async def switch_over() -> None:
        await servers.tell(replica, "REPLICAOF", "NO", "ONE")
        await servers.tell(primary, "REPLICAOF", "127.0.0.1", replica.port)
        await trio.sleep(3)

    return {
        "primary killed (-9), started after 1 s": kill_and_start,
        "primary restarted (SIGTERM)": restart,
        "all sessions ended, 5 times": end_sessions,
        "connection limit of 5 reached": limit_connections,
        "failover: primary killed, replica promoted after 0.3 s": fail_over,
        "switchover: replica promoted, primary demoted": switch_over,
    }


async def idle_timeout(servers: Pair) -> Fault:
    """Have the server close what is idle for a second."""
    await servers.tell(servers.primary, "CONFIG", "SET", "timeout", 1)

    async def wait() -> None:
        await trio.sleep(8)

    return wait


async def main() -> None:
    """Run each fault with each client, each time with fresh servers."""
    if absent := missing("redis-server"):
        leave_out("Redis", absent)
        return
    if not installed("redis"):
        del CLIENTS["redis-py, one address"]
    table = Table()
    async with pair() as servers:
        titles = list(faults(servers))
    for title in filter(table.wants, titles):
        for name, client in CLIENTS.items():
            await table.add(title, name, partial(once, title, client))
    if table.wants(title := "idle connections closed after 1 s"):
        for name, client in CLIENTS.items():
            await table.add(title, name, partial(once_idle, client))


async def once(title: str, client: Client) -> Account:
    """Run one fault with one client and fresh servers."""
    with trio.fail_after(LIMIT):
        async with pair() as servers:
            account = await client(servers, faults(servers)[title], 12, 0.005)
    return account


async def once_idle(client: Client) -> Account:
    """Let a fresh server close the idle connections of one client."""
    async with pair() as servers:
        return await client(servers, await idle_timeout(servers), 6, 2.2)


if __name__ == "__main__":
    trio.run(main)
