"""Proportional division of slots by weight."""

from __future__ import annotations

from collections.abc import Mapping
from heapq import heapify, heapreplace
from math import inf

from .plan import O

#: A backend gets its first slot before any other gets a second one, unless the heaviest
#: weighs more than this many times as much.
MAX_WEIGHT_RATIO = 100


def apportion(slots: int, limits: Mapping[O, int]) -> dict[O, int]:
    """Divide slots in proportion to the weights, none beyond its limit.

    The method is D'Hondt's (Jefferson's) with a cheap first slot. It is monotonic: when
    `slots` grows, no quota shrinks, so demand that comes and goes moves nothing. First
    slots are given in order of `rotation_key`, which is by weighted chance already.
    Ties among further slots are broken by `rotation_key` too.
    """
    left = min(slots, sum(limits.values()))
    if left <= 0:
        return dict.fromkeys(limits, 0)
    weights = {view.effective_weight for view in limits}
    rounds = slots // len(limits) if len(weights) == 1 else 0
    quotas = {
        view: rounds if rounds < limit else limit  # noqa: FURB136 - min() takes twice as long
        for view, limit in limits.items()
    }
    left -= sum(quotas.values())
    if left:
        _fill(quotas, limits, left, max(weights))
    return quotas


def _fill(quotas: dict[O, int], limits: Mapping[O, int], left: int, heaviest: float) -> None:
    """Give `left` more slots, one at a time, each to the view that pays the least for it."""
    heap = [
        (_price(held, view.effective_weight, heaviest), view.rotation_key, i, view)
        for i, (view, held) in enumerate(quotas.items())
        if held < limits[view]
    ]
    heapify(heap)
    for _ in range(left):
        _, key, i, view = heap[0]
        held = quotas[view] = quotas[view] + 1
        is_full = held == limits[view]
        price = inf if is_full else (held + 1) / view.effective_weight
        heapreplace(heap, (price, key, i, view))


def _price(held: int, weight: float, heaviest: float) -> float:
    """Return the price of one more slot in addition to `held` ones."""
    if held:
        return (held + 1) / weight
    return 2 / weight / MAX_WEIGHT_RATIO if is_featherweight(weight, heaviest) else 0


def is_featherweight(weight: float, heaviest: float) -> bool:
    """Return True if so light a backend does not get its first slot before all second ones."""
    return weight * MAX_WEIGHT_RATIO < heaviest
