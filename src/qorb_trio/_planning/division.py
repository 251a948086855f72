"""Division of the demand over the backends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, final

import attrs

from .._phases import Phases, slices, sort
from .apportion import apportion_in_phases
from .plan import V
from .situation import Situation


@final
@attrs.define(eq=False, repr=False)
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
    if budget < len(division.probes):
        probes = yield from sort(division.probes, probe_rank)
        division.probes = list(probes[: max(0, budget)])
    if situation.ejected:
        yield from _keep_ejected(situation, division)
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
    # The failing views of each tier, and the fair share of a weight of 1. A tuple for each view
    # would have the garbage collector look at the whole program every few plans.
    candidates: list[tuple[list[V], float]] = []
    left = total
    capacity = 0
    tiers = yield from _tiers(situation)
    for tier in tiers:
        if failing:
            fair_share = left / sum([view.effective_weight for view in tier])
            unsound = [view for view in tier if view in failing]
            candidates.append((unsound, fair_share))
            yield
        limits = yield from _limits(situation, tier)
        parts = yield from apportion_in_phases(left, limits)
        yield
        quotas.update(parts)
        left -= sum(parts.values())
        capacity += sum([view.limit for view in tier])
        yield
        if any(view not in failing or view.connected for view in tier):
            break
    probes: list[V] = []
    for unsound, fair_share in candidates:
        for part in slices(unsound):
            probes += [view for view in part if _needs_probe(view, fair_share, left)]
            yield
    return Division(quotas, probes, min(total, capacity), is_saturated=left > 0)


def _tiers(situation: Situation[V]) -> Phases[list[list[V]]]:
    """Return the views of each priority, best first, without those that are ejected."""
    tiers: dict[int, list[V]] = {}
    for part in slices(situation.views):
        for view in part:
            if not situation.ejected or not view.is_ejected:
                tiers.setdefault(view.priority, []).append(view)
        yield
    return [tiers[priority] for priority in sorted(tiers)]


def _limits(situation: Situation[V], tier: Sequence[V]) -> Phases[dict[V, int]]:
    """Return how many connections each view can have; a failing one, those that it has."""
    limits: dict[V, int] = {}
    failing, has_closing = situation.failing, situation.closing > 0
    for part in slices(tier):
        for view in part:
            limit = view.limit
            if view in failing:
                limit = min(limit, view.connected)
            elif has_closing:
                limit = max(0, limit - view.closing)
            limits[view] = limit
        yield
    return limits


def _needs_probe(view: V, fair_share: float, undivided: int) -> bool:
    """Return True if a failing view has room for a probe, and too few connections.

    `fair_share` is that of a weight of 1. Those that are due for replacement do not count.
    """
    if view.connected >= view.limit or view.is_half_open:
        return False
    return undivided > 0 or view.connected - view.retiring < fair_share * view.effective_weight


def _keep_ejected(situation: Situation[V], division: Division[V]) -> Phases[None]:
    """Let ejected backends keep their connections, as far as the others leave room."""
    quotas = division.quotas
    left = situation.room - sum(quotas.values()) - len(division.probes)
    ejected = yield from sort(situation.ejected, lambda view: view.rotation_key)
    for view in ejected:
        quotas[view] = max(0, min(left, view.limit, view.connected))
        left -= quotas[view]
        division.size += quotas[view]
