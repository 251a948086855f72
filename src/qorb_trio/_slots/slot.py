"""`Slot`: a commitment to hold one connection to one backend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar, final

import trio

from .state import CONNECTING, State

if TYPE_CHECKING:
    from .expiry import Expiry
    from .slot_set import SlotSet

C = TypeVar("C")

#: The time of what has not happened yet.
NOT_YET = float("inf")


@final
class Slot(Generic[C]):
    """A commitment to hold one connection to one backend, from its dial to its close.

    A record. Each of its fields has one writer, which docs/design.md names.
    """

    __slots__ = (
        "claimed_at",
        "connecting_since",
        "connection",
        "created_at",
        "expiry",
        "health_generation",
        "holder",
        "id",
        "idle_since",
        "label",
        "scope",
        "slot_set",
        "state",
    )

    def __init__(self, slot_id: int, slot_set: SlotSet[C]) -> None:
        self.id: int = slot_id
        self.slot_set: SlotSet[C] = slot_set
        self.state: State = CONNECTING
        #: The object that ``connect`` returned; present in the connected states and in CLOSING.
        self.connection: C | Any = None
        #: The detector's `health_generation` in which the slot was dialled.
        self.health_generation: int = 0
        #: The task that made the claim, while the slot is CLAIMED.
        self.holder: trio.lowlevel.Task | None = None
        #: The label of the claim that holds the slot, or held it last.
        self.label: str | None = None
        #: When the dial began, while it is under way; `NOT_YET` during the back-off.
        self.connecting_since: float = NOT_YET
        #: When the connection was established.
        self.created_at: float = NOT_YET
        #: When the connection was last used or checked. Kept up to date only where the
        #: connector can check idle connections, or idle ones expire.
        self.idle_since: float = NOT_YET
        #: When the connection was last checked out.
        self.claimed_at: float = NOT_YET
        #: Cancels the dial, check, recycling or set-up that is under way.
        self.scope: trio.CancelScope | None = None
        #: The dates by which the connection is retired, where anything limits its life.
        self.expiry: Expiry | None = None

    def __repr__(self) -> str:
        return f"<slot {self.id} of {self.slot_set.backend.name}: {self.state.label}>"

    @property
    def is_due(self) -> bool:
        """True if the connection should be replaced because of its age or use."""
        return self.expiry is not None and self.expiry.due is not None

    def begin_dial(self, generation: int, now: float) -> None:
        """Date a dial, and note which failures it cannot have seen."""
        self.health_generation = generation
        self.connecting_since = now

    def renew_generation(self, generation: int) -> None:
        """Note that the connection has seen all failures so far."""
        self.health_generation = generation

    def attach(self, connection: C) -> None:
        """Keep what ``connect`` returned."""
        self.connection = connection

    def mark_connected(self, now: float) -> None:
        """Date a connection that has been established."""
        self.connecting_since = NOT_YET
        self.created_at = self.idle_since = now

    def mark_idle(self, now: float) -> None:
        """Date the last use or check of a connection."""
        self.idle_since = now

    def detach(self) -> None:
        """Forget a connection that is closed."""
        self.connection = None

    def begin_io(self, deadline: float = NOT_YET) -> trio.CancelScope:
        """Return a new scope for I/O on this slot, by which others can interrupt it."""
        self.scope = scope = trio.CancelScope(deadline=deadline)
        return scope

    def end_io(self) -> None:
        """Forget the scope: no I/O is under way."""
        self.scope = None

    def interrupt(self) -> None:
        """Cancel the I/O that is under way, if any is."""
        if self.scope is not None:
            self.scope.cancel()
