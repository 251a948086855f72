"""`Situation`: the sums over all views that the rules of one plan share. `survey` makes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, final

import attrs

from .._phases import Phases, slices
from .plan import Demand, V


@final
@attrs.define(eq=False, repr=False)
class Sums(Generic[V]):
    """The totals of the views that have been counted."""

    connected: int = 0
    connecting: int = 0
    closing: int = 0
    retiring: int = 0
    claimed: int = 0
    #: Of failing and ejected views only.
    unsound_connecting: int = 0
    unsound_closing: int = 0
    unsound_retiring: int = 0
    failing: dict[V, None] = attrs.field(factory=dict)
    ejected: list[V] = attrs.field(factory=list)

    def add(self, views: Sequence[V]) -> None:
        """Count some more views."""
        self.connected += sum([view.connected for view in views])
        self.connecting += sum([view.connecting for view in views])
        self.closing += sum([view.closing for view in views])
        self.retiring += sum([view.retiring for view in views])
        self.claimed += sum([view.claimed for view in views])
        if unsound := [view for view in views if view.is_failing or view.is_ejected]:
            self.failing.update(dict.fromkeys(unsound))
            self.ejected += [view for view in unsound if view.is_ejected]
            self.unsound_connecting += sum([view.connecting for view in unsound])
            self.unsound_closing += sum([view.closing for view in unsound])
            self.unsound_retiring += sum([view.retiring for view in unsound])


def survey(views: Sequence[V], demand: Demand) -> Phases[Situation[V]]:
    """Count all views.

    What changes in a pause is counted before or after the change. Slots only end in a pause,
    so no more are counted as free than there are.
    """
    sums: Sums[V] = Sums()
    for part in slices(views):
        sums.add(part)
        yield
    return Situation(views, demand, sums)


@final
class Situation(Generic[V]):
    """The views and the demand of one plan, with their totals.

    The totals are taken once, because to read an attribute of a thousand views costs
    more than most rules do.
    """

    def __init__(self, views: Sequence[V], demand: Demand, sums: Sums[V]) -> None:
        self.views = views
        #: The views that are not dialled unless to probe them; ejected ones are never dialled.
        self.failing = sums.failing
        self.ejected = sums.ejected
        self.connected = sums.connected
        self.connecting = sums.connecting
        self.closing = sums.closing
        #: The dials of failing views, and their connections that are being closed.
        self.failing_connecting = sums.unsound_connecting
        self.failing_closing = sums.unsound_closing
        #: Due connections that can be replaced, which those of failing backends cannot.
        self.retiring = sums.retiring - sums.unsound_retiring
        claims = sums.claimed + demand.waiting
        self.demand = max(claims + demand.spares, demand.minimum)
        self.waiting = demand.waiting
        self.retained = demand.retained
        available = demand.max_slots - demand.draining
        self.room = max(0, available)
        self.free = available - (self.connected + self.connecting + self.closing)
        #: Slots that a lowered cap has no room for, beyond those that are closing.
        self.over_cap = max(0, -self.free - self.closing)
        # Invariant 6: failing backends take at most half of the cap while any is online.
        self.max_probes = max(1, demand.max_slots // 2) if self.connected else self.room
        self._set_ejected_apart(claims)

    def _set_ejected_apart(self, claims: int) -> None:
        """Compute the demand and the room of the backends that are not ejected.

        The spares of ejected backends are kept. But where claims need the room, the
        others may take half of it. Otherwise, an ejected backend with all the slots
        would leave them none.
        """
        self.ejected_connected = sum([view.connected for view in self.ejected])
        ejected_claims = sum([view.claimed for view in self.ejected])
        self.usable_demand = self.demand - ejected_claims
        half = min(self.room, max(1, self.room // 2))
        yielded = min(half, max(1, claims - ejected_claims))
        remaining = self.room - self.ejected_connected
        self.usable_room = max(remaining, yielded)
        #: True if more claims would increase `usable_room`.
        self.may_yield_more = remaining < half and yielded < half

    def lasting(self, view: V) -> int:
        """Return how many connections of a view need no replacement."""
        if not self.retiring or view in self.failing:
            return view.connected
        return view.connected - view.retiring

    def has_sound_dials(self) -> bool:
        """Return True if a backend that is not known to fail is being dialled."""
        return self.connecting > self.failing_connecting
