"""`CheckBatches`: the tasks of slot sets that wait for one time wake up together."""

from __future__ import annotations

import math
from typing import Any, final

from .._slots.slot_set import SlotSet


@final
class CheckBatches:
    """The slot sets of one pool that have a health check in the same batch.

    The first of a batch has a timer, and wakes the others: a timer for each would take most
    of the time that their checks take.
    """

    __slots__ = ("_batches", "_times")

    def __init__(self) -> None:
        #: The slot sets of each batch, the first of them first.
        self._batches: dict[float, dict[SlotSet[Any], None]] = {}
        #: The time of the batch to which each slot set belongs.
        self._times: dict[SlotSet[Any], float] = {}

    def join(self, slot_set: SlotSet[Any], at: float) -> float:
        """Add a slot set to the batch at the time `at`; return when its own timer is due."""
        batch = self._batches.setdefault(at, {})
        is_first = not batch
        batch[slot_set] = None
        self._times[slot_set] = at
        return at if is_first else math.inf

    def leave(self, slot_set: SlotSet[Any]) -> None:
        """Take a slot set out of its batch, if it is in any; the first one wakes the others.

        They look again at what is due. So it does not matter if the first one is early.
        """
        at = self._times.pop(slot_set, None)
        if at is None:
            return
        batch = self._batches[at]
        is_first = next(iter(batch)) is slot_set
        del batch[slot_set]
        if is_first:
            del self._batches[at]
            for other in batch:
                del self._times[other]
                other.tasks.ring()
