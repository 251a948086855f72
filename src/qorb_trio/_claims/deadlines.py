"""`Deadlines`: the deadlines of waiters that are out of the order of the queue."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush
from typing import Generic, Protocol, TypeVar, final

#: Cancelled waiters are removed from a container when they outnumber the others by this many.
COMPACT_THRESHOLD = 64


class Parked(Protocol):
    """A waiter, as far as its deadline is concerned."""

    @property
    def deadline(self) -> float: ...
    @property
    def task(self) -> object | None:
        """`None` once it is not parked any more."""


W = TypeVar("W", bound=Parked)


@final
class Deadlines(Generic[W]):
    """A heap of waiters by their deadlines. Those that have left it are skipped."""

    __slots__ = ("_heap", "_number")

    def __init__(self) -> None:
        # With a number, so that two waiters are never compared themselves.
        self._heap: list[tuple[float, int, W]] = []
        self._number: Callable[[], int] = itertools.count().__next__

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, waiter: W, parked: int) -> None:
        """Add a waiter. `parked` is the number of all waiters that are parked."""
        heap = self._heap
        if len(heap) > COMPACT_THRESHOLD + 2 * parked:
            heap[:] = [entry for entry in heap if entry[2].task]
            heapify(heap)
        heappush(heap, (waiter.deadline, self._number(), waiter))

    def first(self) -> float:
        """Return the first deadline, which may be that of a cancelled waiter."""
        return self._heap[0][0] if self._heap else float("inf")

    def expired(self, now: float) -> Iterator[W]:
        """Yield the waiters whose deadline has come."""
        heap = self._heap
        while heap and (heap[0][2].task is None or heap[0][0] <= now):
            _, _, waiter = heappop(heap)
            if waiter.task:
                yield waiter
