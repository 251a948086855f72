"""Computations over thousands of items, in phases of some milliseconds each.

Such a computation is a generator. Between two phases, its caller lets other tasks run.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from heapq import merge
from itertools import islice
from typing import Any, Final, TypeAlias, TypeVar

T = TypeVar("T")

#: A computation; between two of its phases, the caller may do other things.
Phases: TypeAlias = Generator[None, None, T]

#: The number of items that one phase looks at, in 1 to 2 ms.
SLICE: Final = 1000


def finish(phases: Phases[T]) -> T:
    """Return the result of a computation, without a pause."""
    while True:
        try:
            next(phases)
        except StopIteration as stop:
            result: T = stop.value
            return result


def into(results: list[T], phases: Phases[T]) -> Phases[None]:
    """Append the result of a computation to a list, for a caller that pauses between phases."""
    results.append((yield from phases))


def slices(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Return the items in parts, each for one phase, in their order."""
    if len(items) <= SLICE:
        yield items
        return
    for start in range(0, len(items), SLICE):
        yield items[start : start + SLICE]


def sort(
    items: Sequence[T], key: Callable[[T], Any], *, reverse: bool = False
) -> Phases[Sequence[T]]:
    """Return the items in the order of their keys.

    Each key is computed once, so that the order is sound though keys change in a pause.
    """
    if len(items) <= SLICE:
        return sorted(items, key=key, reverse=reverse)
    runs: list[list[tuple[Any, int, T]]] = []
    for start in range(0, len(items), SLICE):
        part = enumerate(items[start : start + SLICE], start)
        runs.append(sorted([(key(item), number, item) for number, item in part], reverse=reverse))
        yield
    merged = merge(*runs, reverse=reverse)
    result: list[T] = []
    while part_of_result := [item for _, _, item in islice(merged, SLICE)]:
        result += part_of_result
        yield
    return result
