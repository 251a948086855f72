"""`Comparison`: which backends have too few connections, and which have too many."""

from __future__ import annotations

from typing import Generic, final

from .division import Division
from .plan import V
from .situation import Situation


@final
class Comparison(Generic[V]):
    """The differences between what there is and what is wanted."""

    def __init__(self, situation: Situation[V], division: Division[V]) -> None:
        self._situation = situation
        self.wanted = dict(division.quotas)
        #: For each view, how many dials it lacks now.
        self.lacks: dict[V, int] = {}
        #: For each view with more connections than its quota, how many more.
        self.surplus: dict[V, int] = {}
        #: True if one of them has more than a lowered limit allows.
        self.has_overfull = False
        #: The views that need a replacement for one due connection now.
        self.replaced: list[V] = []
        #: Those among them that have no room for it, because they are at their own limit.
        self.blocked: list[V] = []
        #: True if the end of a dial calls for another step.
        self.has_backlog = False
        for view, quota in division.quotas.items():
            connected = view.connected
            if connected > quota:
                self.surplus[view] = connected - quota
                self.has_overfull = self.has_overfull or connected > view.limit
            elif connected < quota:
                self._lack(view, quota, connected)
        for view in division.probes:
            self.wanted[view] += 1
            self._lack(view, self.wanted[view], view.connected)
        if situation.retiring:
            self._find_replacements()

    def _lack(self, view: V, wanted: int, connected: int) -> None:
        """Compute how many dials a view lacks, as far as its limits allow."""
        connecting = view.connecting
        lacking = wanted - connected - connecting
        if lacking <= 0:
            return
        if self._situation.closing:
            room = view.limit - view.closing - connected - connecting
            lacking = min(lacking, room)
        if connecting + lacking > view.max_connecting:
            self.has_backlog = True
            lacking = int(view.max_connecting) - connecting
        if lacking > 0:
            self.lacks[view] = lacking

    def _find_replacements(self) -> None:
        """Find the views that can replace a due connection now.

        A due connection does not count towards the quota, but it works, so one
        replacement at a time is enough.
        """
        failing = self._situation.failing
        for view in self._situation.views:
            if not view.retiring or view in failing:
                continue
            missing = self.wanted[view] - self._situation.lasting(view)
            growth = max(0, self.wanted[view] - view.connected)
            if missing > growth:
                self.has_backlog = True
                self._replace_one(view, growth)

    def _replace_one(self, view: V, growth: int) -> None:
        """Note that a due connection needs a replacement, unless one is being dialled."""
        dials = view.connecting + self.lacks.get(view, 0)
        if view.connecting > growth or dials >= view.max_connecting:
            return
        if view.connected + view.closing + dials >= view.limit:
            self.blocked.append(view)
        else:
            self.replaced.append(view)
