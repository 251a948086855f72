"""Proportional division of slots by weight."""

from __future__ import annotations

from collections.abc import Mapping
from heapq import heappush, heapreplace
from math import inf

from .._phases import SLICE, Phases, finish, slices
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
    return finish(apportion_in_phases(slots, limits))


def apportion_in_phases(slots: int, limits: Mapping[O, int]) -> Phases[dict[O, int]]:
    """Divide slots as `apportion` does, with pauses."""
    capacity = sum(limits.values())
    if slots <= 0 or slots >= capacity:
        return dict(limits) if slots > 0 else dict.fromkeys(limits, 0)
    weights = {view.effective_weight for view in limits}
    yield
    rounds = slots // len(limits) if len(weights) == 1 else 0
    quotas = {
        view: rounds if rounds < limit else limit  # noqa: FURB136 - min() takes twice as long
        for view, limit in limits.items()
    }
    yield
    left = slots - sum(quotas.values())
    if left:
        yield from _fill(quotas, limits, left, max(weights))
    return quotas


def _fill(
    quotas: dict[O, int], limits: Mapping[O, int], left: int, heaviest: float
) -> Phases[None]:
    """Give `left` more slots, one at a time, each to the view that pays the least for it."""
    heap: list[tuple[float, float, int, O]] = []
    for part in slices(list(enumerate(quotas.items()))):
        for i, (view, held) in part:
            if held < limits[view]:
                price = _price(held, view.effective_weight, heaviest)
                heappush(heap, (price, view.rotation_key, i, view))
        yield
    for count in range(left):
        _, key, i, view = heap[0]
        held = quotas[view] = quotas[view] + 1
        is_full = held == limits[view]
        price = inf if is_full else (held + 1) / view.effective_weight
        heapreplace(heap, (price, key, i, view))
        if count % SLICE == SLICE - 1:
            yield


def _price(held: int, weight: float, heaviest: float) -> float:
    """Return the price of one more slot in addition to `held` ones."""
    if held:
        return (held + 1) / weight
    return 2 / weight / MAX_WEIGHT_RATIO if is_featherweight(weight, heaviest) else 0


def is_featherweight(weight: float, heaviest: float) -> bool:
    """Return True if so light a backend does not get its first slot before all second ones."""
    return weight * MAX_WEIGHT_RATIO < heaviest
