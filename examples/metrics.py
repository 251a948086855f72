"""A pool's metrics, as any OpenTelemetry exporter gets them.

    pip install 'qorb-trio[otel]' opentelemetry-sdk
    python examples/metrics.py

A few clients use a pool of three servers. One server is slow to accept connections, and one
is down. After a while, the program collects the metrics and prints them: they show which
server is which. A real program has an exporter for OTLP or Prometheus in place of the
in-memory reader, and nothing else changes.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import trio
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    HistogramDataPoint,
    InMemoryMetricReader,
    Metric,
    NumberDataPoint,
)

import qorb_trio
import qorb_trio.opentelemetry
from qorb_trio.testing import FakeConnector

GOOD, SLOW, DOWN = "good.test:5432", "slow.test:5432", "down.test:5432"


async def main() -> None:
    """Use a pool for a while, and look at its metrics."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    connector = FakeConnector(connect_delay=0.02)
    connector.slow(SLOW, 0.4)
    connector.fail(DOWN)
    resolver = qorb_trio.FixedResolver([GOOD, SLOW, DOWN])
    policy = qorb_trio.Policy(spares_wanted=1, max_slots=6)
    async with trio.open_nursery() as nursery:
        async with qorb_trio.open_pool(
            nursery, resolver, connector, policy=policy, name="db"
        ) as pool:
            with qorb_trio.opentelemetry.instrument(pool, provider):
                async with trio.open_nursery() as clients:
                    for _ in range(8):
                        clients.start_soon(use, pool)
                    await trio.sleep(1.5)
                    show(reader)
                    clients.cancel_scope.cancel()
    provider.shutdown()


async def use(pool: qorb_trio.Pool[qorb_trio.testing.FakeConnection]) -> None:
    """Claim a connection and use it, again and again."""
    while True:
        async with pool.claim():
            await trio.sleep(random.expovariate(1 / 0.02))
        await trio.sleep(random.expovariate(1 / 0.005))


def show(reader: InMemoryMetricReader) -> None:
    """Collect, and print a line for each series that is not 0."""
    for metric in metrics_of(reader):
        print(f"{metric.name} ({metric.unit})")
        for point in metric.data.data_points:
            labels = dict(point.attributes or {})
            del labels["db.client.connection.pool.name"]
            where = " ".join(str(label) for label in labels.values())
            if isinstance(point, NumberDataPoint) and point.value:
                print(f"    {where:45} {point.value}")
            elif isinstance(point, HistogramDataPoint):
                mean = point.sum / point.count
                print(f"    {where:45} {point.count} times, {mean:.4f} on average")


def metrics_of(reader: InMemoryMetricReader) -> Iterator[Metric]:
    """All metrics that there are."""
    data = reader.get_metrics_data()
    assert data is not None
    for resource in data.resource_metrics:
        for scope in resource.scope_metrics:
            yield from scope.metrics


if __name__ == "__main__":
    trio.run(main)
