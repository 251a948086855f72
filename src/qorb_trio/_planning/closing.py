"""Connections to close because they are due, surplus, or in the way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, final

from .._phases import Phases, slices, sort
from .comparison import Comparison
from .division import Division
from .plan import Step, V
from .situation import Situation


@final
class Closing(Generic[V]):
    """The choice of connections to close: one method for each rule."""

    def __init__(
        self,
        situation: Situation[V],
        division: Division[V],
        retained: Division[V],
        gaps: Comparison[V],
    ) -> None:
        self._situation = situation
        self._division = division
        self._retained = retained
        self._gaps = gaps
        self._surplus = gaps.surplus
        self._counts: dict[V, int] = {}
        #: Views that must close the first connection that is returned to one of them.
        self.reclaimable: list[V] = []

    def steps(self) -> list[Step[V]]:
        """Return the idle connections to close."""
        return [Step(view, count) for view, count in self._counts.items()]

    def close_surplus(self, aborted: int, *, rebalance: bool) -> Phases[None]:
        """Close what is not wanted: what is due or over a limit, and in a rebalance the rest.

        `aborted` is the number of dials that the same plan gives up.
        """
        situation = self._situation
        over = max(0, situation.over_cap - aborted)
        if not (rebalance or over or situation.retiring or self._gaps.has_overfull):
            return
        surplus = yield from sort(list(self._surplus), self._surplus_rank)
        self._close_due(surplus)
        yield
        if rebalance:
            yield from self._close_lasting(surplus)
        self._close_over_limits(surplus)
        yield
        self._close_over_cap(surplus, over - sum(self._counts.values()))

    def _surplus_rank(self, view: V) -> tuple[int, float, float]:
        """Return the sort key by which views give connections, the smallest first."""
        surplus = self._surplus.get(view, 0) / view.effective_weight
        return -view.priority, -surplus, -view.rotation_key

    def _close_due(self, surplus: Sequence[V]) -> None:
        """Close idle connections that are due where others have taken their place."""
        excess = self._situation.connected - self._division.size
        for view in surplus if self._situation.retiring else ():
            excess -= self._close(view, min(excess, view.retiring_idle))

    def _close_lasting(self, surplus: Sequence[V]) -> Phases[None]:
        """Close spares beyond the quota of their backend that are not needed in its place."""
        situation = self._situation
        connected, retained = situation.connected, self._retained
        excess = min(
            connected - situation.retiring - retained.size,
            connected - sum(self._counts.values()) - self._division.size,
        )
        if excess <= 0:
            return
        for part in slices(surplus):
            for view in part:
                if view not in situation.failing or not view.is_half_open:
                    beyond = situation.lasting(view) - retained.quotas[view]
                    excess -= self._close(view, min(excess, beyond))
            if excess <= 0:
                return
            yield

    def _close_over_limits(self, surplus: Sequence[V]) -> None:
        """Close idle connections beyond a lowered limit of their backend."""
        for view in surplus if self._gaps.has_overfull else ():
            self._close(view, view.connected - view.limit - self._counts.get(view, 0))

    def _close_over_cap(self, surplus: Sequence[V], over: int) -> None:
        """Close idle connections beyond a lowered cap, and where that is too few, returned ones.

        The last connection stays until another one works.
        """
        spared = self._situation.connected - sum(self._counts.values()) - bool(self._division.size)
        for view in surplus if over > 0 else ():
            closed = self._close(view, min(over, spared))
            over -= closed
            spared -= closed
        if over > 0 and spared > 0:
            self.reclaimable = list(surplus)

    def _close(self, view: V, count: int) -> int:
        """Close at most `count` more idle connections beyond the quota; return how many."""
        if count <= 0:
            return 0
        already = self._counts.get(view, 0)
        count = min(count, view.idle - already, self._surplus[view] - already)
        if count <= 0:
            return 0
        self._counts[view] = already + count
        return count

    def reclaim_over_limits(self) -> None:
        """Have connections in use closed on their return, down to a lowered limit of a backend."""
        for view in self._surplus if self._gaps.has_overfull else ():
            is_over = view.connected - self._counts.get(view, 0) > view.limit
            if is_over and view not in self.reclaimable:
                self.reclaimable.append(view)

    def make_room(self, *, rebalance: bool) -> None:
        """Close one connection of a full pool if another backend or a newer one needs room.

        One at a time: the next follows when the replacement of this one has worked or
        failed.
        """
        situation, gaps = self._situation, self._gaps
        if self._counts or self.reclaimable or situation.closing:
            return
        if situation.retiring and (view := self._due_in_the_way()) is not None:
            self._counts[view] = 1
            return
        if gaps.lacks and situation.free <= 0:
            self._reclaim(rebalance=rebalance)

    def _due_in_the_way(self) -> V | None:
        """Return a view whose due spare keeps a connection out, if there is one.

        That may be the last connection: with a cap of one, nothing else can replace it.
        """
        situation, gaps = self._situation, self._gaps
        waiting = dict.fromkeys(gaps.blocked)
        if situation.free <= 0:
            waiting.update(dict.fromkeys(gaps.replaced))
            waiting.update((view, None) for view in gaps.lacks if view not in situation.failing)
        if not waiting or situation.has_sound_dials():
            return None
        candidates = list(waiting)
        if situation.free <= 0:
            candidates += self._surplus
        due = [view for view in candidates if view.retiring_idle and view not in situation.failing]
        return min(due, key=self._surplus_rank, default=None)

    def _reclaim(self, *, rebalance: bool) -> None:
        """Close one spare of a full cap; where there is none, the next that is returned.

        Without the latter, overload would keep all other backends out, because claimants
        take each connection that is returned.
        """
        donors = self._donors(rebalance=rebalance)
        ready = [view for view in donors if view.idle]
        if ready:
            self._counts[min(ready, key=self._surplus_rank)] = 1
        else:
            self.reclaimable = donors

    def _donors(self, *, rebalance: bool) -> list[V]:
        """Return the views that can give a connection to a view that has too few.

        A probe takes one at any time, a sound backend in a rebalance only. From ejected
        backends, the latter may take one at any time, because claimants need it.
        """
        situation = self._situation
        is_sound_moving = self._is_sound_lacking() and not situation.has_sound_dials()
        donors: list[V] = []
        if situation.connected - situation.ejected_connected >= 2 and (
            self._is_probe_lacking() or (is_sound_moving and rebalance)
        ):
            donors = [view for view in self._surplus if self._can_give(view)]
        if is_sound_moving and not donors:
            donors = [v for v in situation.ejected if v.connected > self._division.quotas[v]]
        return donors

    def _is_sound_lacking(self) -> bool:
        failing = self._situation.failing
        return any(view not in failing for view in self._gaps.lacks)

    def _is_probe_lacking(self) -> bool:
        """Return True if a failing backend should be probed, and none is being probed."""
        failing = self._situation.failing
        if not any(view in failing for view in self._gaps.lacks):
            return False
        return not any(view.connecting or view.is_half_open for view in failing)

    def _can_give(self, view: V) -> bool:
        wanted = self._gaps.wanted[view]
        if view.connected <= wanted or view.is_half_open:
            return False
        return self._situation.lasting(view) > wanted or view.retiring_idle > 0
