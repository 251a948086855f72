"""The division of slots by weight."""

from __future__ import annotations

from typing import TypeAlias

import pytest
from hypothesis import given, strategies as st

from qorb_trio._planning.apportion import apportion

from .situations import WEIGHTS, View

Limits: TypeAlias = dict[View, int]


def limits_of(weights: list[float], limit: int = 999) -> Limits:
    """Return equal limits for views of these weights, with keys in the order of the list."""
    return {
        View(effective_weight=weight, rotation_key=key): limit
        for key, weight in enumerate(weights, 1)
    }


@st.composite
def elections(draw: st.DrawFn) -> Limits:
    """Draw weights, limits and keys of some backends."""
    weights = draw(st.lists(WEIGHTS, min_size=1, max_size=8))
    size = len(weights)
    limits = draw(st.lists(st.integers(0, 9), min_size=size, max_size=size))
    keys = draw(st.permutations(range(1, size + 1)))
    return {
        View(effective_weight=weight, rotation_key=key): limit
        for weight, limit, key in zip(weights, limits, keys, strict=True)
    }


def price_of(view: View, held: int) -> float:
    """Return the price of one more slot for a view that holds some."""
    return (held + 1) / view.effective_weight if held else 0


@given(limits=elections(), slots=st.integers(0, 80))
def test_apportion_gives_all_that_fits(limits: Limits, slots: int) -> None:
    """All slots are given as far as the limits allow, and none beyond a limit."""
    quotas = apportion(slots, limits)
    assert quotas.keys() == limits.keys()
    assert sum(quotas.values()) == min(slots, sum(limits.values()))
    assert all(0 <= quotas[view] <= limit for view, limit in limits.items())


@given(limits=elections())
def test_apportion_is_house_monotone(limits: Limits) -> None:
    """One slot more makes one quota greater by one, and changes no other."""
    before = apportion(0, limits)
    for slots in range(1, sum(limits.values()) + 2):
        after = apportion(slots, limits)
        gains = [after[view] - before[view] for view in limits]
        assert sorted(gains)[:-1] == [0] * (len(gains) - 1)
        assert sum(gains) == (slots <= sum(limits.values()))
        before = after


@pytest.mark.parametrize(
    ("slots", "weights", "quotas"),
    [
        (10, [1, 3, 6], [1, 3, 6]),
        (20, [1, 3, 6], [2, 6, 12]),
        (12, [1, 1, 1], [4, 4, 4]),
        (11, [10, 1], [10, 1]),
        (303, [1, 2, 100, 200], [1, 2, 100, 200]),
        (3, [0.5, 1], [1, 2]),
    ],
)
def test_apportion_is_proportional(slots: int, weights: list[float], quotas: list[int]) -> None:
    """Slots that can be divided in proportion to the weights are divided so."""
    assert list(apportion(slots, limits_of(weights)).values()) == quotas


@given(quotas=st.lists(st.integers(1, 20), min_size=1, max_size=8), scale=WEIGHTS)
def test_apportion_is_exact_when_it_can_be(quotas: list[int], scale: float) -> None:
    """Slots in number a multiple of the weights are divided without any remainder."""
    limits = limits_of([quota * scale for quota in quotas])
    assert list(apportion(sum(quotas), limits).values()) == quotas


@given(limits=elections(), slots=st.integers(0, 80))
def test_apportion_leaves_no_backend_envious(limits: Limits, slots: int) -> None:
    """No backend below its limit would pay less for a slot of another than that one did."""
    quotas = apportion(slots, limits)
    for view, held in quotas.items():
        if held == limits[view]:
            continue
        for other, count in quotas.items():
            if count:
                assert price_of(other, count - 1) <= price_of(view, held)


@given(
    slots=st.integers(0, 30),
    weight=WEIGHTS,
    keys=st.integers(1, 8).flatmap(lambda n: st.permutations(range(1, n + 1))),
)
def test_apportion_breaks_ties_by_key(slots: int, weight: float, keys: list[int]) -> None:
    """Among equals, the remainder goes to those with the smallest keys."""
    limits = {View(effective_weight=weight, rotation_key=key): 99 for key in keys}
    full, rest = divmod(slots, len(keys))
    assert list(apportion(slots, limits).values()) == [full + (key <= rest) for key in keys]


@given(limits=elections(), slots=st.integers(0, 8))
def test_apportion_gives_first_slots_in_order_of_keys(limits: Limits, slots: int) -> None:
    """With fewer slots than backends, those with the smallest keys get one, whatever they weigh."""
    usable = sorted((v for v, limit in limits.items() if limit), key=lambda v: v.rotation_key)
    quotas = apportion(min(slots, len(usable)), limits)
    assert [v for v in usable if quotas[v]] == usable[:slots]


@pytest.mark.parametrize("weight", [2, 10, 100])
def test_apportion_gives_every_backend_a_first_slot(weight: int) -> None:
    """A light backend gets its first slot before one of its hundredfold gets a second."""
    assert list(apportion(3, limits_of([1, 1, weight])).values()) == [1, 1, 1]


def test_apportion_lets_a_featherweight_wait() -> None:
    """A backend that weighs less than a hundredth of another waits while that one gets more."""
    assert list(apportion(3, limits_of([1, 200])).values()) == [0, 3]
    assert list(apportion(4, limits_of([1, 200])).values()) == [1, 3]


def test_apportion_of_nothing() -> None:
    """Without a backend there is nothing to divide."""
    nobody: Limits = {}
    assert apportion(5, nobody) == {}
