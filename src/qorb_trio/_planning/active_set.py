"""`ActiveSet`: the choice of the backends that a pool uses or probes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Generic, final

from .known import KnownBackends
from .plan import View
from .selection import ALL_ACTIVE, A, Change, Selection, is_unused

#: Seconds of back-off after which an untried backend replaces a failing one, at first and
#: at most.
MIN_PATIENCE: Final = 1.0
MAX_PATIENCE: Final = 30.0

#: Seconds of back-off after the first failure of a backend that has replaced a failing one.
#: If it began with milliseconds, a client that knows hundreds of backends would dial each of
#: them seven times within seconds when all are down. Measured with 200 backends and 16 slots:
#: 780 dials in ten seconds of an outage, and 450 with this.
REPLACEMENT_DELAY: Final = 1.0


@final
class ActiveSet(Generic[A]):
    """The choice of the active backends among the known ones.

    A few known backends are all active. Of thousands, the active ones are the first in the
    order by weighted chance, best priority first, and enough to give each wanted connection
    a backend of its own. The next one in the order joins for each failing backend, up to
    two backends per slot. A failing backend leaves at a turn when enough others are usable.
    If there is no room for another one, it leaves in favour of an untried one.
    """

    def __init__(self, known: KnownBackends) -> None:
        self._known = known
        self._selection: Selection[A] | None = None
        #: Number of backends that had connections when this was asked last.
        self._working = 0
        #: Number of failing backends that were replaced since that number grew.
        self._replaced = 0

    def update(self, views: Sequence[A], wanted: int, max_slots: int, now: float) -> Change[A]:
        """Activate backends where too few are usable. Call it before each plan.

        `wanted` is the number of connections that the pool needs, and `now` a time of
        the clock that `View.probe_order` uses. The views must be those of all active
        backends. Costs nothing while all known backends are active.
        """
        if not self._known.has_inactive:
            return Change()
        if len(self._known) <= ALL_ACTIVE:
            return Change(self._known.activate_all())
        selection = self._selection = Selection(self._known, views, wanted, max_slots)
        self._count_working(views)
        selection.fill()
        if selection.blocked:
            self._replace_failing(selection, views, now)
        return selection.change()

    def proceed(self) -> Change[A]:
        """Return the next part of the latest change, which was partial.

        The caller may do other things between two parts.
        """
        assert self._selection is not None
        return self._selection.proceed()

    def _replace_failing(self, selection: Selection[A], views: Sequence[A], now: float) -> None:
        """Let untried backends take the places of those that have failed for longest.

        The patience with them doubles each time as many have been replaced as can be active.
        """
        patience = MIN_PATIENCE * 2.0 ** min(16, self._replaced / selection.maximum)
        patience = min(MAX_PATIENCE, patience)
        tired = [view for view in views if is_unused(view) and _waited(view, now) >= patience]
        tired.sort(key=lambda view: (-_waited(view, now), view.rotation_key))
        tired = tired[: selection.blocked]
        self._replaced += len(tired)
        selection.replace(tired, REPLACEMENT_DELAY if tired else 0.0)

    def _count_working(self, views: Sequence[A]) -> None:
        working = sum([view.connected > 0 for view in views])
        if working > self._working:
            self._replaced = 0
        self._working = working

    def turn(self, views: Sequence[A], wanted: int, max_slots: int) -> Change[A]:
        """Let unused backends leave, and the first ones in the order take their places.

        Call it at each rebalance, before `next_rotation`.
        """
        if not self._known.has_inactive:
            return Change()
        if len(self._known) <= ALL_ACTIVE:
            return Change(self._known.activate_all())
        selection = self._selection = Selection(self._known, views, wanted, max_slots)
        for view in selection.leavers():
            selection.drop(view)
        selection.fill()
        return selection.change()


def _waited(view: View, now: float) -> float:
    """Return how long a backend seems to hang, or how long it is until its next probe."""
    first, second = view.probe_order
    return now - second if view.is_hung else first - now
