"""A pool's metrics for OpenTelemetry, by the names of its semantic conventions.

    pip install 'qorb-trio[otel]'

The one function is `instrument`. The names and attributes are those of
https://opentelemetry.io/docs/specs/semconv/database/database-metrics/#connection-pools.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, final

try:
    from opentelemetry import metrics
except ImportError as _error:
    raise ImportError(
        "qorb_trio.opentelemetry needs the OpenTelemetry API: pip install 'qorb-trio[otel]'"
    ) from _error

from .. import Pool as _Pool, _util, _validation as _check
from . import _meters, _pool_meter

__all__ = ["Instrumentation", "instrument"]


def instrument(
    pool: _Pool[Any],
    meter_provider: metrics.MeterProvider | None = None,
    *,
    max_backends: int = 100,
) -> Instrumentation:
    """Measure a pool from now on until it ends.

    Several pools may be instrumented with one provider if their names differ. Calling it twice
    for one pool counts everything twice.

    Args:
      pool: the pool.
      meter_provider: the receiver of the metrics; by default the program's global one.
      max_backends: the maximum number of backends with series of their own, which have the
        attributes ``server.address`` and ``server.port``; 100 by default. Further backends
        share the address ``"_OTHER"``, because a service whose backends come and go would
        otherwise leave ever more series behind. With 0 only the pool as a whole is measured.

    Returns:
      An `Instrumentation`, to undo it; also a context manager that does so.

    Raises:
      ImportError: when this module is imported, if the OpenTelemetry API is missing.
      RuntimeError: if it is called outside of `trio.run`.
      TypeError, ValueError: for wrong arguments.
    """
    _check.instance("pool", pool, _Pool)
    if meter_provider is not None:
        _check.instance("meter_provider", meter_provider, metrics.MeterProvider)
    _check.count("max_backends", max_backends)
    meters = _meters.meters_of(meter_provider or metrics.get_meter_provider())
    return Instrumentation._create(_pool_meter.PoolMeter(pool, meters, max_backends))


@final
class Instrumentation(metaclass=_util.NoPublicConstructor):
    """The measurement of a pool. Made by `instrument`."""

    def __init__(self, meter: _pool_meter.PoolMeter) -> None:
        self._meter: _pool_meter.PoolMeter = meter
        meter.start()

    def uninstrument(self) -> None:
        """Stop measuring. The counts so far stay; a second call does nothing."""
        self._meter.stop()

    def __enter__(self) -> Instrumentation:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.uninstrument()
