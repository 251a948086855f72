"""The states of a slot, as a table. Nothing here does I/O or imports trio."""

from __future__ import annotations

import enum


class State(enum.IntEnum):
    """The stage of a slot's life. Each slot is in exactly one state."""

    CONNECTING = 0
    """Being dialled, or waiting for its back-off before it is."""

    UNCLAIMED = 1
    """Connected and idle: a spare."""

    CHECKING = 2
    """Connected; the connection is being checked or recycled."""

    CLAIMED = 3
    """Connected and checked out by a claim."""

    CLOSING = 4
    """The dial is being cancelled, or the connection is being closed."""

    CLOSED = 5
    """The end. The slot counts nowhere any more."""

    @property
    def label(self) -> str:
        """The name that people and instruments see."""
        return self.name.lower()


# Python 3.11 takes longer to look a member up in its enum than for all the rest of a
# transition, so each state has a module-level name. They are in the order of `State`.
CONNECTING, UNCLAIMED, CHECKING, CLAIMED, CLOSING, CLOSED = State

#: The time of what has not happened yet.
NOT_YET = float("inf")

#: From each state, the states that may follow. Anything else is a bug in the pool.
#:
#: A direct hand-off from one claimant to the next is no transition: the slot stays claimed.
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

#: The states between which a slot moves with each claim.
AT_REST = frozenset({State.UNCLAIMED, State.CLAIMED})


class IllegalTransitionError(AssertionError):
    """A transition that the table does not have. Always a bug in the pool."""
