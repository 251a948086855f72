"""`PoolMeter`: measures one pool."""

from __future__ import annotations

import contextlib
import logging
import queue
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeAlias, final

import attrs
import trio
from opentelemetry import metrics

from .. import Backend, ClaimTimeoutError, Pool, PoolOverloadedError, PoolStats, is_abandonment
from .._util import log_safely, printable
from ..abc import Instrument
from ._meters import DEPARTED, OPERATION, POOL_NAME, REASON, STATE, STATES, Meters

logger = logging.getLogger("qorb_trio.opentelemetry")

#: The time that a collecting thread waits for the pool's thread, in seconds. After that it
#: uses the latest reading.
PATIENCE: Final = 0.5

#: The address of all backends beyond `max_backends`.
OTHER: Final = "_OTHER"

Address: TypeAlias = "tuple[str, int] | str"
Attributes: TypeAlias = Mapping[str, str | int]


@attrs.frozen
class _Reading:
    """The state of a pool at one instant."""

    waiting: int
    counts: list[metrics.Observation]
    ejected: list[metrics.Observation]


@final
class PoolMeter(Instrument):
    """Measures one pool: records events as they happen, and the pool's state on demand.

    A collector calls the `observe` methods, with most exporters in a thread of its own. The
    pool belongs to Trio's thread, and no other thread could look at it safely at any time. So
    the collecting thread asks Trio's thread to look, and waits for the answer, but not for
    long. Trio's thread may at that time be waiting for the exporter itself, as in
    ``meter_provider.shutdown()``, and without a limit neither thread would ever go on. When the
    time is over, the collecting thread uses the latest answer.

    The alternative, to keep copies of all numbers in step with the events, would add a cost to
    every claim in order to make a collection every few seconds cheaper.
    """

    def __init__(self, pool: Pool[Any], meters: Meters, max_backends: int) -> None:
        self._pool: Pool[Any] = pool
        self._token: trio.lowlevel.TrioToken = trio.lowlevel.current_trio_token()
        self._meters: Meters = meters
        self._max_backends: int = max_backends
        self._whole: Attributes = {POOL_NAME: pool.name}
        self._attributes: dict[Address, Attributes] = {}
        self._latest: _Reading | None = None
        # By the number of the claim or slot: the time of the beginning, and the backend.
        self._claims: dict[int, float] = {}
        self._dials: dict[int, float] = {}
        self._holds: dict[int, tuple[float, Attributes]] = {}
        self._checks: dict[int, Attributes] = {}

    def start(self) -> None:
        self._pool.add_instrument(self)
        self._meters.add(self)

    def stop(self) -> None:
        if self._meters.discard(self):
            with contextlib.suppress(KeyError):  # it has raised, and was removed for it
                self._pool.remove_instrument(self)

    def _of(self, backend: Backend) -> Attributes:
        """Return the attributes of a backend, as far as it has any of its own."""
        known = self._attributes.get(backend.address)
        return self._meet(backend.address) if known is None else known

    def _meet(self, address: Address) -> Attributes:
        if not self._max_backends:
            return self._whole
        if len(self._attributes) >= self._max_backends:
            address = OTHER
            if address in self._attributes:
                return self._attributes[address]
        more: Attributes
        match address:
            case (host, port):
                more = {"server.address": host, "server.port": port}
            case path:
                more = {"server.address": path}
        attributes = self._attributes[address] = {**self._whole, **more}
        return attributes

    # Events.

    def claim_start(self, pool: str, claim_id: int) -> None:
        self._claims[claim_id] = trio.current_time()

    def handle_claimed(self, pool: str, claim_id: int, slot_id: int, backend: Backend) -> None:
        self._holds[slot_id] = trio.current_time(), self._of(backend)

    def claim_done(self, pool: str, claim_id: int, slot_id: int) -> None:
        since, hold = self._claims.pop(claim_id, None), self._holds.get(slot_id)
        if since is not None and hold is not None:
            self._meters.wait_time.record(trio.current_time() - since, hold[1])

    def claim_failed(self, pool: str, claim_id: int, reason: BaseException) -> None:
        self._claims.pop(claim_id, None)
        if isinstance(reason, PoolOverloadedError):
            self._meters.shed.add(1, self._whole)
        elif isinstance(reason, ClaimTimeoutError):
            self._meters.timeouts.add(1, {**self._whole, **_error(reason)})

    def claim_acquire_failed(
        self, pool: str, claim_id: int, slot_id: int, reason: BaseException
    ) -> None:
        hold = self._holds.pop(slot_id, None)  # it was never used
        self._failed("acquire", hold and hold[1], reason)

    def handle_returned(self, pool: str, slot_id: int) -> None:
        if (hold := self._holds.pop(slot_id, None)) is not None:
            self._meters.use_time.record(trio.current_time() - hold[0], hold[1])

    def connect_start(self, pool: str, slot_id: int, backend: Backend) -> None:
        self._dials[slot_id] = trio.current_time()

    def connect_done(self, pool: str, slot_id: int, backend: Backend) -> None:
        if (since := self._dials.pop(slot_id, None)) is not None:
            self._meters.create_time.record(trio.current_time() - since, self._of(backend))

    def connect_failed(
        self, pool: str, slot_id: int, backend: Backend, reason: BaseException
    ) -> None:
        self._dials.pop(slot_id, None)
        self._failed("connect", self._of(backend), reason)

    def health_check_start(self, pool: str, slot_id: int, backend: Backend) -> None:
        self._checks[slot_id] = self._of(backend)

    def health_check_done(self, pool: str, slot_id: int) -> None:
        self._checks.pop(slot_id, None)

    def health_check_failed(self, pool: str, slot_id: int, reason: BaseException) -> None:
        self._failed("health_check", self._checks.pop(slot_id, None), reason)

    def recycle_start(self, pool: str, slot_id: int, backend: Backend) -> None:
        self._checks[slot_id] = self._of(backend)

    def recycle_done(self, pool: str, slot_id: int) -> None:
        self._checks.pop(slot_id, None)

    def recycle_failed(self, pool: str, slot_id: int, reason: BaseException) -> None:
        self._failed("recycle", self._checks.pop(slot_id, None), reason)

    def connection_stale(
        self, pool: str, slot_id: int, backend: Backend, reason: BaseException
    ) -> None:
        self._meters.stale.add(1, self._of(backend))

    def connection_broken(
        self, pool: str, slot_id: int, backend: Backend, reason: BaseException
    ) -> None:
        self._meters.broken.add(1, {**self._of(backend), **_error(reason)})

    def connection_retired(self, pool: str, slot_id: int, backend: Backend, why: str) -> None:
        self._meters.retired.add(1, {**self._of(backend), REASON: why})

    def claim_cut(self, pool: str, slot_id: int, backend: Backend) -> None:
        self._holds.pop(slot_id, None)
        self._meters.cut.add(1, self._of(backend))

    def backend_ejected(self, pool: str, backend: Backend, reason: str, seconds: float) -> None:
        self._meters.ejections.add(1, self._of(backend))

    def backend_restored(self, pool: str, backend: Backend) -> None:
        self._meters.restorations.add(1, self._of(backend))

    def _failed(self, operation: str, of: Attributes | None, reason: BaseException) -> None:
        """Count a failure. `of` is `None` if the work began before the measurement."""
        if not is_abandonment(reason):
            attributes = {**(of or self._whole), OPERATION: operation, **_error(reason)}
            self._meters.failures.add(1, attributes)

    # Observations.

    def observe_count(self) -> Iterable[metrics.Observation]:
        return reading.counts if (reading := self._read()) else ()

    def observe_pending(self) -> Iterable[metrics.Observation]:
        if (reading := self._read()) is not None:
            yield metrics.Observation(reading.waiting, self._whole)

    def observe_ejected(self) -> Iterable[metrics.Observation]:
        return reading.ejected if (reading := self._read()) else ()

    # A policy is frozen, so any thread may read it.

    def observe_max(self) -> Iterable[metrics.Observation]:
        yield metrics.Observation(self._pool.policy.max_slots, self._whole)

    def observe_idle_min(self) -> Iterable[metrics.Observation]:
        policy = self._pool.policy
        yield metrics.Observation(min(policy.spares_wanted, policy.max_slots), self._whole)

    def _read(self) -> _Reading | None:
        """Return the present or a recent state of the pool; `None` if the pool has ended."""
        try:
            here = trio.lowlevel.current_trio_token() is self._token
        except RuntimeError:
            here = False
        if here:
            return self._look()
        answers: queue.SimpleQueue[_Reading | None] = queue.SimpleQueue()
        try:
            self._token.run_sync_soon(lambda: answers.put(self._look()))
            return answers.get(timeout=PATIENCE)
        except queue.Empty:
            return self._latest
        except trio.RunFinishedError:
            self._meters.discard(self)
            return None

    def _look(self) -> _Reading | None:
        """Look at the pool, in the pool's thread."""
        if self._pool.is_closed:
            self.stop()
            self._latest = None
        else:
            try:
                self._latest = self._take_reading(self._pool.stats())
            except Exception as exc:  # noqa: BLE001 - see below
                # Raised here it would end Trio's run, or the collection of other pools.
                name = printable(self._pool.name)
                message = "pool %s could not be measured"
                log_safely(logger, logging.ERROR, message, name, exc_info=exc)
                self._latest = None
        return self._latest

    def _take_reading(self, stats: PoolStats) -> _Reading:
        counts: Counter[tuple[int, str]] = Counter()
        ejected: Counter[int] = Counter()
        by_id = {id(self._whole): self._whole}
        for backend in stats.backends.values():
            attributes = self._of(backend.backend)
            by_id[id(attributes)] = attributes
            ejected[id(attributes)] += backend.ejected_until is not None
            for state, field in STATES.items():
                counts[id(attributes), state] += getattr(backend, field)
        counts[id(self._whole), DEPARTED] = stats.departed
        return _Reading(
            stats.waiting,
            [
                metrics.Observation(count, {**by_id[key], STATE: state})
                for (key, state), count in counts.items()
            ],
            [metrics.Observation(count, by_id[key]) for key, count in ejected.items()],
        )


def _error(exc: BaseException) -> Attributes:
    kind = type(exc)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return {"error.type": f"{module}{kind.__qualname__}"}
