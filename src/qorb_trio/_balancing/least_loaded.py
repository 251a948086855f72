"""`LeastLoaded`: the default balancer."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import final

import attrs

from .strategy import FEW, Candidate


def least_loaded(loads: Sequence[int], weights: Sequence[float], draw: Callable[[], float]) -> int:
    """Return the position that is furthest below its fair part of all claims, by weight.

    If several are equally far below, and while all are idle, the weights decide by chance.
    `draw` returns a random number from 0 to 1.
    """
    if weights.count(weights[0]) < len(loads):
        return _least_loaded_by_weight(loads, weights, draw)
    # With equal weights, the least load is furthest below. This is the common case.
    return least_of(loads, draw)


def least_of(loads: Sequence[int], draw: Callable[[], float]) -> int:
    """Return the position of the least load, by chance among equals."""
    size, least = len(loads), min(loads)
    tied = loads.count(least)
    if tied == 1:
        return loads.index(least)
    nth = int(draw() * tied)
    if tied == size:
        return nth
    return [i for i, load in enumerate(loads) if load == least][nth]


def _least_loaded_by_weight(
    loads: Sequence[int], weights: Sequence[float], draw: Callable[[], float]
) -> int:
    total = sum(loads)
    tied: Sequence[int] = range(len(loads))
    if total:
        fair = (total + 1) / sum(weights)
        lacks = [fair * weight - load for load, weight in zip(loads, weights, strict=True)]
        most = max(lacks)
        tied = [i for i in tied if lacks[i] == most]
    point = draw() * sum([weights[i] for i in tied])
    for i in tied:
        point -= weights[i]
        if point < 0:
            return i
    return tied[-1]


@final
@attrs.frozen
class LeastLoaded:
    """Balancer that chooses the backend with the least load for its weight.

    The load of a backend is the number of claims that it serves now. The backend that is
    furthest below its fair part of all claims is chosen. Among equals, and while all are
    idle, the weights decide by chance.

    Of more than 8 backends it compares two that are picked at random, so that the cost does
    not depend on their number. That this keeps the load even was shown by Mitzenmacher, "The
    Power of Two Choices in Randomized Load Balancing" (1996).
    """

    def choose(
        self,
        candidates: Sequence[Candidate],
        rng: random.Random,
        now: float,  # noqa: ARG002 - the contract's
    ) -> Candidate:
        """Return the least loaded candidate; see `Balancer.choose`."""
        if len(candidates) > FEW:
            candidates = rng.sample(candidates, 2)
        loads = [candidate.load for candidate in candidates]
        weights = [candidate.weight for candidate in candidates]
        return candidates[least_loaded(loads, weights, rng.random)]
