"""`Comparison`: which backends have too few connections, and which have too many."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Generic, final

from .._phases import Phases, slices, sort
from .division import Division
from .plan import V
from .situation import Situation


def fullness(view: V) -> tuple[float, float]:
    """Return the sort key by which views get connections: the smallest has least for its weight."""
    return (view.connected + view.connecting) / view.effective_weight, view.rotation_key


def compare(situation: Situation[V], division: Division[V]) -> Phases[Comparison[V]]:
    """Find the differences between what there is and what is wanted."""
    gaps = Comparison(situation, division)
    for views in slices(list(division.quotas)):
        gaps.note_differences(views, division.quotas)
        yield
    for probes in slices(division.probes):
        gaps.add_probes(probes)
        yield
    if situation.failing or gaps.has_backlog:
        free = situation.free - sum(gaps.lacks.values())
        # The first claimant that has to wait calls for another plan, which knows better.
        gaps.may_cover_more = free > 0
        if situation.waiting and free > 0:
            yield from gaps.cover_claimants(free)
    if situation.retiring:
        for views in slices(situation.views):
            gaps.find_replacements(views)
            yield
    return gaps


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
        #: True if `cover_claimants` may want more for a claimant that is yet to come.
        self.may_cover_more = False

    def note_differences(self, views: Iterable[V], quotas: Mapping[V, int]) -> None:
        """Note which of some views have more connections than their quota, or fewer."""
        for view in views:
            quota, connected = quotas[view], view.connected
            if connected > quota:
                self.surplus[view] = connected - quota
                self.has_overfull = self.has_overfull or connected > view.limit
            elif connected < quota:
                self._lack(view, quota, connected)

    def add_probes(self, probes: Iterable[V]) -> None:
        """Want one more connection of each view that should be probed."""
        for view in probes:
            self.wanted[view] += 1
            self._lack(view, self.wanted[view], view.connected)

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

    def cover_claimants(self, free: int) -> Phases[None]:
        """Want more where parked claimants would wait for a backend that may not serve them.

        `free` is the number of slots that are left.

        The division counts the connections of failing backends, though a check of one may
        fail, and the dials that `max_connecting` puts off. Invariant 3 demands a connection on
        its way at a sound backend for each parked claimant, while there is room.
        """
        situation, failing = self._situation, self._situation.failing
        coming = 0
        priorities: set[int] = set()
        for part in slices(situation.views):
            sound = [view for view in part if view not in failing]
            coming += sum([view.connected - view.claimed + view.connecting for view in sound])
            coming += sum([self.lacks.get(view, 0) for view in sound])
            priorities.update([v.priority for v in part if v.connected or v not in failing])
            yield
        short = min(situation.waiting - coming, free)
        best = min(priorities, default=0)
        usable_views = [v for v in situation.views if v.priority == best and v not in failing]
        yield
        if short > 0:
            yield from self._cover(usable_views, short)
        self.may_cover_more = free > short and (yield from self._has_room(usable_views))

    def _cover(self, views: list[V], short: int) -> Phases[None]:
        """Want `short` more dials, of the emptiest views that have room."""
        emptiest_first = yield from sort(views, fullness)
        for part in slices(emptiest_first):
            for view in part:
                short -= self._want_more(view, short)
            if not short:
                return
            yield

    def _has_room(self, views: list[V]) -> Phases[bool]:
        """Return True if one more dial of any of some views could begin."""
        for part in slices(views):
            if any(self._room(view) > 0 for view in part):
                return True
            yield
        return False

    def _room(self, view: V) -> float:
        """Return how many more dials of a view can begin, as far as its limits allow."""
        dials = view.connecting + self.lacks.get(view, 0)
        return min(view.limit - view.closing - view.connected, view.max_connecting) - dials

    def _want_more(self, view: V, count: int) -> int:
        """Want up to `count` more dials of a view, as far as its limits allow; return how many."""
        more = int(max(0, min(count, self._room(view))))
        if more:
            self.lacks[view] = lacks = self.lacks.get(view, 0) + more
            coming = self._situation.lasting(view) + view.connecting + lacks
            self.wanted[view] = max(self.wanted[view], coming)
        return more

    def find_replacements(self, views: Iterable[V]) -> None:
        """Find those of some views that can replace a due connection now.

        A due connection does not count towards the quota, but it works, so one
        replacement at a time is enough.
        """
        failing = self._situation.failing
        for view in views:
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
