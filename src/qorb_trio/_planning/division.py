"""Division of the demand over the backends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import nsmallest
from typing import Generic, final

import attrs

from .._phases import Phases
from .apportion import apportion
from .plan import V
from .situation import Situation


@final
@attrs.define
class Division(Generic[V]):
    """The demand, divided."""

    quotas: dict[V, int]
    """For each view, the number of connections that it should have."""

    probes: list[V]
    """The failing views that should be probed with one dial each."""

    size: int
    """Number of connections that there should be if every backend that should work did."""

    is_saturated: bool
    """True if there was more to divide than the views can take."""


def divide(situation: Situation[V]) -> Phases[Division[V]]:
    """Divide the demand, or as much of it as there is room for."""
    room = situation.usable_room
    trials = [v for v in situation.ejected if v.needs_trial and v.connected < v.limit]
    division = yield from _divide(situation, min(situation.usable_demand, room))
    if (division.probes or trials) and sum(division.quotas.values()) == room > 1:
        # One slot is kept back for probing, but never the only one, and only if with one
        # less to divide there is still a backend to probe.
        fewer = yield from _divide(situation, room - 1)
        if fewer.probes or trials:
            division = fewer
    division.probes += trials
    budget = min(situation.max_probes, room - sum(division.quotas.values()))
    division.probes = nsmallest(max(0, budget), division.probes, key=probe_rank)
    if situation.ejected:
        _keep_ejected(situation, division)
    return division


def divide_retained(situation: Situation[V], division: Division[V]) -> Phases[Division[V]]:
    """Return the division of the retained demand, if that is more than the present one.

    Connections beyond its quotas are surplus. So those that are retained are spread by
    weight too. Its size is at most the capacity of the priorities in use, because demand
    that these cannot take is no reason to retain connections of a worse priority.
    """
    if situation.retained <= division.size:
        return division
    retained = situation.retained - situation.ejected_connected
    lasting = yield from _divide(situation, min(retained, situation.usable_room))
    kept = {view: division.quotas[view] for view in situation.ejected}
    lasting.quotas.update(kept)
    lasting.size = max(division.size, lasting.size + sum(kept.values()))
    return lasting


def probe_rank(view: V) -> tuple[tuple[float, float], float]:
    """Return the sort key by which failing views are probed, smallest first."""
    return view.probe_order, view.rotation_key


def _divide(situation: Situation[V], total: int) -> Phases[Division[V]]:
    """Divide `total` over the best priority that works, and find the views to probe.

    A worse priority is used while no backend of a better one works, not while the better
    one is full.
    """
    failing = situation.failing
    quotas = dict.fromkeys(situation.views, 0)
    candidates: list[tuple[V, float]] = []
    left = total
    capacity = 0
    for tier in _tiers(situation):
        if failing:
            candidates += _fair_shares(tier, failing, left)
            yield
        limits = _limits(situation, tier)
        yield
        parts = apportion(left, limits)
        yield
        quotas.update(parts)
        left -= sum(parts.values())
        capacity += sum([view.limit for view in tier])
        if any(view not in failing or view.connected for view in tier):
            break
    yield
    probes = [view for view, fair in candidates if _needs_probe(view, fair, left)]
    yield
    return Division(quotas, probes, min(total, capacity), is_saturated=left > 0)


def _tiers(situation: Situation[V]) -> Iterable[Sequence[V]]:
    """Return the views of each priority, best first, without those that are ejected."""
    views: Iterable[V] = situation.views
    if situation.ejected:
        views = [view for view in views if not view.is_ejected]
    tiers: dict[int, list[V]] = {}
    for view in views:
        tiers.setdefault(view.priority, []).append(view)
    return [tiers[priority] for priority in sorted(tiers)]


def _limits(situation: Situation[V], tier: Sequence[V]) -> dict[V, int]:
    """Return how many connections each view can have; a failing one, those that it has."""
    limits = {view: view.limit for view in tier}
    if situation.closing:
        for view in tier:
            limits[view] = max(0, limits[view] - view.closing)
    if situation.failing:
        for view in situation.failing.keys() & limits.keys():
            limits[view] = min(view.limit, view.connected)
    return limits


def _fair_shares(
    tier: Sequence[V], failing: dict[V, None], slots: int
) -> Iterable[tuple[V, float]]:
    """Return the failing views, each with its fair share of the slots."""
    average = slots / sum([view.effective_weight for view in tier])
    return [(view, average * view.effective_weight) for view in tier if view in failing]


def _needs_probe(view: V, fair_share: float, undivided: int) -> bool:
    """Return True if a failing view has room for a probe, and too few connections.

    Those that are due for replacement do not count.
    """
    if view.connected >= view.limit or view.is_half_open:
        return False
    return undivided > 0 or view.connected - view.retiring < fair_share


def _keep_ejected(situation: Situation[V], division: Division[V]) -> None:
    """Let ejected backends keep their connections, as far as the others leave room."""
    quotas = division.quotas
    left = situation.room - sum(quotas.values()) - len(division.probes)
    for view in sorted(situation.ejected, key=lambda view: view.rotation_key):
        quotas[view] = max(0, min(left, view.limit, view.connected))
        left -= quotas[view]
        division.size += quotas[view]
