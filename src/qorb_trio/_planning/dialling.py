"""Dials to start, and dials to give up."""

from __future__ import annotations

from collections.abc import Sequence

from .._phases import Phases, slices, sort
from .comparison import Comparison, fullness
from .division import probe_rank
from .plan import Step, V
from .situation import Situation


def plan_opens(situation: Situation[V], gaps: Comparison[V]) -> Phases[list[Step[V]]]:
    """Fill the free slots. Views that have least for their weight come first."""
    free = situation.free
    if free <= 0:
        return []
    opens: list[Step[V]] = []
    failing = situation.failing
    probes = situation.max_probes - situation.failing_connecting - situation.failing_closing
    lacking = yield from sort(list(gaps.lacks), fullness)
    for part in slices(lacking):
        for view in part:
            count = min(gaps.lacks[view], free)
            if view in failing:
                count = min(count, probes)
                probes -= max(0, count)
            if count > 0:
                opens.append(Step(view, count))
                free -= count
        yield
    if gaps.replaced:
        opens = yield from _add_replacements(opens, gaps.replaced, free)
    return opens


def _add_replacements(opens: list[Step[V]], views: list[V], free: int) -> Phases[list[Step[V]]]:
    """Open a replacement for one due connection of each view, as far as there is room."""
    counts = {step.view: step.count for step in opens}
    emptiest_first = yield from sort(views, fullness)
    for view in emptiest_first[:free]:
        counts[view] = counts.get(view, 0) + 1
    yield
    return [Step(view, count) for view, count in counts.items()]


def plan_aborts(situation: Situation[V], gaps: Comparison[V]) -> Phases[list[Step[V]]]:
    """Give up dials whose room is needed."""
    aborts: list[Step[V]] = []
    if situation.failing_connecting:
        aborts = yield from _failing_dials(situation, gaps)
    over = situation.over_cap - sum([step.count for step in aborts])
    if over > 0:
        more = yield from _dials_over_cap(situation, gaps, over)
        aborts += more
    return aborts


def _failing_dials(situation: Situation[V], gaps: Comparison[V]) -> Phases[list[Step[V]]]:
    """Choose dials at failing backends that others need the room of, the latest due first.

    A dial beyond its backend's part began before the backend was known to fail. It may
    yet succeed, so it is left alone while its room is not needed. While nothing is
    online, the older half of those that seem to hang goes on: perhaps all backends are
    just slow, and to give each a turn would let none finish.
    """
    shortage = sum(gaps.lacks.values()) - situation.free
    # Those that are closing will be free in a moment.
    excess = max(shortage, situation.failing_connecting - situation.max_probes)
    excess -= situation.closing
    if excess <= 0:
        return []
    protected = 0 if situation.connected else situation.room // 2
    hung = sum([view.connecting for view in situation.failing if view.is_hung])
    yield
    dialled = yield from _dialled_beyond(list(situation.failing), gaps)
    aborts: list[Step[V]] = []
    latest_first = yield from sort(dialled, probe_rank, reverse=True)
    for view in latest_first:
        count = min(excess, _dials_beyond(view, gaps.wanted[view]))
        if view.is_hung:
            count = min(count, hung - protected)
            hung -= max(0, count)
        if count > 0:
            aborts.append(Step(view, count))
            excess -= count
        if excess <= 0:
            break
    return aborts


def _dials_over_cap(
    situation: Situation[V], gaps: Comparison[V], over: int
) -> Phases[list[Step[V]]]:
    """Choose dials at sound backends that a lowered cap leaves no room for."""
    failing = situation.failing
    sound = [view for view in situation.views if view not in failing]
    dialled = yield from _dialled_beyond(sound, gaps)
    aborts: list[Step[V]] = []
    fullest_first = yield from sort(dialled, fullness, reverse=True)
    for view in fullest_first:
        count = min(over, _dials_beyond(view, gaps.wanted[view]))
        aborts.append(Step(view, count))
        over -= count
        if over <= 0:
            break
    return aborts


def _dialled_beyond(views: Sequence[V], gaps: Comparison[V]) -> Phases[list[V]]:
    """Return the views that have more dials than what is wanted."""
    dialled: list[V] = []
    for part in slices(views):
        dialled += [view for view in part if _dials_beyond(view, gaps.wanted[view]) > 0]
        yield
    return dialled


def _dials_beyond(view: V, wanted: int) -> int:
    """Return how many dials of a view are more than what is wanted."""
    return view.connecting - max(0, wanted - view.connected)
