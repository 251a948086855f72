"""`Agenda`: the times at which something is due on each backend, for one timer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from typing import Any, Protocol, TypeAlias, final

from .bell import Bell

#: The time of a look, a number that no other has, and the slot set; `None` instead of the slot
#: set if another look has taken the place of this one.
Look: TypeAlias = list[Any]


class Scheduled(Protocol):
    """A slot set, as far as the agenda is concerned."""

    #: The next look at it; `None` without any. The agenda's.
    look: Look | None


@final
class Agenda:
    """The next look at each slot set: a back-off ends, a check or a step of a warm-up is due.

    A timer, or a task, for each of ten thousand backends would cost more than what they do.
    """

    __slots__ = ("_begin", "_looks", "_next_number", "bell")

    def __init__(self) -> None:
        self._looks: list[Look] = []
        self._next_number: Callable[[], int] = itertools.count().__next__
        #: Starts the task that looks, until that has been started.
        self._begin: Callable[[], None] | None = None
        #: Wakes the task that looks.
        self.bell: Bell = Bell()

    def bind(self, begin: Callable[[], None]) -> None:
        """Have `begin` called as the first look is added."""
        self._begin = begin

    def add(self, slot_set: Scheduled, at: float) -> None:
        """Have a slot set looked at at the time `at`, if that is before its next look."""
        if at == math.inf:
            return
        if slot_set.look is not None:
            if slot_set.look[0] <= at:
                return
            self.forget(slot_set)
        slot_set.look = [at, self._next_number(), slot_set]
        heappush(self._looks, slot_set.look)
        if self._begin is not None:
            begin, self._begin = self._begin, None
            begin()
        elif self._looks[0] is slot_set.look:
            self.bell.ring()

    def forget(self, slot_set: Scheduled) -> None:
        """Drop the look at a slot set, if there is one. The entry holds it no more."""
        look = slot_set.look
        if look is not None:
            look[2] = slot_set.look = None

    @property
    def next_at(self) -> float:
        """The time of the next look; never if there is none."""
        return self._looks[0][0] if self._looks else math.inf

    def take_due(self, now: float) -> Iterator[Any]:
        """Take out and return the slot sets to be looked at by `now`, one after the other."""
        while self._looks and self._looks[0][0] <= now:
            slot_set = heappop(self._looks)[2]
            if slot_set is not None:
                slot_set.look = None
                yield slot_set
