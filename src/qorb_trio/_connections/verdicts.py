"""`Verdicts`: decides of each claim that ends whether its backend served it well."""

from __future__ import annotations

from typing import Generic, TypeVar, final

import attrs
import trio

from .._slots.slot_set import Slot
from .._slots.state import CLAIMED
from .ejections import Ejections
from .guarded_hooks import GuardedHooks

C = TypeVar("C")


@final
@attrs.define(eq=False, repr=False)
class Verdicts(Generic[C]):
    """The verdicts on the claims of one pool.

    A verdict is good, bad, or there is none. The holder of a claim may give it before the end.
    Otherwise a body that ended without an exception is good, and one that `Connector.is_failure`
    holds against the backend is bad.
    """

    _guarded_hooks: GuardedHooks[C]
    _ejections: Ejections[C]
    #: Verdicts that holders have given on claims which they still hold. True if it failed.
    reports: dict[Slot[C], bool] = attrs.field(init=False, factory=dict)

    def report(self, slot: Slot[C], *, failed: bool) -> None:
        """Adopt the holder's verdict on its claim; the last one counts."""
        if slot.state is CLAIMED:  # else the pool has ended, and has closed it
            self.reports[slot] = failed

    def claim_ended(
        self, slot: Slot[C], exc: BaseException | None, *, is_kept: bool
    ) -> bool | None:
        """Record the verdict on a claim that has been ended by `exc`, if any, and return it.

        `is_kept`: the claim had been granted and was not discarded, so that its end tells.
        The result is True if the claim failed, and `None` if there is no verdict.
        """
        failed = self.reports.pop(slot, None)
        if failed is None and is_kept:
            failed = self._failed(slot, exc)
        if failed:
            slot.slot_set.count_failed_claim()
        if failed is None:
            self._ejections.end_trial(slot)
        else:
            self._ejections.record(slot, failed=failed)
        return failed

    def _failed(self, slot: Slot[C], exc: BaseException | None) -> bool | None:
        """Return True if a claim has failed, and `None` if its end says nothing."""
        if exc is None:
            return False
        return None if _is_cancelled(exc) else self._guarded_hooks.is_failure(slot, exc) or None


def _is_cancelled(exc: BaseException) -> bool:
    """Return True for a cancellation, and for a group that has one."""
    if isinstance(exc, BaseExceptionGroup):
        return exc.subgroup(trio.Cancelled) is not None
    return isinstance(exc, trio.Cancelled)
