"""`Diagnosis`: says why the claims of one pool fail, by the pool's present state."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Generic, TypeVar, final

import attrs
import trio

from .._model.settings import Settings
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


async def _after_checkpoint(failure: ClaimFailure) -> ClaimFailure:
    """Return a failure after others could run: the claimant may try again at once."""
    await trio.lowlevel.checkpoint()
    return failure


@final
@attrs.define(kw_only=True, eq=False, repr=False)
class Diagnosis(Generic[C]):
    """Makes the failures of claims. Each takes a snapshot of the pool."""

    _settings: Settings
    _totals: Totals
    _registry: Registry[C]
    _snapshots: Snapshots[C]
    _crash: BaseException | None = attrs.field(init=False, default=None)
    _is_suspended: bool = attrs.field(init=False, default=False)

    def note_crash(self, crash: BaseException | None) -> None:
        """Keep the exception that ends the pool, if one does."""
        self._crash = crash

    def note_suspension(self, *, is_suspended: bool) -> None:
        """Note whether the pool lends nothing on purpose."""
        self._is_suspended = is_suspended

    def timeout(self) -> ClaimFailure:
        """Return why there is no connection."""
        if self._is_suspended:
            return suspension_failure(self._snapshots.take())
        return timeout_failure(
            self._snapshots.take(),
            self._settings.policy.max_slots,
            self._snapshots.latest_error(),
            describe_oldest(self._registry) if self._totals.claimed else "",
            "" if self._registry.active else self._snapshots.trouble(),
        )

    def refuse(self, reason: Reason) -> Coroutine[Any, Any, ClaimFailure]:
        """Make the failure of a claim that may not wait. It is returned after a checkpoint."""
        if reason is Reason.TOO_MANY_WAIT:
            return _after_checkpoint(full_queue_failure(self._snapshots.take()))
        return _after_checkpoint(self.timeout())

    def overload(self) -> ClaimFailure:
        """Return the failure of claims that ``queue_target`` refuses."""
        return overload_failure(self._snapshots.take())

    def balancer(self, exc: Exception) -> ClaimFailure:
        """Return the failure of a claim for which the balancer has failed."""
        return balancer_failure(self._snapshots.take(), exc)

    def termination(self) -> ClaimFailure:
        """Return the failure of claims on a pool that is ending or has ended."""
        return termination_failure(self._snapshots.take(), self._crash)
