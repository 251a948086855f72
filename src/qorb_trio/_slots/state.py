"""The states of a slot, as a table, and the slot itself. No I/O here."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, Generic, TypeVar, final

if TYPE_CHECKING:
    import trio

    from .slot_set import SlotSet

C = TypeVar("C")


class State(enum.IntEnum):
    """Where a slot is in its life. Each slot is in exactly one state."""

    CONNECTING = 0
    """Being dialled, or waiting for its back-off before it is."""

    UNCLAIMED = 1
    """Connected and free: a spare."""

    CHECKING = 2
    """Connected; the connection is being checked or recycled."""

    CLAIMED = 3
    """Connected and lent out."""

    CLOSING = 4
    """The dial is being cancelled, or the connection is being closed."""

    CLOSED = 5
    """The end. The slot counts nowhere any more."""

    @property
    def label(self) -> str:
        """The name that people and instruments see."""
        return self.name.lower()


# Python 3.11 takes longer to look a member up in its enum than for all the rest of a
# transition, so each state has a name of its own. They are in the order of `State`.
CONNECTING, UNCLAIMED, CHECKING, CLAIMED, CLOSING, CLOSED = State

#: From each state, the states that may follow. Anything else is a bug in the pool.
#:
#: To be handed from one claimant to the next is no transition: the slot stays claimed.
NEXT: dict[State, frozenset[State]] = {
    State.CONNECTING: frozenset({State.UNCLAIMED, State.CLAIMED, State.CLOSING, State.CLOSED}),
    State.UNCLAIMED: frozenset({State.CLAIMED, State.CHECKING, State.CLOSING}),
    State.CHECKING: frozenset({State.UNCLAIMED, State.CLAIMED, State.CLOSING}),
    State.CLAIMED: frozenset({State.UNCLAIMED, State.CHECKING, State.CLOSING}),
    State.CLOSING: frozenset({State.CLOSED}),
    State.CLOSED: frozenset(),
}


#: The states in which a slot has an established connection.
CONNECTED = frozenset({State.UNCLAIMED, State.CHECKING, State.CLAIMED})

#: Those between which it goes to and fro with each claim.
AT_REST = frozenset({State.UNCLAIMED, State.CLAIMED})


class IllegalTransitionError(AssertionError):
    """A slot was to go where its state does not lead. Always a bug in the pool."""


@final
class Slot(Generic[C]):
    """A commitment to hold one connection to one backend, from its dial to its close.

    A plain record: the slot set that it belongs to is the one writer of its state.
    """

    __slots__ = (
        "connection",
        "epoch",
        "holder",
        "home",
        "id",
        "returned",
        "scope",
        "since",
        "state",
    )

    def __init__(self, slot_id: int, home: SlotSet[C]) -> None:
        self.id: int = slot_id
        self.home: SlotSet[C] = home
        self.state: State = State.CONNECTING
        #: What ``connect`` returned; meaningful in the connected states and in CLOSING.
        self.connection: C | Any = None
        #: The epoch of the backend's track record in which it was dialled.
        self.epoch: int = 0
        #: The task that claimed it, while it is CLAIMED.
        self.holder: trio.lowlevel.Task | None = None
        #: When it began to be dialled, was claimed, or was last used or checked.
        self.since: float = float("inf")
        #: Whether it comes back from a claim, and is to be recycled, not just checked.
        self.returned: bool = False
        #: Cancels the dial, check or recycling that is under way.
        self.scope: trio.CancelScope | None = None

    def __repr__(self) -> str:
        return f"<slot {self.id} of {self.home.backend.name}: {self.state.label}>"
