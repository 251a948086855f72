"""`Diagnosis`: says why the claims of one pool fail, by the pool's present state."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Final, Generic, TypeVar, final

import attrs
import trio

from .._model.settings import Settings
from .._model.stats import PoolStats
from .._slots.registry import Registry
from .._slots.totals import Totals
from .admission import Reason
from .failure import (
    ClaimFailure,
    balancer_failure,
    full_queue_failure,
    overload_failure,
    suspension_failure,
    termination_failure,
    timeout_failure,
)
from .holders import describe_oldest
from .snapshot import Snapshots

C = TypeVar("C")

#: Up to this number of active backends, each failure has a snapshot of its own.
FEW_BACKENDS: Final = 500

#: Seconds for which a snapshot serves all failures, for each backend of a pool with more. To
#: take it costs some 10 µs for each, so that a flood of failures costs at most 7 % of a core.
#: Refusals are there to keep an overloaded program alive.
REUSE_PER_BACKEND: Final = 1.5e-4


async def _after_checkpoint(failure: ClaimFailure) -> ClaimFailure:
    """Return a failure after others could run: the claimant may try again at once."""
    await trio.lowlevel.checkpoint()
    return failure


@final
@attrs.define(eq=False, repr=False)
class Diagnosis(Generic[C]):
    """Makes the failures of claims, each with a snapshot of the pool."""

    _settings: Settings
    _totals: Totals
    _registry: Registry[C]
    _snapshots: Snapshots[C]
    _crash: BaseException | None = attrs.field(init=False, default=None)
    _is_suspended: bool = attrs.field(init=False, default=False)
    #: The latest failure of each kind, and until when it serves others, in a large pool.
    _kept: dict[object, tuple[float, ClaimFailure]] = attrs.field(init=False, factory=dict)

    def note_crash(self, crash: BaseException | None) -> None:
        """Keep the exception that ends the pool, if one does."""
        self._crash = crash

    def note_suspension(self, *, is_suspended: bool) -> None:
        """Note whether the pool lends nothing on purpose."""
        self._is_suspended = is_suspended

    def timeout(self) -> ClaimFailure:
        """Return why there is no connection."""
        if self._is_suspended:
            return self._recent(suspension_failure)
        totals = self._totals
        # What kind of error it is must be right, however old its statistics are.
        return self._recent(self._timeout, totals.claimed > 0, totals.checking > 0, totals.idle > 0)

    def _timeout(self, stats: PoolStats) -> ClaimFailure:
        return timeout_failure(
            stats,
            self._settings.policy.max_slots,
            self._snapshots.latest_error(),
            describe_oldest(self._registry) if self._totals.claimed else "",
            "" if self._registry.active else self._snapshots.trouble(),
        )

    def _recent(self, make: Callable[[PoolStats], ClaimFailure], *state: bool) -> ClaimFailure:
        """Make a failure; in a large pool, return the one of this state made a moment ago."""
        count = len(self._registry.active)
        if count <= FEW_BACKENDS:
            return make(self._snapshots.take())
        now = trio.current_time()
        until, failure = self._kept.get((make, state), (now, None))
        if failure is None or now >= until:
            failure = make(self._snapshots.take())
            self._kept[make, state] = now + count * REUSE_PER_BACKEND, failure
        return failure

    def refuse(self, reason: Reason) -> Coroutine[Any, Any, ClaimFailure]:
        """Make the failure of a claim that may not wait. It is returned after a checkpoint."""
        if reason is Reason.TOO_MANY_WAIT:
            return _after_checkpoint(self._recent(full_queue_failure))
        return _after_checkpoint(self.timeout())

    def overload(self) -> ClaimFailure:
        """Return the failure of claims that ``queue_target`` refuses."""
        return self._recent(overload_failure)

    def balancer(self, exc: Exception) -> ClaimFailure:
        """Return the failure of a claim for which the balancer has failed."""
        return balancer_failure(self._snapshots.take(), exc)

    def termination(self) -> ClaimFailure:
        """Return the failure of claims on a pool that is ending or has ended."""
        return termination_failure(self._snapshots.take(), self._crash)
