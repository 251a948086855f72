"""`qorb_trio.opentelemetry`: a pool's metrics, read with the SDK's in-memory reader."""

from __future__ import annotations

import gc
import importlib
import sys
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from opentelemetry import metrics
from opentelemetry.sdk.metrics.export import AggregationTemporality, Histogram, Sum
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View
from trio.testing import MockClock

import qorb_trio.opentelemetry
from qorb_trio import (
    AllClaimsUsedError,
    Backend,
    NoBackendsError,
    Policy,
    Pool,
    PoolOverloadedError,
    PoolStats,
    open_pool,
)
from qorb_trio.opentelemetry import Instrumentation, instrument
from qorb_trio.opentelemetry._meters import meters_of
from qorb_trio.opentelemetry._pool_meter import PoolMeter
from qorb_trio.testing import FakeConnector, ManualResolver

from ..harness import HANG, Bench, LedgerConnector, backends, fails, open_bench, policy_of, slow
from .kit import POOL_NAME, STATE, Reader, reading

ONE = policy_of(max_slots=1, spares_wanted=1)
A, B = backends("ab")


@pytest.fixture
def reader() -> Iterator[Reader]:
    """A meter provider."""
    with reading() as it:
        yield it


@asynccontextmanager
async def measured(
    reader: Reader,
    sets: str | None = "a",
    *,
    policy: Policy = ONE,
    connector: LedgerConnector | None = None,
    name: str = "pool",
    max_backends: int = 100,
) -> AsyncIterator[Bench]:
    """A pool that is measured from its beginning to its end."""
    async with open_bench(sets, policy=policy, connector=connector, name=name) as bench:
        with instrument(bench.pool, reader.provider, max_backends=max_backends):
            yield bench


def address(backend: Backend) -> dict[str, object]:
    """The attributes of a backend."""
    return {"server_address": backend.host, "server_port": backend.port}


async def test_times(autojump_clock: MockClock, reader: Reader) -> None:
    """The times of connecting, waiting and using go into histograms, in seconds."""
    connector = LedgerConnector(slow(0.3))
    async with measured(reader, connector=connector) as bench:
        connector.script.always("on_acquire", slow(0))
        connector.script.always("on_recycle", slow(0))
        await bench.use(7)
        await bench.settle(1)
        await bench.use(7)
        await bench.settle(1)
        for name, total, count in (
            ("create_time", 0.3, 1),
            ("wait_time", 0.3, 2),
            ("use_time", 14, 2),
        ):
            point = reader.histogram(name)
            assert point.count == count, name
            assert point.sum == pytest.approx(total), name
            assert dict(point.attributes or {}) == {
                POOL_NAME: "pool",
                "server.address": A.host,
                "server.port": A.port,
            }
    assert reader.histogram("use_time").count == 2  # and it stays when all is over


async def test_numbers(autojump_clock: MockClock, reader: Reader) -> None:
    """Connections are counted by state and backend, and so are claims that wait."""
    policy = policy_of(max_slots=4, spares_wanted=2)
    connector = LedgerConnector()
    async with measured(reader, "ab", policy=policy, connector=connector) as bench:
        await bench.pool.wait_ready(2)
        await bench.settle(1)
        claim = await bench.acquire()
        await bench.settle(1)
        assert reader.counts() == {"used": 1, "idle": 2}
        assert reader.counts(**address(claim.backend))["used"] == 1
        assert reader.value("max") == 4
        assert reader.value("idle.max") == 4
        assert reader.value("idle.min") == 2
        assert reader.value("pending_requests") == 0
        connector.script.always("connect", HANG)
        others = [await bench.acquire() for _ in range(2)]
        bench.nursery.start_soon(bench.use)
        await bench.settle(1)
        assert reader.counts() == {"used": 3, "connecting": 1}
        assert reader.value("pending_requests") == 1
        connector.script.always("connect", slow(0))
        connector.script.always("on_recycle", slow(5))
        for one in (claim, *others):
            bench.release(one)
        await bench.settle(1)
        assert reader.counts()["checking"] >= 2
        await bench.settle(20)
        connector.script.always("disconnect", slow(0.5))
        claim = await bench.acquire()
        left = claim.backend
        bench.resolver.set([A if left == B else B])
        await bench.settle(0.25)
        assert reader.counts(**address(left)) == {}
        assert reader.counts()["departed"] == bench.stats().departed >= 1
        bench.release(claim)


async def test_the_shape_of_the_metrics(autojump_clock: MockClock, reader: Reader) -> None:
    """Names, kinds and units are those of the semantic conventions; buckets are our advice."""
    async with measured(reader) as bench:
        bench.script.next("connect", fails(OSError))
        with pytest.raises(AllClaimsUsedError):
            async with bench.claim():
                await bench.use(timeout=1)
        await bench.settle()
        found = reader.metrics()
    prefix = "db.client.connection."
    units = {name.removeprefix(prefix): metric.unit for name, metric in found.items()}
    assert units == {
        "count": "{connection}",
        "idle.max": "{connection}",
        "idle.min": "{connection}",
        "max": "{connection}",
        "pending_requests": "{request}",
        "timeouts": "{timeout}",
        "create_time": "s",
        "wait_time": "s",
        "use_time": "s",
        "qorb_trio.connection.failures": "{failure}",
        "qorb_trio.backend.ejected": "{backend}",
    }
    for name, metric in found.items():
        assert metric.description
        data = metric.data
        if metric.unit == "s":
            assert isinstance(data, Histogram)
            bounds = list(data.data_points[0].explicit_bounds)
            assert bounds == sorted(bounds)
            assert bounds[0] <= 0.001
            assert bounds[-1] >= 10
        else:
            assert isinstance(data, Sum)
            assert data.is_monotonic == (name.endswith(("timeouts", "failures")))
            assert data.aggregation_temporality is AggregationTemporality.CUMULATIVE


async def test_claims_that_time_out(autojump_clock: MockClock, reader: Reader) -> None:
    """Timeouts are counted, with why there was no connection; cancelled claims are none."""
    async with measured(reader, None) as bench:
        for timeout in (0, 1):
            with pytest.raises(NoBackendsError):
                await bench.use(timeout=timeout)
        bench.resolver.set([A])
        async with bench.claim():
            with pytest.raises(AllClaimsUsedError):
                await bench.use(timeout=1)
            with trio.move_on_after(1):
                await bench.use()
        kinds = {"qorb_trio.NoBackendsError": 2, "qorb_trio.AllClaimsUsedError": 1}
        assert reader.value("timeouts") == 3
        for kind, count in kinds.items():
            (point,) = reader.points("timeouts", error_type=kind)
            assert dict(point.attributes or {}) == {POOL_NAME: "pool", "error.type": kind}
            assert reader.value("timeouts", error_type=kind) == count
        assert reader.histogram("wait_time").count == 1  # of those that were served


async def test_failures(autojump_clock: MockClock, reader: Reader) -> None:
    """Failures of connections are counted, with the backend, the operation and the error."""
    policy = policy_of(max_slots=1, spares_wanted=1, health_interval=5)
    connector = LedgerConnector()
    async with measured(reader, policy=policy, connector=connector) as bench:
        connector.script.next("connect", fails(OSError))
        connector.script.next("on_acquire", fails(ZeroDivisionError))
        connector.script.next("on_recycle", fails(trio.BrokenResourceError))
        await bench.use(2)
        await bench.settle(2)
        connector.script.next("is_valid", fails(TimeoutError))
        await bench.settle(20)
        found = {
            (
                str(attributes.pop("qorb_trio.operation")),
                str(attributes.pop("error.type")),
            ): attributes
            for point in reader.points("qorb_trio.connection.failures")
            for attributes in [dict(point.attributes or {})]
        }
        assert set(found) == {
            ("connect", "OSError"),
            ("acquire", "ZeroDivisionError"),
            ("recycle", "trio.BrokenResourceError"),
            ("health_check", "TimeoutError"),
        }
        expected = {POOL_NAME: "pool", "server.address": A.host, "server.port": A.port}
        assert all(attributes == expected for attributes in found.values())
        assert reader.value("qorb_trio.connection.failures") == 4
        assert reader.histogram("use_time").count == 1  # a failed on_acquire is no use


async def test_what_is_given_up_is_no_failure(autojump_clock: MockClock, reader: Reader) -> None:
    """A dial that the pool itself cancels is not counted."""
    async with measured(reader, connector=LedgerConnector(HANG)) as bench:
        await bench.settle(1)
        bench.resolver.set([])
        await bench.settle(1)
        assert bench.log.of("connect_failed")
        assert not reader.points("qorb_trio.connection.failures")
        assert not reader.points("create_time")


async def test_the_life_of_connections_and_backends(
    autojump_clock: MockClock, reader: Reader
) -> None:
    """Stale, broken and retired connections, cut claims and ejections are counted by backend."""
    async with open_bench(policy=ONE) as bench:
        meter = PoolMeter(bench.pool, meters_of(reader.provider), 100)
        meter.connection_stale("pool", 1, A, ConnectionError("closed by the peer"))
        meter.connection_broken("pool", 2, A, ConnectionResetError("reset"))
        meter.connection_retired("pool", 3, A, "lifetime")
        meter.connection_retired("pool", 4, A, "uses")
        meter.handle_claimed("pool", 1, 5, A)
        meter.claim_cut("pool", 5, A)
        meter.claim_cut("pool", 6, B)
        meter.backend_ejected("pool", A, "5 failures in a row", 4.0)
        meter.backend_restored("pool", A)
        assert not meter._holds
    found = {
        name: [dict(point.attributes or {}) for point in reader.points(f"qorb_trio.{name}")]
        for name in (
            *("connection.stale", "connection.broken", "connection.retired"),
            *("claim.cut", "backend.ejections", "backend.restorations"),
        )
    }
    a, b = ({POOL_NAME: "pool", "server.address": it.host, "server.port": it.port} for it in (A, B))
    assert found == {
        "connection.stale": [a],
        "connection.broken": [a | {"error.type": "ConnectionResetError"}],
        "connection.retired": [
            a | {"qorb_trio.reason": "lifetime"},
            a | {"qorb_trio.reason": "uses"},
        ],
        "claim.cut": [a, b],
        "backend.ejections": [a],
        "backend.restorations": [a],
    }


async def test_a_refused_claim_is_no_timeout(autojump_clock: MockClock, reader: Reader) -> None:
    """A claim that is refused because of overload is counted by itself."""
    async with open_bench(policy=ONE) as bench:
        meter = PoolMeter(bench.pool, meters_of(reader.provider), 100)
        refusal = PoolOverloadedError("full", pool="pool", stats=bench.stats())
        meter.claim_start("pool", 1)
        meter.claim_failed("pool", 1, refusal)
    assert reader.value("qorb_trio.claim.shed") == 1
    assert not reader.points("timeouts")


async def test_ejected_backends_are_counted(
    autojump_clock: MockClock, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of ejected backends is told for each backend, or for all that share a series."""
    async with measured(reader, "ab", policy=policy_of(max_slots=2)) as bench:
        await bench.settle()
        assert len(reader.points("qorb_trio.backend.ejected")) == 2
        assert reader.value("qorb_trio.backend.ejected") == 0
        stats = bench.stats()
        ejected = {name: attrs.evolve(it, ejected_until=7.0) for name, it in stats.backends.items()}
        monkeypatch.setattr(
            type(bench.pool), "stats", lambda _self: attrs.evolve(stats, backends=ejected)
        )
        assert reader.value("qorb_trio.backend.ejected", **address(A)) == 1
        monkeypatch.undo()


async def test_few_backends_have_series_of_their_own(
    autojump_clock: MockClock, reader: Reader
) -> None:
    """Backends beyond `max_backends` share one series, and the sums are right."""
    policy = policy_of(max_slots=8, spares_wanted=8)
    async with measured(reader, "abcd", policy=policy, max_backends=2) as bench:
        await bench.pool.wait_ready(8)
        await bench.settle()
        places = {
            (point.attributes or {}).get("server.address"): point.attributes
            for point in reader.points("create_time")
        }
        own = {A.host, B.host, *(it.host for it in backends("cd"))} & set(places)
        assert len(own) == 2
        assert set(places) == {*own, "_OTHER"}
        assert "server.port" not in (places["_OTHER"] or {})
        assert reader.counts() == {"idle": 8}
        assert reader.counts(server_address="_OTHER") == {"idle": 4}
        assert len(reader.points("count", server_address="_OTHER")) == 5


async def test_the_pool_as_a_whole(autojump_clock: MockClock, reader: Reader) -> None:
    """With ``max_backends=0`` no series has a backend."""
    policy = policy_of(max_slots=4, spares_wanted=4)
    async with measured(reader, "ab", policy=policy, max_backends=0) as bench:
        await bench.pool.wait_ready(4)
        await bench.use()
        await bench.settle()
        for metric in reader.metrics().values():
            for point in metric.data.data_points:
                assert set(point.attributes or {}) <= {POOL_NAME, STATE}
        assert reader.counts() == {"idle": 4}


async def test_unix_sockets(autojump_clock: MockClock, reader: Reader) -> None:
    """A backend behind a Unix socket has its path for an address, and no port."""
    async with measured(reader, None) as bench:
        bench.resolver.set([Backend("/run/db.sock")])
        await bench.use()
        attributes = dict(reader.histogram("wait_time").attributes or {})
        assert attributes == {POOL_NAME: "pool", "server.address": "/run/db.sock"}


async def test_several_pools(
    autojump_clock: MockClock, reader: Reader, caplog: pytest.LogCaptureFixture
) -> None:
    """Pools that share a provider are told apart by name, and nothing complains."""
    both = policy_of(max_slots=2, spares_wanted=2)
    async with measured(reader, name="one") as one, measured(reader, policy=both, name="two"):
        await one.use()
        await one.settle()
        assert reader.counts(**{POOL_NAME: "one"}) == {"idle": 1}
        assert reader.counts(**{POOL_NAME: "two"}) == {"idle": 2}
        assert {len(reader.points(name)) for name in ("max", "idle.min", "pending_requests")} == {2}
    assert not [record for record in caplog.records if record.name.startswith("opentelemetry")]


async def test_undoing_it(autojump_clock: MockClock, reader: Reader) -> None:
    """After ``uninstrument`` nothing is counted nor told any more, and the pool is as it was."""
    async with open_bench(policy=ONE) as bench:
        undo = instrument(bench.pool, reader.provider)
        assert isinstance(undo, Instrumentation)
        await bench.use()
        await bench.settle()
        assert reader.counts() == {"idle": 1}
        undo.uninstrument()
        undo.uninstrument()
        await bench.use()
        assert not reader.points("count")
        assert reader.histogram("use_time").count == 1
        with instrument(bench.pool, reader.provider):
            await bench.use()
        assert reader.histogram("use_time").count == 2


async def test_a_pool_that_runs_already(autojump_clock: MockClock, reader: Reader) -> None:
    """Work that began before the measurement is not measured; the numbers are right at once."""
    connector = LedgerConnector()
    policy = policy_of(max_slots=2, spares_wanted=0)
    async with open_bench(policy=policy, connector=connector) as bench:
        held = await bench.acquire()
        connector.script.next("on_acquire", fails(ValueError, after=2))
        bench.nursery.start_soon(bench.use, 10)
        await bench.settle(1)
        with instrument(bench.pool, reader.provider):
            assert reader.counts() == {"used": 2}
            await bench.settle(20)
            bench.release(held)
            await bench.settle(1)
            assert not reader.points("wait_time")  # the claim had begun
            assert reader.histogram("create_time").count == 1  # for its second attempt
            assert reader.histogram("use_time").count == 1  # of that
            (point,) = reader.points("qorb_trio.connection.failures")
            assert "server.address" not in (point.attributes or {})


async def test_a_dial_that_runs_already(autojump_clock: MockClock, reader: Reader) -> None:
    """A dial that had begun before the measuring is not timed, and does not count as failed."""
    connector = LedgerConnector()
    connector.script.next("connect", slow(2))
    async with open_bench(policy=ONE, connector=connector) as bench:
        await bench.settle(1)
        with instrument(bench.pool, reader.provider):
            assert reader.counts() == {"connecting": 1}
            await bench.use()
            assert not reader.points("create_time")
            assert not reader.points("qorb_trio.connection.failures")
            assert reader.histogram("wait_time").sum == pytest.approx(1)


async def test_the_end_of_the_pool(autojump_clock: MockClock, reader: Reader) -> None:
    """A pool that has ended is not reported any more, even without `uninstrument`."""
    async with open_bench(policy=ONE) as bench:
        instrument(bench.pool, reader.provider)
        await bench.use()
    assert not reader.points("count")
    assert not reader.points("max")
    assert reader.histogram("use_time").count == 1


async def test_an_instrument_that_was_removed(
    autojump_clock: MockClock, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Metrics that raise harm nobody, and can still be undone."""
    async with open_bench(policy=ONE) as bench:
        with instrument(bench.pool, reader.provider) as undo:
            monkeypatch.setattr(undo._meter, "_claims", None)
            await bench.use()
        await bench.use()
    assert not reader.points("wait_time")


async def test_statistics_that_fail(
    autojump_clock: MockClock,
    nursery: trio.Nursery,
    reader: Reader,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If a pool cannot be looked at, that is logged, and the others are measured."""

    def stats(pool: Pool[Any]) -> PoolStats:
        if pool.name == "bad\x1b":
            raise ZeroDivisionError("a bug in statistics")
        return honest(pool)

    honest = Pool.stats
    async with (
        open_pool(nursery, ManualResolver(), FakeConnector(), name="good") as good,
        open_pool(nursery, ManualResolver(), FakeConnector(), name="bad\x1b") as bad,
    ):
        monkeypatch.setattr(Pool, "stats", stats)
        with instrument(bad, reader.provider), instrument(good, reader.provider):
            for name in ("count", "pending_requests"):
                pools = {(point.attributes or {})[POOL_NAME] for point in reader.points(name)}
                assert pools == {"good"}
            assert len(reader.points("max")) == 2
        monkeypatch.undo()
    assert r"bad\x1b could not be measured" in caplog.text
    assert not [record for record in caplog.records if record.name.startswith("opentelemetry")]


async def test_a_view_has_the_last_word(autojump_clock: MockClock) -> None:
    """Buckets are advice: a view of the program overrides them."""
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    memory = InMemoryMetricReader()
    view = View(
        instrument_name="db.client.connection.use_time",
        aggregation=ExplicitBucketHistogramAggregation([1, 2]),
    )
    provider = MeterProvider([memory], shutdown_on_exit=False, views=[view])
    reader = Reader(provider, memory)
    async with measured(reader) as bench:
        await bench.use(1.5)
        assert reader.histogram("use_time").bucket_counts == (0, 1, 0)
    provider.shutdown()


async def test_the_global_provider(
    autojump_clock: MockClock, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a provider the program's own is taken."""
    monkeypatch.setattr(metrics, "get_meter_provider", lambda: reader.provider)
    async with open_bench(policy=ONE) as bench:
        with instrument(bench.pool):
            await bench.use()
    assert reader.histogram("use_time").count == 1


async def test_providers_are_let_go(autojump_clock: MockClock) -> None:
    """A provider that the program drops is not kept alive."""
    with reading() as it:
        async with measured(it) as bench:
            await bench.use()
        gone = weakref.ref(it.provider)
    del it, bench
    gc.collect()
    assert gone() is None


async def test_wrong_arguments(autojump_clock: MockClock, reader: Reader) -> None:
    """A wrong argument is an error that names it."""
    with pytest.raises(TypeError, match="pool"):
        instrument("pool")  # type: ignore[arg-type]
    async with open_bench() as bench:
        with pytest.raises(TypeError, match="meter_provider"):
            instrument(bench.pool, reader)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="max_backends"):
            instrument(bench.pool, reader.provider, max_backends=-1)
    with pytest.raises(RuntimeError):
        await trio.to_thread.run_sync(instrument, bench.pool, reader.provider)


def test_without_opentelemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the API is not installed, the error says which extra has it."""
    for module in [name for name in sys.modules if name.startswith("qorb_trio.opentelemetry")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(ImportError, match=r"qorb-trio\[otel\]"):
        importlib.import_module("qorb_trio.opentelemetry")


def test_what_is_public() -> None:
    """The module has two public names, which say that they are from there."""
    for name in qorb_trio.opentelemetry.__all__:
        assert getattr(qorb_trio.opentelemetry, name).__module__ == "qorb_trio.opentelemetry"
