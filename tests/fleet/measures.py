"""Pure functions on what a run has recorded."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence


def spread(counts: Sequence[int]) -> float:
    """Return the largest count divided by the mean; 0 if all are 0."""
    total = sum(counts)
    return max(counts) * len(counts) / total if total else 0.0


def shares(counts: Sequence[int], classes: int) -> list[float]:
    """Return the share of each class, where item i belongs to class i modulo `classes`."""
    total = sum(counts) or 1
    return [sum(counts[kind::classes]) / total for kind in range(classes)]


def worst_cell(
    events: Iterable[tuple[float, int]], begin: float, end: float, width: float = 1.0
) -> int:
    """Return the largest number of events of one host within one interval of `width` seconds."""
    cells = Counter(
        (int((time - begin) / width), host) for time, host in events if begin <= time < end
    )
    return max(cells.values(), default=0)


def per_interval(times: Iterable[float], begin: float, end: float, width: float = 1.0) -> list[int]:
    """Return the number of events in each interval of `width` seconds."""
    counts = [0] * max(1, math.ceil((end - begin) / width - 1e-9))
    for time in times:
        if begin <= time < end:
            counts[min(len(counts) - 1, int((time - begin) / width))] += 1
    return counts


def chance_limit(mean: float, cells: int, risk: float = 0.01) -> int:
    """Return the count that independent events exceed in some cell with a chance below `risk`.

    Each of the cells holds a Poisson number of events with that mean. What independent
    clients do cannot be more even than that.
    """
    count, tail = 0, 1 - math.exp(-mean)
    while tail * cells > risk:
        count += 1
        # The logarithm, because e to the power of minus the mean is 0 from a mean of 746 on.
        tail -= math.exp(count * math.log(mean) - mean - math.lgamma(count + 1))
    return count


def even_limit(counts: Sequence[int]) -> float:
    """Return the largest spread that is even.

    With 16 connections per backend and a thousand backends, random places lead to 2.1. With
    fewer per backend, the limit is that of chance.
    """
    mean = sum(counts) / len(counts)
    return 2.2 if mean >= 16 or not mean else chance_limit(mean, len(counts)) / mean


def quantile(values: Sequence[float], part: float) -> float:
    """Return the value below which that part of the values lies; 0 if there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else 0.0


def falling(counts: Iterable[int]) -> list[tuple[float, float]]:
    """Return the points of a chart that shows the counts from the largest to the smallest."""
    ordered = sorted(counts, reverse=True)
    return [(100 * i / max(1, len(ordered) - 1), float(n)) for i, n in enumerate(ordered)]
