"""Computations in phases have the same result with pauses and without."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, pairwise
from typing import TypeAlias

import pytest
from hypothesis import given, strategies as st

from qorb_trio import _phases
from qorb_trio._phases import Phases, finish, slices, sort
from qorb_trio._planning import apportion
from qorb_trio._planning.make_plan import make_plan, plan_in_phases
from qorb_trio._planning.plan import Demand, Plan
from qorb_trio._planning.rotation import last_holder_keys, next_rotation

from .situations import View, situations

Situation: TypeAlias = tuple[list[View], Demand]

#: The most items that one phase looks at in these tests.
FEW = 2


@contextmanager
def few_in_a_slice() -> Iterator[None]:
    """Have each phase look at a few items only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_phases, "SLICE", FEW)
        patch.setattr(apportion, "SLICE", FEW)
        yield


def count_phases(phases: Phases[object]) -> int:
    """The number of phases of a computation, the last one included."""
    return 1 + sum(1 for _ in phases)


@given(items=st.lists(st.integers(0, 9)), reverse=st.booleans())
def test_a_sort_in_phases_is_a_sort(items: list[int], reverse: bool) -> None:
    """With many runs to merge, the result is that of `sorted`."""
    with few_in_a_slice():
        assert list(finish(sort(items, lambda item: -item, reverse=reverse))) == sorted(
            items, reverse=not reverse
        )


@given(items=st.lists(st.integers()))
def test_slices_are_all_items(items: list[int]) -> None:
    """The slices have all items in order, and none is too large."""
    with few_in_a_slice():
        parts = [list(part) for part in slices(items)]
    assert list(chain(*parts)) == items
    assert all(len(part) <= FEW for part in parts)


def steps_of(plan: Plan[View]) -> tuple[object, ...]:
    """Return the contents of a plan in a form that can be compared."""
    steps = [
        {step.view: step.count for step in steps}
        for steps in (plan.opens, plan.aborts, plan.closes)
    ]
    flags = (plan.is_saturated, plan.is_settled, plan.has_backlog)
    return plan.wanted, *steps, set(plan.reclaimable), plan.demand, plan.size, *flags


@given(situation=situations(overfull=True), rebalance=st.booleans())
def test_a_plan_with_pauses_is_the_same(situation: Situation, rebalance: bool) -> None:
    """A plan is the same if each of its phases looks at a few views only."""
    views, demand = situation
    whole = make_plan(views, demand, rebalance=rebalance)
    move = next_rotation(views, whole)
    keys = finish(last_holder_keys(views))
    with few_in_a_slice():
        assert steps_of(make_plan(views, demand, rebalance=rebalance)) == steps_of(whole)
        assert next_rotation(views, whole) == move
        assert finish(last_holder_keys(views)) == keys


@pytest.mark.parametrize("spares", [10, 1000, 4000])
def test_phases_look_at_a_bounded_number_of_views(spares: int) -> None:
    """Twice as many views make about twice as many phases, not longer ones."""
    counts = []
    for size in (500, 1000, 2000):
        views = [View(limit=4, is_failing=i % 2 > 0, rotation_key=i) for i in range(size)]
        demand = Demand(max_slots=4 * size, spares=spares * size // 1000)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_phases, "SLICE", 50)
            patch.setattr(apportion, "SLICE", 50)
            counts.append(count_phases(plan_in_phases(views, demand)))
    assert all(1.8 * few <= many <= 2.2 * few for few, many in pairwise(counts))
