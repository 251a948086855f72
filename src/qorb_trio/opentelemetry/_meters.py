"""`Meters`: the metrics of pools, with their names, units and buckets, once per provider."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Final, Protocol, final

from opentelemetry import metrics

PREFIX: Final = "db.client.connection"
POOL_NAME: Final = f"{PREFIX}.pool.name"
STATE: Final = f"{PREFIX}.state"
OPERATION: Final = "qorb_trio.operation"
REASON: Final = "qorb_trio.reason"
FAILURES: Final = "qorb_trio.connection.failures"

#: The names of a slot's states. The conventions have two states and allow for others.
STATES: Final = {
    "used": "claimed",
    "idle": "unclaimed",
    "checking": "checking",
    "connecting": "connecting",
    "closing": "closing",
}
#: The state of slots of backends that are no longer in the resolver's set.
DEPARTED: Final = "departed"

# Advice, which a view of the program overrides. The bounds are in seconds, about three for each
# decade, up to the default of the timeout that applies. A spare is claimed in microseconds.
CREATE_BUCKETS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
WAIT_BUCKETS: Final = (
    0.0001,
    0.001,
    0.002,
    0.005,
    0.01,
    0.02,
    0.05,
    0.1,
    0.2,
    0.5,
    1,
    2,
    5,
    10,
    30,
)
USE_BUCKETS: Final = (
    0.001,
    0.002,
    0.005,
    0.01,
    0.02,
    0.05,
    0.1,
    0.2,
    0.5,
    1,
    2,
    5,
    10,
    30,
    60,
    300,
)


class Observed(Protocol):
    """A pool that is being measured. Its methods may be called by any thread."""

    def observe_count(self) -> Iterable[metrics.Observation]: ...

    def observe_pending(self) -> Iterable[metrics.Observation]: ...

    def observe_max(self) -> Iterable[metrics.Observation]: ...

    def observe_idle_min(self) -> Iterable[metrics.Observation]: ...

    def observe_ejected(self) -> Iterable[metrics.Observation]: ...


@final
class Meters:
    """The metrics of one provider. All pools that are measured with it share them.

    An observable metric can neither be removed nor be created twice. So it is created once,
    and asks the pools that are being measured at the time.
    """

    def __init__(self, provider: metrics.MeterProvider) -> None:
        #: Never changed, only replaced, under the lock: collecting threads read it.
        self._pools: tuple[Observed, ...] = ()
        self._lock: threading.Lock = threading.Lock()
        meter = provider.get_meter("qorb_trio")
        self.create_time: metrics.Histogram = meter.create_histogram(
            f"{PREFIX}.create_time",
            "s",
            "The time it took to create a new connection.",
            explicit_bucket_boundaries_advisory=CREATE_BUCKETS,
        )
        self.wait_time: metrics.Histogram = meter.create_histogram(
            f"{PREFIX}.wait_time",
            "s",
            "The time it took to obtain an open connection from the pool.",
            explicit_bucket_boundaries_advisory=WAIT_BUCKETS,
        )
        self.use_time: metrics.Histogram = meter.create_histogram(
            f"{PREFIX}.use_time",
            "s",
            "The time between borrowing a connection and returning it to the pool.",
            explicit_bucket_boundaries_advisory=USE_BUCKETS,
        )
        self.timeouts: metrics.Counter = meter.create_counter(
            f"{PREFIX}.timeouts", "{timeout}", "The number of claims that timed out."
        )
        self.failures: metrics.Counter = meter.create_counter(
            FAILURES,
            "{failure}",
            "The number of connections that could not be made, or failed between claims.",
        )
        self.stale: metrics.Counter = meter.create_counter(
            "qorb_trio.connection.stale",
            "{connection}",
            "The number of idle connections that the backend closed.",
        )
        self.broken: metrics.Counter = meter.create_counter(
            "qorb_trio.connection.broken",
            "{connection}",
            "The number of connections that were found broken.",
        )
        self.retired: metrics.Counter = meter.create_counter(
            "qorb_trio.connection.retired",
            "{connection}",
            "The number of connections that became due for replacement.",
        )
        self.shed: metrics.Counter = meter.create_counter(
            "qorb_trio.claim.shed",
            "{claim}",
            "The number of claims that were refused because of overload.",
        )
        self.cut: metrics.Counter = meter.create_counter(
            "qorb_trio.claim.cut",
            "{claim}",
            "The number of claims whose connection was closed at the end of the pool.",
        )
        self.ejections: metrics.Counter = meter.create_counter(
            "qorb_trio.backend.ejections",
            "{ejection}",
            "The number of times that a backend was ejected because its claims failed.",
        )
        self.restorations: metrics.Counter = meter.create_counter(
            "qorb_trio.backend.restorations",
            "{restoration}",
            "The number of times that an ejected backend got claims again.",
        )
        self._observe(meter)

    def _observe(self, meter: metrics.Meter) -> None:
        for name, unit, description, observe in (
            (
                f"{PREFIX}.count",
                "{connection}",
                "The number of connections that are in the state described by the attribute.",
                lambda pool: pool.observe_count(),
            ),
            (
                f"{PREFIX}.pending_requests",
                "{request}",
                "The number of claims that wait for a connection.",
                lambda pool: pool.observe_pending(),
            ),
            (
                f"{PREFIX}.max",
                "{connection}",
                "The maximum number of open connections allowed.",
                lambda pool: pool.observe_max(),
            ),
            (
                f"{PREFIX}.idle.max",
                "{connection}",
                "The maximum number of idle open connections allowed.",
                lambda pool: pool.observe_max(),
            ),
            (
                f"{PREFIX}.idle.min",
                "{connection}",
                "The number of idle connections that the pool strives for.",
                lambda pool: pool.observe_idle_min(),
            ),
            (
                "qorb_trio.backend.ejected",
                "{backend}",
                "The number of backends that are ejected.",
                lambda pool: pool.observe_ejected(),
            ),
        ):
            callback = self._callback(observe)
            meter.create_observable_up_down_counter(name, [callback], unit, description)

    def add(self, pool: Observed) -> None:
        """Include this pool from now on."""
        with self._lock:
            self._pools = (*self._pools, pool)

    def discard(self, pool: Observed) -> bool:
        """Leave this pool out from now on; return True if it was included before."""
        with self._lock:
            before = self._pools
            self._pools = tuple(one for one in before if one is not pool)
            return len(self._pools) < len(before)

    def _callback(
        self, observe: Callable[[Observed], Iterable[metrics.Observation]]
    ) -> Callable[[metrics.CallbackOptions], Iterable[metrics.Observation]]:
        def callback(_options: metrics.CallbackOptions) -> Iterable[metrics.Observation]:
            return [one for pool in self._pools for one in observe(pool)]

        return callback


_METERS: Final[weakref.WeakKeyDictionary[metrics.MeterProvider, Meters]] = (
    weakref.WeakKeyDictionary()
)


def meters_of(provider: metrics.MeterProvider) -> Meters:
    if (meters := _METERS.get(provider)) is None:
        meters = _METERS[provider] = Meters(provider)
    return meters
