"""`ActiveSet`: which of the known backends a pool uses or probes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Generic, Protocol, TypeVar, final

import attrs

from .._model.backend import Backend
from .known import KnownBackends
from .plan import View

#: Up to this number of known backends, and two per slot, all of them are active.
ALL_ACTIVE: Final = 64

#: Minimum number of usable backends that should be active.
MIN_ACTIVE: Final = 16

#: Seconds of back-off after which an untried backend replaces a failing one, at first and
#: at most.
MIN_PATIENCE: Final = 1.0
MAX_PATIENCE: Final = 30.0


class ActiveView(View, Protocol):
    """An active backend as the `ActiveSet` sees it."""

    @property
    def backend(self) -> Backend:
        """The backend."""


A = TypeVar("A", bound=ActiveView)


@final
@attrs.define
class Change(Generic[A]):
    """The backends to activate, and the views to give up."""

    activate: list[Backend] = attrs.field(factory=list)
    """Backends that need a slot set, in their order."""

    deactivate: list[A] = attrs.field(factory=list)
    """Views without connections. Their dials must be given up."""


@final
class ActiveSet(Generic[A]):
    """The choice of the active backends.

    They are the first ones in the order by weighted chance, best priority first, and
    enough to give each wanted connection a backend of its own. The next one in the
    order joins for each failing backend, up to two backends per slot. A failing backend
    leaves when enough others are usable, or in favour of an untried one.
    """

    def __init__(self, known: KnownBackends) -> None:
        self._known = known
        #: Number of backends that had connections when this was asked last.
        self._working = 0
        #: Number of failing backends that were replaced since that number grew.
        self._replaced = 0

    def update(self, views: Sequence[A], wanted: int, max_slots: int, now: float) -> Change[A]:
        """Activate backends where too few are usable. Call it before each plan.

        `wanted` is the number of connections that the pool needs, and `now` a time of
        the clock that `View.probe_order` uses. The views must be those of all active
        backends.
        """
        if not self._known.priorities():
            return Change()
        self._count_working(views)
        selection = _Selection(self._known, views, wanted, max_slots)
        selection.fill()
        if selection.blocked:
            patience = MIN_PATIENCE * 2.0 ** min(16, self._replaced / selection.maximum)
            patience = min(MAX_PATIENCE, patience)
            tired = [v for v in views if _is_unused(v) and _waited(v, now) >= patience]
            tired.sort(key=lambda view: (-_waited(view, now), view.rotation_key))
            for view in tired[: selection.blocked]:
                self._replaced += 1
                selection.drop(view)
            selection.fill()
        return selection.change()

    def _count_working(self, views: Sequence[A]) -> None:
        working = sum([view.connected > 0 for view in views])
        if working > self._working:
            self._replaced = 0
        self._working = working

    def turn(
        self, views: Sequence[A], planned: Mapping[A, int], wanted: int, max_slots: int
    ) -> Change[A]:
        """Let unused backends leave, and the first ones in the order take their places.

        Call it at each rebalance, before `next_rotation`. `planned` is `Plan.wanted`.
        """
        selection = _Selection(self._known, views, wanted, max_slots)
        if not selection.is_everything:
            for view in selection.leavers(planned):
                selection.drop(view)
        selection.fill()
        return selection.change()


def _is_unused(view: View) -> bool:
    """Return True if a failing backend has nothing but dials."""
    return view.is_failing and not (view.connected or view.closing)


def _waited(view: View, now: float) -> float:
    """Return how long a backend seems to hang, or how long it is until its next probe."""
    first, second = view.probe_order
    return now - second if view.is_hung else first - now


@final
class _Tier:
    """The active backends of one priority."""

    def __init__(self) -> None:
        self.sound = 0
        self.failing = 0
        self.connected = 0

    def count(self, view: View, change: int) -> None:
        if view.is_failing or view.is_ejected:
            self.failing += change
        else:
            self.sound += change
        self.connected += change * bool(view.connected)

    @property
    def size(self) -> int:
        return self.sound + self.failing


@final
class _Selection(Generic[A]):
    """One decision: the active backends, and how many there should be."""

    def __init__(
        self, known: KnownBackends, views: Sequence[A], wanted: int, max_slots: int
    ) -> None:
        self._known = known
        self._views = views
        self.maximum = max(MIN_ACTIVE, 2 * max_slots)
        self.is_everything = len(known) <= min(self.maximum, ALL_ACTIVE)
        self._target = min(self.maximum, max(MIN_ACTIVE, wanted + 1))
        self._tiers: dict[int, _Tier] = {}
        for view in views:
            self._tier(view.priority).count(view, 1)
        self._change: Change[A] = Change()
        #: Number of backends that should join, but have no room.
        self.blocked = 0

    def _tier(self, priority: int) -> _Tier:
        tier = self._tiers.get(priority)
        if tier is None:
            tier = self._tiers[priority] = _Tier()
        return tier

    def fill(self) -> None:
        """Activate the next backends until enough are usable, or there is no more room.

        A worse priority is used if no active backend of a better one is usable.
        """
        missing = len(self._known) if self.is_everything else self._target
        free = self.maximum - sum([tier.size for tier in self._tiers.values()])
        left = self.maximum
        waiting = 0
        for priority in sorted({*self._tiers, *self._known.priorities()}):
            tier = self._tier(priority)
            missing -= tier.sound
            # Until one of a priority has connected, half of the room is for worse ones.
            share = left if tier.connected or self.is_everything else max(1, left // 2)
            added = self._activate(priority, min(missing, share - tier.size, free))
            missing -= added
            free -= added
            left -= tier.size
            waiting += self._known.inactive(priority)
            if (tier.sound or tier.connected) and not self.is_everything:
                break
        self.blocked = max(0, min(missing, waiting))

    def _activate(self, priority: int, count: int) -> int:
        """Activate at most `count` backends of a priority; return how many."""
        for done in range(count):
            backend = self._known.activate_next(priority)
            if backend is None:
                return done
            self._change.activate.append(backend)
            self._tier(priority).sound += 1
        return max(0, count)

    def drop(self, view: A) -> None:
        """Let a view leave. A failing one loses its place in the order."""
        self._tier(view.priority).count(view, -1)
        self._change.deactivate.append(view)
        if view.is_failing:
            self._known.postpone(view.backend)
        else:
            self._known.deactivate(view.backend)

    def leavers(self, planned: Mapping[A, int]) -> list[A]:
        """Return the views that a turn can do without.

        They are the sound ones without slots that the plan does not want, and failing
        ones in whose place enough others are usable. Of each priority that does not work
        at all, one failing backend leaves, so that each of its backends is tried.
        """
        leavers: list[A] = []
        sound = 0
        for priority in sorted(self._tiers):
            tier = self._tiers[priority]
            sound += tier.sound
            views = [view for view in self._views if view.priority == priority]
            leavers += [v for v in views if _is_spare(v) and not planned.get(v)]
            failing = sorted(filter(_is_unused, views), key=lambda view: view.probe_order)
            if sound >= self._target:
                leavers += failing
            elif not (tier.sound or tier.connected) and self._known.inactive(priority):
                leavers += failing[-1:]
        return leavers

    def change(self) -> Change[A]:
        """Return the change, without views that were taken back in the same decision."""
        back = {backend.name for backend in self._change.activate}
        stay = {view.backend.name for view in self._change.deactivate} & back
        return Change(
            [backend for backend in self._change.activate if backend.name not in stay],
            [view for view in self._change.deactivate if view.backend.name not in stay],
        )


def _is_spare(view: View) -> bool:
    """Return True if a sound backend has no slots."""
    return not (
        view.is_failing or view.is_ejected or view.connected or view.connecting or view.closing
    )
