"""Metrics that are collected in a thread that is not Trio's, as exporters do."""

from __future__ import annotations

import urllib.request
from functools import partial

import pytest
import trio
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    InMemoryMetricReader,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
)
from prometheus_client import start_http_server
from prometheus_client.parser import text_string_to_metric_families

import qorb_trio
from qorb_trio.opentelemetry import _pool_meter, instrument
from qorb_trio.testing import FakeConnector, ManualResolver

from .kit import Reader, reading

POLICY = qorb_trio.Policy(spares_wanted=2, max_slots=4)


@pytest.mark.real
async def test_another_thread_sees_what_trios_thread_sees(nursery: trio.Nursery) -> None:
    """A collecting thread gets the numbers of that moment, looked up in Trio's thread."""
    resolver = ManualResolver(["a.test:80"])
    with reading() as reader:
        async with qorb_trio.open_pool(nursery, resolver, FakeConnector(), policy=POLICY) as pool:
            await pool.wait_ready(2)
            with instrument(pool, reader.provider):
                async with pool.claim():
                    await pool.wait_ready(3)
                    there = await trio.to_thread.run_sync(reader.counts)
                    assert there == reader.counts() == {"used": 1, "idle": 2}
                    pending = partial(reader.value, "pending_requests")
                    assert await trio.to_thread.run_sync(pending) == 0


@pytest.mark.real
async def test_while_trio_waits_for_the_exporter(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shutdown that blocks Trio's thread ends, and exports what is known."""
    monkeypatch.setattr(_pool_meter, "PATIENCE", 0.01)
    exported: list[MetricsData] = []

    class Exporter(MetricExporter):
        def export(
            self, metrics_data: MetricsData, timeout_millis: float = 0, **kwargs: object
        ) -> MetricExportResult:
            exported.append(metrics_data)
            return MetricExportResult.SUCCESS

        def force_flush(self, timeout_millis: float = 0) -> bool:
            return True

        def shutdown(self, timeout_millis: float = 0, **kwargs: object) -> None:
            pass

    periodic = PeriodicExportingMetricReader(Exporter(), export_interval_millis=3_600_000)
    memory = InMemoryMetricReader()
    provider = MeterProvider([periodic, memory], shutdown_on_exit=False)
    reader = Reader(provider, memory)
    resolver = ManualResolver(["a.test:80"])
    async with qorb_trio.open_pool(nursery, resolver, FakeConnector(), policy=POLICY) as pool:
        await pool.wait_ready(2)
        with instrument(pool, provider):
            async with pool.claim():
                await pool.wait_ready(3)
                known = reader.counts()
                assert known == {"used": 1, "idle": 2}
            assert pool.stats().backends["a.test:80"].claimed == 0
            provider.shutdown()  # blocks, and has another thread collect
    names = {
        metric.name: metric
        for data in exported
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    count = names["db.client.connection.count"]
    states = {
        str((point.attributes or {})["db.client.connection.state"]): point.value  # type: ignore[union-attr]
        for point in count.data.data_points
    }
    # Nobody could look, so this is what was seen the last time.
    assert {state: value for state, value in states.items() if value} == known


@pytest.mark.real
def test_after_trio_has_ended() -> None:
    """After the end of the run there are no numbers, and the collector does not wait."""
    with reading() as reader:

        async def main() -> None:
            async with trio.open_nursery() as nursery:
                resolver = ManualResolver(["a.test:80"])
                async with qorb_trio.open_pool(nursery, resolver, FakeConnector()) as pool:
                    instrument(pool, reader.provider)
                    async with pool.claim():
                        assert reader.counts()["used"] == 1

        trio.run(main)
        assert not reader.points("count")
        assert not reader.points("max")
        assert reader.histogram("use_time").count == 1


@pytest.mark.real
async def test_prometheus(nursery: trio.Nursery) -> None:
    """A Prometheus exporter, scraped over HTTP, has the metrics by its own manners."""
    reader = PrometheusMetricReader()  # in the registry of the process, until its shutdown
    provider = MeterProvider([reader], shutdown_on_exit=False)
    server, thread = start_http_server(0, "127.0.0.1")
    url = f"http://127.0.0.1:{server.server_port}/metrics"

    def scrape() -> str:
        with urllib.request.urlopen(url, timeout=20) as answer:
            body: bytes = answer.read()
        return body.decode()

    try:
        resolver = ManualResolver(["a.test:80", "b.test:80"])
        async with qorb_trio.open_pool(
            nursery, resolver, FakeConnector(), policy=POLICY, name="db"
        ) as pool:
            with instrument(pool, provider):
                await pool.wait_ready(2)
                async with pool.claim():
                    await pool.wait_ready(3)
                async with pool.claim():
                    text = await trio.to_thread.run_sync(scrape)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        provider.shutdown()
    assert not thread.is_alive()
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    name = ("db_client_connection_pool_name", "db")

    def value(metric: str, **labels: str) -> float:
        return sum(
            number
            for (found, *pairs), number in samples.items()
            if found == metric and {*labels.items(), name} <= set(pairs)
        )

    assert value("db_client_connection_count", db_client_connection_state="used") == 1
    assert value("db_client_connection_count", db_client_connection_state="idle") == 2
    assert value("db_client_connection_count", server_address="a.test", server_port="80") >= 1
    assert value("db_client_connection_max") == 4
    assert value("db_client_connection_pending_requests") == 0
    assert value("db_client_connection_wait_time_seconds_count") == 2
    assert value("db_client_connection_use_time_seconds_count") == 1
    assert value("db_client_connection_create_time_seconds_count") >= 3
    assert value("db_client_connection_wait_time_seconds_bucket", le="+Inf") == 2
