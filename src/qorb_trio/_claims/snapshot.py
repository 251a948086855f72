"""Statistics: snapshots of a pool and of its backends."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar, final

import attrs
import trio

from .._model.stats import BackendStats, PoolStats
from .._planning.known import KnownBackends
from .._slots.registry import Registry
from .._slots.slot_set import SlotSet
from .._slots.totals import Totals
from .wait_queue import WaitQueue

C = TypeVar("C")


@final
@attrs.define(eq=False, repr=False)
class Snapshots(Generic[C]):
    """Takes the snapshots of one pool. The cost of one grows with the number of backends."""

    _pool: str
    _registry: Registry[C]
    _totals: Totals
    _queue: WaitQueue[Any]
    #: All backends that the resolver knows. The membership's.
    known: KnownBackends = attrs.field(init=False)
    _resolution: Callable[[], object] = attrs.field(init=False, factory=lambda: lambda: None)
    _ended_at: float | None = attrs.field(init=False, default=None)

    def start(self, resolution: Callable[[], object]) -> None:
        """Include what the resolver tells of itself from now on."""
        self._resolution = resolution

    def end(self) -> None:
        """Date everything from now on by the pool's end: Trio may have ended too."""
        self._ended_at = trio.current_time()
        self._resolution = lambda: None

    @property
    def is_live(self) -> bool:
        """True until the pool has ended. To take one asks Trio for its time until then."""
        return self._ended_at is None

    def take(self) -> PoolStats:
        """Return a snapshot."""
        registry, active = self._registry, self._registry.active
        now = self._now()
        return PoolStats(
            name=self._pool,
            claims=registry.claims,
            waiting=self._queue.waiting,
            shed=self._queue.admission.shed,
            slots=self._totals.slots,
            departed=self._totals.slots - sum([len(it.slots) for it in active.values()]),
            known=len(self.known),
            backends={it.backend.name: _backend_stats(it, now) for it in self._in_order()},
            resolution=self._resolve(),
        )

    def _in_order(self) -> Iterable[SlotSet[C]]:
        """Return the active slot sets, in the resolver's order, which a later set may change."""
        position = self.known.position
        active = self._registry.active.values()
        return sorted(active, key=lambda slot_set: position(slot_set.backend.name))

    def _now(self) -> float:
        # Before the pool has started there is nothing to date.
        if self._ended_at is not None:
            return self._ended_at
        return trio.current_time() if self._registry.active else 0.0

    def trouble(self) -> str:
        """Return why there is no backend, where the resolver says it."""
        trouble = getattr(self._resolve(), "trouble", None)
        return trouble if isinstance(trouble, str) else ""

    def _resolve(self) -> object:
        try:
            return self._resolution()
        except Exception:  # noqa: BLE001 - the user's code, and only a hint
            return None

    def latest_error(self) -> Exception | None:
        """Return the error of the latest failed connect; without one, the latest other failure.

        While backends are down, connections to them fail to close too, and that error does
        not say why there are none.
        """
        detectors = [it.detector for it in self._registry.active.values()]
        met = [(it.connect_error_at, it.connect_error) for it in detectors if it.connect_error]
        met = met or [(it.last_error_at, it.last_error) for it in detectors if it.last_error]
        return max(met, key=lambda it: it[0], default=(0.0, None))[1]


def _backend_stats(slot_set: SlotSet[Any], now: float) -> BackendStats:
    detector, ejector = slot_set.detector, slot_set.ejector
    return BackendStats(
        backend=slot_set.backend,
        online=slot_set.connected > 0,
        connecting=slot_set.connecting,
        unclaimed=slot_set.idle,
        checking=slot_set.connected - slot_set.idle - slot_set.claimed,
        claimed=slot_set.claimed,
        closing=slot_set.closing,
        wanted=slot_set.wanted,
        total_claims=slot_set.total_claims,
        failed_claims=slot_set.failed_claims,
        failures=detector.recent_failures(now),
        stale=slot_set.stale,
        retiring=slot_set.retiring,
        ejected_until=None if ejector is None else ejector.ejected_until,
        last_error=detector.last_error,
    )
