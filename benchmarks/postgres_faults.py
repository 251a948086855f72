"""Count the statements that fail when PostgreSQL servers are killed, stopped or replaced.

    python benchmarks/postgres_faults.py [WORD ...]

12 workers update rows over 8 connections, with a pool of qorb_trio and with psycopg_pool on
asyncio. Meanwhile a primary with a streaming standby is killed, restarted, frozen, and replaced,
its sessions are ended, and its connections are limited. Both pools know both servers, ask for one
that accepts writes, and have their default settings. Each fault is inflicted three times; the
line of the round in the middle is printed, in Markdown.
"""

from __future__ import annotations

import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import trio

from _contestant import HERE, contestant, installed, leave_out
from _faults import QUIET, Account, Fault, Table, during
from _postgres import PostgresServer, binaries
from qorb_trio import FixedResolver, Policy, Pool, open_pool
from qorb_trio.postgres import PostgresConnection, PostgresConnector

#: Seconds after which a fault that does not end is given up.
PATIENCE = 90.0
#: Seconds that a request may take.
LIMIT = 2.0
#: The clients' role, whose connections can be limited as an administrator's cannot.
CLIENT = "user=app dbname=postgres application_name=faults"

blocking = trio.to_thread.run_sync


@attrs.frozen
class Pair:
    """A primary and its standby."""

    primary: PostgresServer
    standby: PostgresServer

    @property
    def conninfo(self) -> str:
        """Both servers, for a client that knows several addresses."""
        ports = f"{self.primary.port},{self.standby.port}"
        return f"host=127.0.0.1,127.0.0.1 port={ports} target_session_attrs=read-write {CLIENT}"


def start_pair(**settings: str) -> Pair:
    """Start a primary with a table of counters, and its standby."""
    primary = PostgresServer(**settings)
    primary.start()
    primary.sql("CREATE TABLE counter (id int PRIMARY KEY, n int)")
    primary.sql("INSERT INTO counter SELECT id, 0 FROM generate_series(0, 63) AS id")
    primary.sql("CREATE ROLE app LOGIN")
    primary.sql("GRANT ALL ON counter TO app")
    standby = PostgresServer.standby_of(primary)
    standby.start()
    return Pair(primary, standby)


@asynccontextmanager
async def pair(**settings: str) -> AsyncIterator[Pair]:
    """A pair of servers, which are removed at the end."""
    servers = await blocking(partial(start_pair, **settings))
    try:
        yield servers
    finally:
        with trio.CancelScope(shield=True):
            for server in (servers.standby, servers.primary):
                await blocking(server.remove)  # noqa: ASYNC102 - it does not take long


@asynccontextmanager
async def a_pool(servers: Pair) -> AsyncIterator[Pool[PostgresConnection[Any]]]:
    """Open a pool that knows both servers, and wants the primary."""
    resolver = FixedResolver([servers.primary.address, servers.standby.address])
    connector = PostgresConnector(CLIENT, target_session_attrs="read-write")
    policy = Policy(max_slots=8)
    async with (
        trio.open_nursery() as nursery,
        open_pool(nursery, resolver, connector, policy=policy) as pool,
    ):
        await pool.wait_ready()
        yield pool


async def with_pool(servers: Pair, fault: Fault, workers: int, pause: float) -> Account:
    """Let workers use the pool during a fault."""
    async with a_pool(servers) as pool:

        async def request() -> None:
            with trio.fail_after(LIMIT):
                async with pool.claim() as conn:
                    await conn.execute(
                        "UPDATE counter SET n = n + 1 WHERE id = pg_backend_pid() % 64"
                    )

        return await during(fault, request, workers=workers, pause=pause)


async def with_psycopg_pool(servers: Pair, fault: Fault, workers: int, pause: float) -> Account:
    """Let workers of another process use psycopg_pool during a fault."""
    command = [sys.executable, "-m", "adapters.psycopg_under_faults", servers.conninfo]
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
CLIENTS: dict[str, Client] = {"qorb_trio": with_pool, "psycopg_pool": with_psycopg_pool}


def faults(servers: Pair) -> dict[str, Fault]:
    """Return what happens to the servers."""
    primary, standby = servers.primary, servers.standby

    async def kill_and_start() -> None:
        await blocking(primary.stop, signal.SIGKILL)
        await trio.sleep(1)
        await blocking(primary.start)

    async def restart() -> None:
        await blocking(primary.restart)

    async def freeze() -> None:
        primary.freeze()
        await trio.sleep(4)
        primary.thaw()

    async def terminate() -> None:
        for _ in range(5):
            await blocking(primary.terminate, "faults")
            await trio.sleep(0.3)

    async def limit_connections() -> None:
        await blocking(primary.sql, "ALTER ROLE app CONNECTION LIMIT 4")
        await blocking(primary.terminate, "faults")
        await trio.sleep(4)

    async def switch_over() -> None:
        await blocking(primary.stop)
        await blocking(standby.promote)
        await trio.sleep(3)

    async def fail_over() -> None:
        await blocking(primary.stop, signal.SIGKILL)
        await trio.sleep(2)
        await blocking(standby.promote)
        await trio.sleep(3)

    return {
        "primary killed (-9), started after 1 s": kill_and_start,
        "primary restarted (fast)": restart,
        "primary frozen (SIGSTOP) for 4 s": freeze,
        "all sessions ended (pg_terminate_backend), 5 times": terminate,
        "connection limit of 4 reached": limit_connections,
        "switchover: primary stopped, standby promoted": switch_over,
        "failover: primary killed, standby promoted after 2 s": fail_over,
    }


async def wait() -> None:
    """Let the server end idle sessions."""
    await trio.sleep(8)


async def run(table: Table, title: str, **settings: str) -> None:
    """Run one fault with each client, each time with fresh servers."""
    for name, client in CLIENTS.items():
        await table.add(title, name, partial(once, title, client, settings))


async def once(title: str, client: Client, settings: dict[str, str]) -> Account:
    """Run one fault with one client and fresh servers."""
    with trio.fail_after(PATIENCE):
        async with pair(**settings) as servers:
            if settings:
                account = await client(servers, wait, 6, 2.2)
            else:
                account = await client(servers, faults(servers)[title], 12, 0.005)
    return account


async def main() -> None:
    """Run all faults, or those that were asked for."""
    if binaries() is None:
        leave_out("PostgreSQL", "not installed")
        return
    if not installed("psycopg_pool"):
        del CLIENTS["psycopg_pool"]
    table = Table()
    nobody: Any = attrs.make_class("Nobody", ["primary", "standby"])(None, None)
    for title in filter(table.wants, faults(nobody)):
        await run(table, title)
    if table.wants(title := "idle sessions ended after 1 s (idle_session_timeout)"):
        await run(table, title, idle_session_timeout="1s")


if __name__ == "__main__":
    trio.run(main)
