"""`Registry`: the slot sets of a pool, active and draining ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar, final

from .slot_set import SlotSet

C = TypeVar("C")


@final
class Registry(Generic[C]):
    """The slot sets of one pool, by the name of their backend."""

    __slots__ = ("active", "draining", "retired_claims")

    def __init__(self) -> None:
        #: The sets of the resolver's current backends. To be read only.
        self.active: dict[str, SlotSet[C]] = {}
        #: The sets of backends that have left, until their last slot is closed. A dict,
        #: because the order of a set would be by chance.
        self.draining: dict[SlotSet[C], None] = {}
        #: Claims granted on backends whose set has been forgotten.
        self.retired_claims: int = 0

    def __iter__(self) -> Iterator[SlotSet[C]]:
        """All sets. Others may be added or forgotten meanwhile."""
        return iter([*self.active.values(), *self.draining])

    @property
    def claims(self) -> int:
        """All claims granted so far."""
        return self.retired_claims + sum([slot_set.total_claims for slot_set in self])

    def add(self, slot_set: SlotSet[C]) -> None:
        """Add the set of a backend that is new."""
        self.active[slot_set.backend.name] = slot_set

    def drain(self, slot_set: SlotSet[C]) -> None:
        """Move a set whose backend has left to the draining ones."""
        del self.active[slot_set.backend.name]
        self.draining[slot_set] = None

    def forget(self, slot_set: SlotSet[C]) -> None:
        """Drop a draining set that has no slot any more."""
        if slot_set in self.draining:
            del self.draining[slot_set]
            self.retired_claims += slot_set.total_claims
