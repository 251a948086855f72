"""`Returns`: decides what becomes of a connection whose claim has ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar, final

import attrs
import trio

from .._balancing.candidates import candidate_of
from .._connections.checker import Checker
from .._connections.closer import Closer
from .._connections.guarded_hooks import GuardedHooks
from .._connections.hooks import Hooks
from .._connections.retirement import Retirement
from .._connections.verdicts import Verdicts
from .._planning.targets import Targets
from .._slots.slot_set import Slot, SlotSet
from .._slots.state import CLAIMED
from .._slots.totals import Totals

if TYPE_CHECKING:
    from .._balancing.guarded_balancer import Observe

C = TypeVar("C")


@final
@attrs.define(eq=False, repr=False)
class Returns(Generic[C]):
    """The connections that come back to one pool. The dispatcher is its only user.

    A connection that comes back is lent again, cleaned, or closed. This class also tells the
    balancer and the verdicts how the claim went.
    """

    _hooks: Hooks[C]
    _totals: Totals
    _targets: Targets
    _guarded_hooks: GuardedHooks[C]
    _checker: Checker[C]
    _closer: Closer[C]
    _verdicts: Verdicts[C]
    _retirement: Retirement[C]
    #: Is told how long claims are held, if the balancer wants to know.
    observe: Observe[SlotSet[C]] | None
    #: Called when `is_plain` may have changed. The dispatcher's.
    on_change: Callable[[], None] = attrs.field(init=False)
    #: True as soon as a holder has given a verdict.
    _has_reports: bool = attrs.field(init=False, default=False)

    @property
    def need_inspection(self) -> bool:
        """True if a connection that comes back may be broken, unclean or too old."""
        return self._hooks.inspects_returned or self._retirement.limits_lives

    @property
    def has_readers(self) -> bool:
        """True if more than the balancer is told of a claim that ends without an exception."""
        return self._has_reports or self._hooks.has_should_recycle

    def judge(self, slot: Slot[C], exc: BaseException | None) -> bool:
        """Record the verdict on a claim that `exc` has ended, if there was an exception.

        Return True if the connection may be lent again.
        """
        failed = self._verdicts.claim_ended(slot, exc, is_kept=True)
        self.tell_balancer(slot, exc, failed=failed)
        if self._hooks.has_should_recycle:
            return self._guarded_hooks.should_recycle(slot, exc)
        return exc is None

    def discard(self, slot: Slot[C], exc: BaseException | None) -> None:
        """Close a connection that its holder does not want to be lent again."""
        self._verdicts.claim_ended(slot, exc, is_kept=False)
        self._closer.close(slot)

    def keep(self, slot: Slot[C], holder: trio.lowlevel.Task | None) -> bool:
        """Return True if a connection may be lent again now; else close it, or have it cleaned.

        `holder` is the task that has given it back.
        """
        if slot.expiry is not None and self._retirement.is_over(slot):
            self._closer.close(slot)
            return False
        if self._hooks.inspects_returned:
            if self._closer.close_if_broken(slot, holder):
                return False
            if self._hooks.has_on_recycle and self._guarded_hooks.needs_recycle(slot):
                self._checker.recycle(slot)
                return False
            slot.mark_idle(trio.current_time())
        return True

    def reclaim_if_needed(self, slot: Slot[C]) -> bool:
        """Close a free connection, though claimants wait, if another backend needs its place.

        Return True if it was closed. The last connection is never reclaimed.
        """
        if not slot.slot_set.is_reclaimable or self._totals.connected <= 1:
            return False
        self._targets.take_reclaim()
        self._closer.close(slot)
        return True

    # What is said of a claim.

    def report(self, slot: Slot[C], *, failed: bool) -> None:
        """Adopt the holder's own verdict on its claim."""
        self._verdicts.report(slot, failed=failed)
        self._has_reports = True  # from now on, even if ejection is off
        self.on_change()

    def tell_balancer(
        self, slot: Slot[C], exc: BaseException | None, *, failed: bool | None = None
    ) -> None:
        """Tell the balancer how long a claim was held. A claim that was cut short says nothing.

        `failed` is the verdict. An exception counts as a failure here even if it is none of the
        backend's, because a body that it ended early says little about the backend's speed.
        """
        if self.observe is None or slot.state is not CLAIMED:
            return
        if exc is None or isinstance(exc, Exception):
            now, candidate = trio.current_time(), candidate_of(slot.slot_set)
            self.observe(candidate, now - slot.claimed_at, exc is not None or bool(failed), now)
