"""`RedisConnector` against a real Redis."""

from __future__ import annotations

import random
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
import trustme

import _services
from _services import RedisServer, redis_servers
from qorb_trio import (
    Backend,
    FixedResolver,
    IneligibleBackendError,
    Policy,
    Pool,
    PoolStats,
    Resolver,
    SetConfig,
    TlsConnector,
    UnixConnector,
    open_pool,
)
from qorb_trio.redis import RedisConnection, RedisConnector, RedisError
from qorb_trio.testing import ManualResolver

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        _services.missing("redis-server") is not None, reason="redis-server is not installed"
    ),
]

POLICY = Policy(
    spares_wanted=4,
    max_slots=4,
    claim_timeout=10,
    set_config=SetConfig(max_connection_backoff=0.2, health_interval=0.5, health_check_timeout=1),
)


@pytest.fixture
async def server() -> AsyncIterator[RedisServer]:
    """Start one server."""
    async with redis_servers() as [one]:
        yield one


@asynccontextmanager
async def connection(server: RedisServer, **options: Any) -> AsyncIterator[RedisConnection]:
    """Open a connection that no pool knows."""
    connector = RedisConnector(**options)
    conn = await connector.connect(server.backend)
    try:
        yield conn
    finally:
        with trio.move_on_after(1, shield=True):
            await connector.disconnect(conn)


async def ask(server: RedisServer, *command: Any, **options: Any) -> Any:
    """Send one command over a connection of its own."""
    async with connection(server, **options) as conn:
        return await conn.execute(*command)


@asynccontextmanager
async def a_pool(
    resolver: Resolver, /, policy: Policy = POLICY, **options: Any
) -> AsyncIterator[Pool[RedisConnection]]:
    """Open a pool, and let a test last no longer than a minute."""
    connector = RedisConnector(**options)
    with trio.fail_after(60):
        async with (
            trio.open_nursery() as nursery,
            open_pool(nursery, resolver, connector, policy=policy) as pool,
        ):
            yield pool


def alone(policy: Policy = POLICY) -> Policy:
    """Return a policy of one slot, so that each claim gets what the last one left."""
    return attrs.evolve(policy, spares_wanted=1, max_slots=1)


def at(server: RedisServer, priority: int) -> Backend:
    """Return the backend of a server with a priority."""
    return Backend(("127.0.0.1", server.port), priority=priority)


async def until_spare(pool: Pool[RedisConnection]) -> None:
    """Wait until all connections are clean and idle."""
    with trio.fail_after(5):
        while not is_idle(pool.stats()):  # noqa: ASYNC110 - a pool does not say so
            await trio.sleep(0.005)


def is_idle(stats: PoolStats) -> bool:
    """Return true if every slot is a spare."""
    return stats.slots == sum(it.unclaimed for it in stats.backends.values())


@pytest.mark.parametrize("protocol", [2, 3])
async def test_commands_and_pipelines(server: RedisServer, protocol: int) -> None:
    """Both protocols speak to a real server."""
    async with a_pool(FixedResolver([server.backend]), protocol=protocol) as pool:
        async with pool.claim() as conn:
            assert await conn.execute("SET", "a", 1) == b"OK"
            assert await conn.execute("GET", b"a") == b"1"
            replies = await conn.pipeline(("INCR", "a"), ("RPUSH", "l", "x", "y"), ("GET", "none"))
            assert replies == [2, 2, None]
            with pytest.raises(RedisError, match="WRONGTYPE"):
                await conn.execute("INCR", "l")
            await conn.execute("HSET", "h", "k", "v")
            expected: object = {b"k": b"v"} if protocol == 3 else [b"k", b"v"]
            assert await conn.execute("HGETALL", "h") == expected
            big = b"x" * 3_000_000
            await conn.execute("SET", "big", big)
            assert await conn.execute("GET", "big") == big
        assert pool.stats().backends[server.backend.name].failures == 0


@pytest.mark.parametrize(
    "left",
    [
        [("MULTI",), ("SET", "a", 1)],
        [("WATCH", "a")],
        [("SELECT", 5)],
        [("CLIENT", "SETNAME", "somebody")],
        [("AUTH", "other", "other")],
    ],
)
async def test_nothing_outlives_a_claim(server: RedisServer, left: list[Any]) -> None:
    """The next claimant gets the same connection, in the state of a new one."""
    await ask(server, "ACL", "SETUSER", "other", "on", ">other", "allcommands", "allkeys")
    await ask(server, "CONFIG", "SET", "requirepass", "secret")
    async with a_pool(FixedResolver([server.backend]), alone(), password="secret", db=2) as pool:
        async with pool.claim() as conn:
            number = await conn.execute("CLIENT", "ID")
            await conn.pipeline(*left)
        async with pool.claim() as conn:
            assert await conn.execute("CLIENT", "ID") == number
            info = await conn.execute("CLIENT", "INFO")
            assert b" db=2 " in info
            assert b" multi=-1 " in info
            assert b" user=default " in info
            assert b" name= " in info
            assert b" flags=N " in info
            await ask(server, "SET", "a", 2, password="secret", db=2)
            assert await conn.pipeline(("MULTI",), ("GET", "a"), ("EXEC",)) == [
                b"OK",
                b"QUEUED",
                [b"2"],
            ]


async def test_a_subscriber_gets_messages_and_its_connection_is_closed(server: RedisServer) -> None:
    """Messages arrive, and none reaches the next claimant."""
    async with a_pool(FixedResolver([server.backend]), alone()) as pool:
        async with pool.claim() as conn:
            number = await conn.execute("CLIENT", "ID")
            await conn.execute("SUBSCRIBE", "news")
            assert await conn.receive() == [b"subscribe", b"news", 1]
            await ask(server, "PUBLISH", "news", "hello")
            assert await conn.receive() == [b"message", b"news", b"hello"]
            await ask(server, "PUBLISH", "news", "unread")
        async with pool.claim() as conn:
            assert await conn.execute("CLIENT", "ID") > number


async def test_a_password_that_is_wrong_is_the_reason(server: RedisServer) -> None:
    """The server's own words are the last error of the backend."""
    await ask(server, "CONFIG", "SET", "requirepass", "secret")
    for password, words in ((None, "NOAUTH"), ("x", "WRONGPASS")):
        async with a_pool(FixedResolver([server.backend]), password=password) as pool:
            with pytest.raises(trio.TooSlowError) as caught:
                async with pool.claim(timeout=0.2):
                    pass
            assert words in str(caught.value.__cause__)


async def test_unix_socket(server: RedisServer) -> None:
    """The same over a Unix socket, by composing its connector."""
    resolver = FixedResolver([Backend(server.socket_path)])
    async with a_pool(resolver, tcp=UnixConnector()) as pool, pool.claim() as conn:
        assert await conn.execute("PING") == b"PONG"


async def test_tls(tmp_path: Any) -> None:
    """The same over TLS, by composing its connector; cancelled exchanges leak nothing there."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(tmp_path / "key")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert")
    authority.cert_pem.write_to_path(tmp_path / "ca")
    context = ssl.create_default_context(cafile=tmp_path / "ca")
    plain = RedisServer(tmp_path)
    port = _services.free_port()
    try:
        await plain.start(
            *("--tls-port", str(port), "--tls-auth-clients", "no"),
            *("--tls-cert-file", str(tmp_path / "cert"), "--tls-key-file", str(tmp_path / "key")),
            *("--tls-ca-cert-file", str(tmp_path / "ca")),
        )
        resolver = FixedResolver([("127.0.0.1", port)])
        async with a_pool(resolver, alone(), tcp=TlsConnector(context)) as pool:
            for number in range(50):
                with trio.move_on_after(0.0002 * (number % 5)):
                    async with pool.claim() as conn:
                        assert await conn.execute("ECHO", number) == b"%d" % number
            async with pool.claim() as conn:
                assert await conn.execute("ECHO", "whole") == b"whole"
    finally:
        await plain.kill()  # noqa: ASYNC102 - it is shielded, and has a deadline


# ---------------------------------------------------------------------------- storm


@pytest.mark.parametrize("protocol", [2, 3])
async def test_storm_of_cancelled_claims(server: RedisServer, protocol: int) -> None:
    """After 2,400 cancelled claims every answer is right, and no connection was lost."""
    rng = random.Random(1)
    cancelled = 0

    async def worker(pool: Pool[RedisConnection], number: int) -> None:
        nonlocal cancelled
        for turn in range(100):
            with trio.CancelScope(deadline=trio.current_time() + rng.expovariate(1000)) as scope:
                async with pool.claim() as conn:
                    words = f"{number}.{turn}".encode()
                    assert await conn.execute("ECHO", words) == words
                    await conn.execute("WATCH", "a")
                    echoes = await conn.pipeline(("ECHO", words), ("MULTI",), ("PING",), ("EXEC",))
                    assert echoes == [words, b"OK", b"QUEUED", [b"PONG"]]
                    await conn.execute("EVAL", "redis.call('PING')", 0)
            cancelled += scope.cancelled_caught

    policy = attrs.evolve(POLICY, max_slots=8, spares_wanted=8)
    async with a_pool(FixedResolver([server.backend]), policy, protocol=protocol) as pool:
        while cancelled < 2400:
            async with trio.open_nursery() as nursery:
                for number in range(24):
                    nursery.start_soon(worker, pool, number)
        await check_after_storm(pool, server)


async def check_after_storm(pool: Pool[RedisConnection], server: RedisServer) -> None:
    """Check 1,000 numbered answers, and count the connections on both sides."""
    for number in range(1000):
        async with pool.claim() as conn:
            assert await conn.execute("ECHO", number) == b"%d" % number
    await until_spare(pool)
    async with connection(server) as conn:
        listed = (await conn.execute("CLIENT", "LIST")).decode().splitlines()
    assert len(listed) == 8 + 1
    assert not [line for line in listed if " multi=-1 " not in line]
    stats = pool.stats()
    assert (stats.slots, stats.waiting) == (8, 0)
    assert stats.backends[server.backend.name].failures == 0


# --------------------------------------------------------------------------- faults


async def test_failover(server: RedisServer) -> None:
    """The primary dies, and the replica is promoted: the pool follows, and says nothing else."""
    async with redis_servers() as [other]:
        await ask(other, "REPLICAOF", "127.0.0.1", server.port)
        resolver = FixedResolver([server.backend, other.backend])
        async with a_pool(resolver, role="primary") as pool:
            await pool.wait_ready()
            assert pool.stats().backends[other.backend.name].online is False
            await server.kill()
            await ask(other, "REPLICAOF", "NO", "ONE")
            async with pool.claim() as conn:
                await conn.execute("SET", "a", 1)
            assert pool.stats().backends[other.backend.name].online


async def test_READONLY_moves_the_pool_to_the_primary(server: RedisServer) -> None:
    """A demoted primary is left by one refused write, and its other connections with it."""
    async with redis_servers() as [other]:
        resolver = ManualResolver([at(server, 0), at(other, 1)])
        async with a_pool(resolver) as pool:
            await pool.wait_ready(4)
            await ask(server, "REPLICAOF", "127.0.0.1", other.port)
            refused = 0
            for number in range(50):
                async with pool.claim() as conn:
                    [reply] = await conn.pipeline(("SET", "a", number), return_errors=True)
                    refused += isinstance(reply, RedisError) and reply.code == "READONLY"
            assert refused <= 1


LOADS_SLOWLY = (
    *("--enable-debug-command", "yes", "--key-load-delay", "3000"),
    *("--loading-process-events-interval-bytes", "1024"),
)


async def test_LOADING_is_ineligible() -> None:
    """A server that reads its data from disk is no failure, and used as soon as it is ready."""
    async with redis_servers(1, *LOADS_SLOWLY) as [server]:
        await ask(server, "DEBUG", "POPULATE", 300, "key", 10)
        await ask(server, "SAVE")
        await server.kill()
        await server.start()
        connector = RedisConnector()
        with pytest.raises(IneligibleBackendError, match="LOADING"):
            await connector.connect(server.backend)
        async with a_pool(FixedResolver([server.backend])) as pool, pool.claim() as conn:
            assert await conn.execute("DBSIZE") == 300


async def test_MASTERDOWN_is_ineligible() -> None:
    """A replica that serves no stale data, and has lost its primary, is no failure."""
    async with redis_servers(1, "--replica-serve-stale-data", "no") as [server]:
        await ask(server, "REPLICAOF", "127.0.0.1", 1)
        with pytest.raises(IneligibleBackendError, match="MASTERDOWN"):
            await RedisConnector().connect(server.backend)


async def test_a_server_that_closes_idle_connections(server: RedisServer) -> None:
    """Connections that the server has closed cost the next claim nothing but a dial."""
    await ask(server, "CONFIG", "SET", "timeout", 1)
    policy = attrs.evolve(POLICY, set_config=SetConfig())
    async with a_pool(FixedResolver([server.backend]), policy) as pool:
        await pool.wait_ready(4)
        await trio.sleep(2.5)
        async with pool.claim(timeout=2) as conn:
            assert await conn.execute("PING") == b"PONG"
