"""Reads what an in-memory reader has collected."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import attrs
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    HistogramDataPoint,
    InMemoryMetricReader,
    Metric,
    MetricsData,
    NumberDataPoint,
)

POOL_NAME = "db.client.connection.pool.name"
STATE = "db.client.connection.state"


@attrs.frozen
class Reader:
    """A meter provider that keeps its metrics, and what there is in it."""

    provider: MeterProvider
    memory: InMemoryMetricReader

    def metrics(self) -> dict[str, Metric]:
        """All metrics, by name, as they are now."""
        data = self.memory.get_metrics_data()
        return {
            metric.name: metric
            for resource in (data or MetricsData([])).resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def points(self, name: str, **attributes: object) -> list[NumberDataPoint | HistogramDataPoint]:
        """The points of one metric that have these attributes, with "_" for each dot."""
        metric = self.metrics().get(f"db.client.connection.{name}") or self.metrics().get(name)
        wanted = {key.replace("_", "."): value for key, value in attributes.items()}
        points = [] if metric is None else list(metric.data.data_points)
        return [
            point
            for point in points
            if isinstance(point, NumberDataPoint | HistogramDataPoint)
            and wanted.items() <= dict(point.attributes or {}).items()
        ]

    def value(self, name: str, **attributes: object) -> float:
        """The sum of the points of a counter."""
        points = self.points(name, **attributes)
        return sum(point.value for point in points if isinstance(point, NumberDataPoint))

    def counts(self, **attributes: object) -> dict[str, float]:
        """``db.client.connection.count`` by state, where it is not 0."""
        found: dict[str, float] = {}
        for point in self.points("count", **attributes):
            assert isinstance(point, NumberDataPoint)
            state = str((point.attributes or {})[STATE])
            found[state] = found.get(state, 0) + point.value
        return {state: count for state, count in found.items() if count}

    def histogram(self, name: str, **attributes: object) -> HistogramDataPoint:
        """The one point of a histogram."""
        (point,) = self.points(name, **attributes)
        assert isinstance(point, HistogramDataPoint)
        return point


@contextmanager
def reading() -> Iterator[Reader]:
    """A provider for the time of a test."""
    memory = InMemoryMetricReader()
    provider = MeterProvider([memory], shutdown_on_exit=False)
    yield Reader(provider, memory)
    provider.shutdown()
