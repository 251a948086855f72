"""`Selection`: one decision on the active backends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Generic, Protocol, TypeVar, final

import attrs

from .._model.backend import Backend
from .known import KnownBackends
from .plan import View

#: Up to this number of known backends, all of them are active.
ALL_ACTIVE: Final = 64

#: Minimum number of usable backends that should be active where more are known.
MIN_ACTIVE: Final = 16

#: The number of backends that may be active is two per slot, but at least this.
MIN_MAXIMUM: Final = 32


class ActiveView(View, Protocol):
    """An active backend as the `ActiveSet` sees it."""

    @property
    def backend(self) -> Backend:
        """The backend."""

    @property
    def wanted(self) -> int:
        """Number of slots that the last plan wants here."""


A = TypeVar("A", bound=ActiveView)


#: The maximum number of backends that one step of a decision activates, in about 1 ms.
MAX_STEP: Final = 50


@final
@attrs.define(eq=False, repr=False)
class Change(Generic[A]):
    """The backends to activate, and the views to give up."""

    activate: list[Backend] = attrs.field(factory=list)
    """Backends that need a slot set, in their order."""

    deactivate: list[A] = attrs.field(factory=list)
    """Views without connections. Their dials must be given up."""

    is_partial: bool = False
    """True if more backends should be activated, by `ActiveSet.proceed` after a pause."""

    first_delay: float = 0.0
    """The least back-off of the backends to activate, in seconds, until they have worked."""


@final
class _Tier:
    """The active backends of one priority, counted."""

    __slots__ = ("connected", "failing", "sound")

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
class Selection(Generic[A]):
    """The active backends, how many there should be, and what is decided so far."""

    def __init__(
        self, known: KnownBackends, views: Sequence[A], wanted: int, max_slots: int
    ) -> None:
        self._known = known
        self._views = views
        self.maximum = max(MIN_MAXIMUM, 2 * max_slots)
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

        A worse priority is used if no active backend of a better one is usable. Until a
        priority has a connection, half of the room is for worse ones.
        """
        missing = self._target
        free = self.maximum - sum([tier.size for tier in self._tiers.values()])
        left = self.maximum
        waiting = 0
        priorities = sorted({*self._tiers, *self._known.priorities()})
        for priority in priorities:
            tier = self._tier(priority)
            missing -= tier.sound
            is_last = priority == priorities[-1]
            share = left if tier.connected or is_last else max(1, left // 2)
            added = self._activate(priority, min(missing, share - tier.size, free))
            missing -= added
            free -= added
            left -= tier.size
            waiting += self._known.inactive(priority)
            if tier.sound or tier.connected:
                break
        self.blocked = 0 if self._change.is_partial else max(0, min(missing, waiting))

    def _activate(self, priority: int, count: int) -> int:
        """Activate at most `count` backends of a priority; return how many."""
        activated = self._change.activate
        before = len(activated)
        while len(activated) - before < count:
            if len(activated) >= MAX_STEP:
                self._change.is_partial = True
                break
            backend = self._known.activate_next(priority)
            if backend is None:
                break
            activated.append(backend)
        added = len(activated) - before
        self._tier(priority).sound += added
        return added

    def drop(self, view: A) -> None:
        """Let a view leave. A failing one loses its place in the order."""
        self._tier(view.priority).count(view, -1)
        self._change.deactivate.append(view)
        behind = view.rotation_key if view.is_failing else None
        self._known.deactivate(view.backend, behind=behind)

    def replace(self, views: Sequence[A], first_delay: float) -> None:
        """Let failing views leave, and activate others, whose back-off begins with that delay."""
        for view in views:
            self.drop(view)
        self._change.first_delay = first_delay
        self.fill()

    def leavers(self) -> list[A]:
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
            leavers += [view for view in views if _is_spare(view) and not view.wanted]
            failing = sorted(filter(is_unused, views), key=lambda view: view.probe_order)
            if sound >= self._target:
                leavers += failing
            elif not (tier.sound or tier.connected) and self._known.inactive(priority):
                leavers += failing[-1:]
        return leavers

    def proceed(self) -> Change[A]:
        """Go on with a decision that is partial; return the next part of the change."""
        self._change = Change(first_delay=self._change.first_delay)
        self.fill()
        return self._change

    def change(self) -> Change[A]:
        """Return the change, without views that were taken back in the same decision."""
        back = {backend.name for backend in self._change.activate}
        stay = {view.backend.name for view in self._change.deactivate} & back
        return Change(
            [backend for backend in self._change.activate if backend.name not in stay],
            [view for view in self._change.deactivate if view.backend.name not in stay],
            is_partial=self._change.is_partial,
            first_delay=self._change.first_delay,
        )


def is_unused(view: View) -> bool:
    """Return True if a failing backend has nothing but dials."""
    return view.is_failing and not (view.connected or view.closing)


def _is_spare(view: View) -> bool:
    """Return True if a sound backend has no slots."""
    return not (
        view.is_failing or view.is_ejected or view.connected or view.connecting or view.closing
    )
