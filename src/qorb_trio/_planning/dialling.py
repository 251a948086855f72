"""Dials to start, and dials to give up."""

from __future__ import annotations

from .comparison import Comparison, fullness
from .division import probe_rank
from .plan import Step, V
from .situation import Situation


def plan_opens(situation: Situation[V], gaps: Comparison[V]) -> list[Step[V]]:
    """Fill the free slots. Views that have least for their weight come first."""
    free = situation.free
    if free <= 0:
        return []
    opens: list[Step[V]] = []
    failing = situation.failing
    probes = situation.max_probes
    if failing and gaps.lacks:
        probes -= sum([view.connecting + view.closing for view in failing])
    for view in sorted(gaps.lacks, key=fullness):
        count = min(gaps.lacks[view], free)
        if view in failing:
            count = min(count, probes)
            probes -= max(0, count)
        if count > 0:
            opens.append(Step(view, count))
            free -= count
    return _add_replacements(opens, gaps.replaced, free) if gaps.replaced else opens


def _add_replacements(opens: list[Step[V]], views: list[V], free: int) -> list[Step[V]]:
    """Open a replacement for one due connection of each view, as far as there is room."""
    counts = {step.view: step.count for step in opens}
    for view in sorted(views, key=fullness)[:free]:
        counts[view] = counts.get(view, 0) + 1
    return [Step(view, count) for view, count in counts.items()]


def plan_aborts(situation: Situation[V], gaps: Comparison[V]) -> list[Step[V]]:
    """Give up dials whose room is needed."""
    aborts: list[Step[V]] = []
    if situation.failing and situation.connecting:
        aborts = _failing_dials(situation, gaps)
    over = situation.over_cap - sum([step.count for step in aborts])
    if over > 0:
        aborts += _dials_over_cap(situation, gaps, over)
    return aborts


def _failing_dials(situation: Situation[V], gaps: Comparison[V]) -> list[Step[V]]:
    """Choose dials at failing backends that others need the room of, the latest due first.

    A dial beyond its backend's part began before the backend was known to fail. It may
    yet succeed, so it is left alone while its room is not needed. While nothing is
    online, the older half of those that seem to hang goes on: perhaps all backends are
    just slow, and to give each a turn would let none finish.
    """
    failing = situation.failing
    shortage = sum(gaps.lacks.values()) - situation.free
    dials = sum([view.connecting for view in failing])
    # Those that are closing will be free in a moment.
    excess = max(shortage, dials - situation.max_probes) - situation.closing
    if excess <= 0:
        return []
    protected = 0 if situation.connected else situation.room // 2
    hung = sum([view.connecting for view in failing if view.is_hung])
    aborts = []
    for view in sorted(failing, key=probe_rank, reverse=True):
        count = min(excess, _dials_beyond(view, gaps.wanted[view]))
        if view.is_hung:
            count = min(count, hung - protected)
            hung -= max(0, count)
        if count > 0:
            aborts.append(Step(view, count))
            excess -= count
    return aborts


def _dials_over_cap(situation: Situation[V], gaps: Comparison[V], over: int) -> list[Step[V]]:
    """Choose dials at sound backends that a lowered cap leaves no room for."""
    aborts = []
    for view in sorted(situation.views, key=fullness, reverse=True):
        if view in situation.failing:
            continue
        count = min(over, _dials_beyond(view, gaps.wanted[view]))
        if count > 0:
            aborts.append(Step(view, count))
            over -= count
    return aborts


def _dials_beyond(view: V, wanted: int) -> int:
    """Return how many dials of a view are more than what is wanted."""
    return view.connecting - max(0, wanted - view.connected)
