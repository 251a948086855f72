"""Sweeps of the connector for Redis, against a server in memory."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import trio

from qorb_trio import FixedResolver, Policy, open_pool
from qorb_trio.redis import RedisConnection, RedisConnector

from ..harness import Sweep
from ..redis.kit import BACKEND, MemoryStreams, ok
from .registry import sweeps

PUSH = b">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$5\r\nhello\r\n"


def answer(command: list[bytes]) -> bytes:
    """Send a message to subscribers, and answer others."""
    return PUSH if command[0] == b"SUBSCRIBE" else ok(command)


async def exchange(conn: RedisConnection, number: int) -> None:
    """Run two exchanges, and check that each gets its own replies."""
    assert await conn.execute("ECHO", number) == b"%d" % number
    echoes = await conn.pipeline(("ECHO", number + 1), ("ECHO", number + 2))
    assert echoes == [b"%d" % (number + 1), b"%d" % (number + 2)]


@sweeps(
    RedisConnector.connect,
    RedisConnector.is_valid,
    RedisConnector.on_recycle,
    RedisConnector.disconnect,
    RedisConnection.execute,
    RedisConnection.pipeline,
    RedisConnection.greet,
    RedisConnection.clean,
    name="one connection",
)
async def one_connection(one: Sweep) -> None:
    """A connection is opened, used, cleaned, checked and closed; cut short, it leaks no reply."""
    async with trio.open_nursery() as nursery:
        streams = MemoryStreams(nursery, answer)
        connector = RedisConnector(tcp=streams, db=1, role="primary")
        opened: list[RedisConnection] = []

        async def target() -> None:
            conn = await connector.connect(BACKEND)
            opened.append(conn)
            try:
                await exchange(conn, 1)
                await conn.execute("SELECT", 2)
                await connector.on_recycle(conn)
                assert await connector.is_valid(conn)
            except BaseException:
                opened.append(conn)
                raise
            await connector.disconnect(conn)

        await one.target(target)
        if len(opened) == 2 and opened[0].is_reusable:
            await connector.on_recycle(opened[0])
            await exchange(opened[0], 7)
        for conn in opened:
            await connector.disconnect(conn)
        nursery.cancel_scope.cancel()


@sweeps(RedisConnection.receive, name="messages")
async def messages(one: Sweep) -> None:
    """A subscriber that is cancelled loses no message."""
    async with trio.open_nursery() as nursery:
        streams = MemoryStreams(nursery, answer)
        conn = await RedisConnector(tcp=streams, protocol=3).connect(BACKEND)
        got: list[Any] = []

        async def target() -> None:
            got.append(await conn.receive())
            assert await conn.execute("PING") == b"PONG"
            got.append(await conn.receive())

        for _ in range(2):
            await conn.execute("SUBSCRIBE", "a")
        await one.target(target)
        if conn.is_reusable or not conn.needs_cleaning:
            while len(got) < 2:
                with trio.fail_after(5):
                    got.append(await conn.receive())
        nursery.cancel_scope.cancel()


@sweeps(RedisConnector.connect, RedisConnection.execute, name="a pool", seeds=1)
async def a_pool(one: Sweep) -> None:
    """A pool is opened, used and left; each step of each task counts."""

    async def target(nursery: trio.Nursery, streams: MemoryStreams) -> None:
        connector = RedisConnector(tcp=streams)
        policy = Policy(max_slots=2, spares_wanted=1)
        resolver = FixedResolver([BACKEND])
        async with open_pool(nursery, resolver, connector, policy=policy) as pool:
            for number in range(2):
                async with pool.claim() as conn:
                    await exchange(conn, number)
                    await conn.execute("WATCH", "a")

    one.deep = True
    async with trio.open_nursery() as servers:
        streams = MemoryStreams(servers, answer)
        with suppress(trio.Cancelled):
            async with trio.open_nursery() as nursery:
                await one.target(target, nursery, streams)
        servers.cancel_scope.cancel()
