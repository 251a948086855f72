"""`Totals`: the sums over all slots of a pool."""

from __future__ import annotations

from typing import final


@final
class Totals:
    """The numbers of slots in a pool, over all its slot sets.

    Written by `SlotSet` only, in the same step as its own counts.
    """

    __slots__ = ("checking", "claimed", "connected", "slots")

    def __init__(self) -> None:
        #: All slots that are not CLOSED, those of draining backends included.
        self.slots: int = 0
        #: Slots with an established connection.
        self.connected: int = 0
        #: Of the connected ones, those in CHECKING.
        self.checking: int = 0
        #: Of the connected ones, those that are checked out.
        self.claimed: int = 0

    @property
    def idle(self) -> int:
        """The number of spares."""
        return self.connected - self.claimed - self.checking
