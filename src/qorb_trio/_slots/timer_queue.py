"""`TimerQueue`: the times at which something is due on each backend, in one heap."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from typing import Any, Protocol, TypeAlias, final

from .bell import Bell

#: The time at which something is due, a number that no other entry has, and the slot set;
#: `None` instead of the slot set if another entry has taken the place of this one.
TimerEntry: TypeAlias = list[Any]


class Scheduled(Protocol):
    """A slot set, as far as the timer queue is concerned."""

    #: Its entry; `None` if nothing is due later. The timer queue's.
    timer_entry: TimerEntry | None


@final
class TimerQueue:
    """The next time for each slot set: a back-off ends, a check or a step of a warm-up is due.

    A timer, or a task, for each of ten thousand backends would cost more than what they do.
    """

    __slots__ = ("_begin", "_heap", "_next_number", "bell")

    def __init__(self) -> None:
        self._heap: list[TimerEntry] = []
        self._next_number: Callable[[], int] = itertools.count().__next__
        #: Starts the task that takes what is due, until that has been started.
        self._begin: Callable[[], None] | None = None
        #: Wakes the task that takes what is due.
        self.bell: Bell = Bell()

    def bind(self, begin: Callable[[], None]) -> None:
        """Have `begin` called as the first entry is added."""
        self._begin = begin

    def add(self, slot_set: Scheduled, at: float) -> None:
        """Make a slot set due at the time `at`, unless it is due before."""
        if at == math.inf:
            return
        if slot_set.timer_entry is not None:
            if slot_set.timer_entry[0] <= at:
                return
            self.forget(slot_set)
        slot_set.timer_entry = [at, self._next_number(), slot_set]
        heappush(self._heap, slot_set.timer_entry)
        if self._begin is not None:
            begin, self._begin = self._begin, None
            begin()
        elif self._heap[0] is slot_set.timer_entry:
            self.bell.ring()

    def forget(self, slot_set: Scheduled) -> None:
        """Drop the entry of a slot set, if there is one. It holds the slot set no more."""
        entry = slot_set.timer_entry
        if entry is not None:
            entry[2] = slot_set.timer_entry = None

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def next_at(self) -> float:
        """The time of the first entry; infinity if there is none."""
        return self._heap[0][0] if self._heap else math.inf

    def take_due(self, now: float) -> Iterator[Any]:
        """Take out and return the slot sets that are due by `now`, one after the other."""
        while self._heap and self._heap[0][0] <= now:
            slot_set = heappop(self._heap)[2]
            if slot_set is not None:
                slot_set.timer_entry = None
                yield slot_set
