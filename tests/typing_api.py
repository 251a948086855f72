"""The public interface as type checkers see it: read by mypy and pyright, run by nobody.

What is asserted here is promised to users: a change that breaks this file is incompatible.
"""

from __future__ import annotations

import math
import random
import ssl
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal, assert_type

import attrs
import httpx  # noqa: ASYNC127 - both are supported
import httpx2
import trio
from psycopg.rows import dict_row

import qorb_trio
import qorb_trio.abc
import qorb_trio.http
import qorb_trio.postgres
import qorb_trio.redis
import qorb_trio.resolvers
import qorb_trio.testing


class Session:
    """A connection of one's own, with no `aclose`."""


class Sessions(qorb_trio.Connector[Session]):
    """A connector with every hook overridden."""

    async def connect(self, backend: qorb_trio.Backend) -> Session:
        """Connect."""
        assert_type(backend.address, tuple[str, int] | str)
        return Session()

    async def is_valid(self, conn: Session) -> bool:
        """Check."""
        return True

    async def on_acquire(self, conn: Session) -> None:
        """Set up."""

    async def on_recycle(self, conn: Session) -> None:
        """Clean."""

    async def disconnect(self, conn: Session) -> None:
        """Close."""

    def is_broken(self, conn: Session) -> bool:
        """Look."""
        return False

    def should_recycle(self, conn: Session, exc: BaseException | None) -> bool:
        """Decide."""
        return isinstance(exc, ValueError | None)


class Lines(qorb_trio.TcpConnector):
    """A connector that adds to one that comes with the package."""

    async def on_recycle(self, conn: trio.SocketStream) -> None:
        """Clean."""
        await conn.send_all(b"RESET\n")


class Once(qorb_trio.Resolver):
    """A resolver of one's own."""

    async def run(self, updates: trio.MemorySendChannel[Collection[qorb_trio.Backend]]) -> None:
        """Send one set."""
        await updates.send({qorb_trio.Backend(("localhost", 80))})
        await updates.send([])


class Counter(qorb_trio.abc.Instrument):
    """An instrument that watches one event."""

    failures = 0

    def claim_failed(self, pool: str, claim_id: int, reason: BaseException) -> None:
        """Count."""
        self.failures += 1


class Slow(qorb_trio.EventInstrument):
    """An instrument that is told of all events as records."""

    def on_event(self, event: qorb_trio.PoolEvent) -> None:
        """Look at one."""
        assert_type(event.name, str)
        assert_type(event.time, float)
        assert_type(event.claim_id, int | None)
        assert_type(event.backend, qorb_trio.Backend | None)
        assert_type(event.duration, float | None)
        assert_type(event.error, BaseException | None)
        assert_type(event.as_dict(), dict[str, str | int | float])


class Nearest:
    """A balancer of one's own, which does not inherit from `Balancer`."""

    def choose(
        self, candidates: Sequence[qorb_trio.Candidate], rng: random.Random, now: float
    ) -> qorb_trio.Candidate:
        """Choose."""
        first = candidates[0]
        assert_type(first.backend, qorb_trio.Backend)
        assert_type(first.load + first.spares, int)
        assert_type(first.weight, float)
        first.memo = (first.memo or 0) + 1
        return min(candidates, key=lambda candidate: candidate.load)

    def observe(
        self, candidate: qorb_trio.Candidate, seconds: float, failed: bool, now: float
    ) -> None:
        """Learn."""


def balancers() -> list[qorb_trio.Balancer]:
    """Everything that chooses is a `Balancer`."""
    return [
        qorb_trio.LeastLoaded(),
        qorb_trio.PeakEwma(),
        qorb_trio.PeakEwma(decay=5),
        qorb_trio.RoundRobin(),
        Nearest(),
    ]


def backends() -> None:
    """Make backends of all kinds of address, and check the types of the fields."""
    backend = qorb_trio.Backend(("::1", 80), name="a", priority=1, weight=5)
    assert_type(backend.name, str)
    assert_type(backend.host, str | None)
    assert_type(backend.port, int | None)
    assert_type(backend.priority, int)
    assert_type(backend.weight, int)
    qorb_trio.Backend("/run/a.sock")
    qorb_trio.Backend(Path("/run/a.sock"))


def policies() -> None:
    """Integers and infinity are good seconds, and a policy can be derived from another."""
    config = qorb_trio.SetConfig(max_count=4, health_interval=math.inf, connect_timeout=1)
    policy = qorb_trio.Policy(spares_wanted=2, claim_timeout=0.5, set_config=config)
    assert_type(attrs.evolve(policy, max_slots=3), qorb_trio.Policy)
    assert_type(policy.set_config.spread, float)
    ejection = qorb_trio.Ejection(failures=3, failure_rate=1, base_time=1, max_ejected=0)
    limits = qorb_trio.SetConfig(
        max_lifetime=1800, idle_timeout=60, max_uses=math.inf, max_connecting=2, slow_start=30
    )
    policy = qorb_trio.Policy(
        max_waiting=100, fail_fast_after=5, queue_target=0.05, ejection=ejection, set_config=limits
    )
    assert_type(policy.ejection, qorb_trio.Ejection | None)
    assert_type(policy.max_waiting, float)
    qorb_trio.Policy(max_waiting=math.inf, ejection=None)


def resolvers() -> list[qorb_trio.Resolver]:
    """Everything that resolves is a `Resolver`."""
    config = qorb_trio.DnsResolverConfig(query_interval=5, default_port=80)
    return [
        Once(),
        qorb_trio.FixedResolver(["localhost:80", ("::1", 80), qorb_trio.Backend("/run/a.sock")]),
        qorb_trio.DnsResolver("_echo._tcp.test.com."),
        qorb_trio.DnsResolver("_echo._tcp.test.com.", nameservers=["127.0.0.1:53"], config=config),
        qorb_trio.DnsResolver("_echo._tcp.test.com.", nameservers=[("::1", 53)]),
        qorb_trio.testing.ManualResolver(),
        qorb_trio.MappedResolver(Once(), qorb_trio.subset(20, seed="client 7")),
        qorb_trio.MappedResolver(Once(), lambda backends: [*backends][:3]),
        qorb_trio.ProbedResolver(Once(), is_primary, interval=2, timeout=0.5),
    ]


async def is_primary(backend: qorb_trio.Backend) -> bool:
    """A probe."""
    return backend.port == 80


def wrapped_resolvers() -> None:
    """Check the arguments and the snapshots of resolvers that wrap others."""
    mapped = qorb_trio.MappedResolver(Once(), list)
    mapped.refresh()
    assert_type(mapped.snapshot(), object)
    probed = qorb_trio.ProbedResolver(mapped, is_primary)
    snapshot = probed.snapshot()
    assert_type(snapshot, qorb_trio.resolvers.ProbedSnapshot)
    assert_type(snapshot.backends[0].state, Literal["yes", "no", "unknown"])
    assert_type(snapshot.trouble, str | None)
    take = qorb_trio.subset(20, seed=b"x")
    assert_type(take([qorb_trio.Backend(("a", 1))]), tuple[qorb_trio.Backend, ...])


async def connectors(backend: qorb_trio.Backend) -> None:
    """Check the type of each connector's connections."""
    assert_type(await qorb_trio.TcpConnector().connect(backend), trio.SocketStream)
    assert_type(await qorb_trio.UnixConnector().connect(backend), trio.SocketStream)
    tls = qorb_trio.TlsConnector(ssl.create_default_context(), server_hostname="a.example")
    assert_type(await tls.connect(backend), trio.SSLStream[trio.SocketStream])
    qorb_trio.TlsConnector()
    assert_type(tls.fileno(await tls.connect(backend)), int)
    stale: ConnectionError = qorb_trio.StaleConnectionError("closed")
    misused: qorb_trio.QorbError = qorb_trio.MisusedConnectionError("3 unread bytes")
    raise stale from misused


class Database:
    """A driver's connection."""

    def count(self, table: str) -> int:
        """Block."""
        return len(table)


def open_database(backend: qorb_trio.Backend) -> Database:
    """Block."""
    return Database()


def fetch(database: Database, table: str, limit: int) -> list[str]:
    """Block."""
    return [table] * limit


@asynccontextmanager
async def open_session(backend: qorb_trio.Backend) -> AsyncGenerator[Session, None]:
    """A client with a nursery of its own."""
    yield Session()


async def managers(nursery: trio.Nursery) -> None:
    """The type goes from what the context manager yields to the claim."""
    async with (
        qorb_trio.ContextConnector(open_session) as connector,
        qorb_trio.open_pool(nursery, Once(), connector) as pool,
    ):
        assert_type(connector, qorb_trio.ContextConnector[Session])
        async with pool.claim() as session:
            assert_type(session, Session)


async def threads(nursery: trio.Nursery, backend: qorb_trio.Backend) -> None:
    """A driver's connection keeps its type, and so do the arguments and results of calls."""
    connector = qorb_trio.ThreadConnector(open_database, cancel=lambda database: None)
    assert_type(await connector.connect(backend), qorb_trio.ThreadConnection[Database])
    async with qorb_trio.open_pool(nursery, Once(), connector) as pool:
        async with pool.claim() as conn:
            assert_type(conn, qorb_trio.ThreadConnection[Database])
            assert_type(conn.driver_connection, Database)
            assert_type(await conn.run(Database.count, "users"), int)
            assert_type(await conn.run(fetch, "users", 3), list[str])


async def services(backend: qorb_trio.Backend) -> None:
    """Connectors for services compose those for streams, and clients take the transport."""
    redis = qorb_trio.redis.RedisConnector(tcp=qorb_trio.UnixConnector(), protocol=3)
    conn = await redis.connect(backend)
    assert_type(conn, qorb_trio.redis.RedisConnection)
    await conn.execute("SET", b"a", 1)
    replies = await conn.pipeline(("GET", "a"), ["GET", "b"], return_errors=True)
    assert_type(replies, list[Any])
    http = qorb_trio.http.HttpConnector(qorb_trio.TlsConnector(), probe="/health")
    web = await http.connect(backend)
    assert_type(web, qorb_trio.http.HttpConnection)
    assert_type(await web.request("GET", "/"), qorb_trio.http.HttpResponse)


async def postgres(nursery: trio.Nursery) -> None:
    """A connector's row factory is that of its connections, and tuples are the default."""
    rows = qorb_trio.postgres.PostgresConnector("dbname=app", row_factory=dict_row)
    async with qorb_trio.open_pool(nursery, Once(), rows) as pool, pool.claim() as conn:
        assert_type(conn, qorb_trio.postgres.PostgresConnection[dict[str, Any]])
        cursor = await conn.execute("SELECT 1 AS one")
        assert_type(await cursor.fetchone(), dict[str, Any] | None)
        async with conn.transaction(), conn.pipeline() as pipeline:
            await pipeline.sync()
    plain = qorb_trio.postgres.PostgresConnector(reset=True, prepare_threshold=None)
    found = await plain.connect(qorb_trio.Backend(("localhost", 5432), target="db.example.com"))
    assert_type(await (await found.execute("SELECT 1")).fetchall(), list[tuple[Any, ...]])
    probed = qorb_trio.ProbedResolver(Once(), plain.is_primary)
    assert_type(probed, qorb_trio.ProbedResolver)


async def clients(pool: qorb_trio.Pool[qorb_trio.http.HttpConnection]) -> None:
    """Both packages of clients take the transport, and get their own responses."""
    transport = qorb_trio.http.PoolTransport(pool, is_failure=lambda it: it.status_code >= 500)
    httpx.AsyncClient(transport=transport)
    httpx2.AsyncClient(mounts={"http://": transport})
    one = await transport.handle_async_request(httpx.Request("GET", "http://a.test"))
    two = await transport.handle_async_request(httpx2.Request("GET", "http://a.test"))
    assert_type(one, httpx.Response)
    assert_type(two, httpx2.Response)


async def pools(nursery: trio.Nursery) -> None:
    """The type of the connections goes from the connector through pool and claim."""
    async with qorb_trio.open_pool(
        nursery,
        Once(),
        Sessions(),
        policy=qorb_trio.Policy(),
        name="db",
        balancer=qorb_trio.PeakEwma(decay=5),
        instruments=[Counter(), Slow(), qorb_trio.LoggingInstrument(limit=math.inf)],
        rng=random.Random(1),
    ) as pool:
        assert_type(pool, qorb_trio.Pool[Session])
        assert_type(pool.name, str)
        assert_type(pool.policy, qorb_trio.Policy)
        await pool.wait_ready()
        await pool.wait_ready(slots=2)
        async with pool.claim(timeout=3) as session:
            assert_type(session, Session)
        backend = qorb_trio.Backend(("localhost", 80))
        async with pool.claim(key="k", avoid={backend}, label="GET /") as session:
            assert_type(session, Session)
        async with pool.claim(key=b"k", avoid=[backend]), pool.claim(key=7, avoid=(backend,)):
            assert_type(pool.is_suspended, bool)
        with pool.claim_nowait() as session:
            assert_type(session, Session)
        assert_type(pool.claim_nowait(), qorb_trio.Claim[Session])
        with await pool.acquire(key=1, label="by hand") as session:
            assert_type(session, Session)
        for holder in pool.holders():
            assert_type(holder.label, str | None)
            assert_type(holder.task, str)
        pool.suspend()
        await pool.wait_idle()
        pool.resume()
        claim = await pool.acquire(timeout=math.inf)
        assert_type(claim, qorb_trio.Claim[Session])
        assert_type(claim.connection, Session)
        assert_type(claim.backend, qorb_trio.Backend)
        claim.discard()
        waiting = pool.claim()
        async with waiting:
            assert_type(waiting, qorb_trio.Claim[Session])
        await pool.terminate()
        await pool.aclose()
    async with qorb_trio.open_pool(nursery, Once(), Lines()) as streams:
        assert_type(streams, qorb_trio.Pool[trio.SocketStream])


def statistics(stats: qorb_trio.PoolStats) -> None:
    """Check the types in a snapshot of the statistics."""
    assert_type(stats.backends, Mapping[str, qorb_trio.BackendStats])
    assert_type(stats.claims + stats.waiting + stats.slots + stats.departed, int)
    assert_type(stats.shed + stats.known, int)
    for backend in stats.backends.values():
        assert_type(backend.backend, qorb_trio.Backend)
        assert_type(backend.online, bool)
        assert_type(backend.last_error, Exception | None)
        assert_type(backend.failed_claims + backend.stale + backend.retiring, int)
        assert_type(backend.ejected_until, float | None)


async def errors(pool: qorb_trio.Pool[Session]) -> str:
    """An error of a claim is caught as what it is, and as Trio's own."""
    try:
        await pool.acquire()
    except qorb_trio.ClaimTimeoutError as exc:
        too_slow: trio.TooSlowError = exc
        assert_type(exc.stats, qorb_trio.PoolStats)
        return f"{exc.pool} {too_slow}"
    except qorb_trio.PoolTerminatedError as exc:
        claim_error: qorb_trio.ClaimError = exc
        return str(claim_error)
    return ""


class Ends(qorb_trio.Instrument):
    """An instrument of the ends of connections and claims."""

    def connection_stale(
        self, pool: str, slot_id: int, backend: qorb_trio.Backend, reason: BaseException
    ) -> None:
        """Look at the reason."""
        assert_type(qorb_trio.is_abandonment(reason), bool)

    def connection_retired(
        self, pool: str, slot_id: int, backend: qorb_trio.Backend, why: str
    ) -> None:
        """Do nothing."""

    def claim_cut(self, pool: str, slot_id: int, backend: qorb_trio.Backend) -> None:
        """Do nothing."""

    def backend_ejected(
        self, pool: str, backend: qorb_trio.Backend, reason: str, seconds: float
    ) -> None:
        """Do nothing."""


def events(pool: qorb_trio.Pool[Session], event: qorb_trio.PoolEvent) -> str:
    """Check the types of a record's fields."""
    assert_type(pool.is_closed, bool)
    assert_type(event.is_abandoned, bool)
    assert_type(event.seconds, float | None)
    assert_type((event.why, event.reason), tuple[str | None, str | None])
    return qorb_trio.__version__


async def answer(stream: qorb_trio.testing.MemoryStream, backend: qorb_trio.Backend) -> None:
    """A server in memory."""
    assert_type(await stream.receive_some(), bytes | bytearray)
    assert_type(stream.unread, int)


async def test_aids() -> None:
    """The test kit is typed as the real things are."""
    resolver = qorb_trio.testing.ManualResolver()
    resolver.set([qorb_trio.Backend(("localhost", 80))])
    connector = qorb_trio.testing.FakeConnector()
    backend = qorb_trio.Backend(("localhost", 80))
    assert_type(await connector.connect(backend), qorb_trio.testing.FakeConnection)
    memory = qorb_trio.testing.MemoryConnector(answer)
    assert_type(await memory.connect(backend), qorb_trio.testing.MemoryStream)
    assert_type(memory.failures, list[BaseException])
    assert_type(await Lines(streams=memory).connect(backend), trio.SocketStream)
    recording = qorb_trio.testing.RecordingInstrument(keep=10)
    assert_type(recording.names, list[str])
    assert_type(recording.of("claim_done"), list[qorb_trio.PoolEvent])
    assert_type(await recording.wait_for("claim_done", count=2), qorb_trio.PoolEvent)
