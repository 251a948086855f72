"""`SlotStates`: the states of the slots of one backend, and their counts.

The one writer of the states. Everything in here is synchronous.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from .._model.backend import Backend
from .state import (
    AT_REST,
    CHECKING,
    CLAIMED,
    CLOSED,
    CONNECTED,
    CONNECTING,
    NEXT,
    NOT_YET,
    UNCLAIMED,
    IllegalTransitionError,
    State,
)

if TYPE_CHECKING:
    from .._events.emitter import Emitter
    from .totals import Totals


class Stateful(Protocol):
    """A slot, as far as its state is concerned."""

    state: State

    @property
    def id(self) -> int: ...
    @property
    def is_due(self) -> bool:
        """True if the connection should be replaced because of its age or use."""


S = TypeVar("S", bound=Stateful)


class IdleListener(Protocol):
    """Told which slot sets have an idle slot: the idle index, or the ejections."""

    def add(self, slot_set: Any, /) -> None:
        """Note that a slot set has got its first idle slot."""

    def remove(self, slot_set: Any, /) -> None:
        """Note that a slot set has no idle slot any more."""


class IdleKeeper(IdleListener, Protocol):
    """The idle index."""

    def forget(self, slot_set: Any, /) -> None:
        """Forget a slot set that has left, or whose priority or weight will change."""


class SlotStates(Generic[S]):
    """The slots of one backend by their states. `SlotSet` adds the backend."""

    __slots__ = (
        "_events",
        "_idle_index",
        "_idle_listener",
        "_totals",
        "backend",
        "claimed",
        "connected",
        "dials",
        "idle_slots",
        "is_active",
        "is_ejected",
        "retiring",
        "slots",
    )

    backend: Backend

    def __init__(self, totals: Totals, idle_index: IdleKeeper, events: Emitter) -> None:
        self._totals: Totals = totals
        self._idle_index: IdleKeeper = idle_index
        #: Told of the idle slots: the index, except while the backend is ejected.
        self._idle_listener: IdleListener = idle_index
        self._events: Emitter = events
        #: False as soon as the backend has left or the pool ends: no more I/O but closing.
        self.is_active: bool = True
        #: True while the backend gets no claims, because its claims kept failing.
        self.is_ejected: bool = False
        #: All slots that are not CLOSED. A dict, because the order of a set would be by chance.
        self.slots: dict[S, None] = {}
        #: The UNCLAIMED ones, longest idle first.
        self.idle_slots: deque[S] = deque()
        #: The CONNECTING ones, oldest first, and when each dial began; `NOT_YET` in a back-off.
        self.dials: dict[S, float] = {}
        #: The numbers of slots with an established connection, and of those checked out.
        self.connected: int = 0
        self.claimed: int = 0
        #: Connections that are due for replacement.
        self.retiring: int = 0

    @property
    def idle(self) -> int:
        return len(self.idle_slots)

    @property
    def connecting(self) -> int:
        return len(self.dials)

    @property
    def retiring_idle(self) -> int:
        # Rarely any, so they are counted when the planner asks.
        return sum([slot.is_due for slot in self.idle_slots]) if self.retiring else 0

    @property
    def closing(self) -> int:
        return len(self.slots) - len(self.dials) - self.connected

    def transition(self, slot: S, new: State) -> None:
        """Change a slot's state and all counts, and tell the instruments, in one step."""
        old = slot.state
        if new not in NEXT[old]:
            raise IllegalTransitionError(f"{slot!r} cannot become {new.label}")
        slot.state = new
        if new is CLAIMED:
            self.claimed += 1
            self._totals.claimed += 1
        elif old is CLAIMED:
            self.claimed -= 1
            self._totals.claimed -= 1
        if old not in AT_REST or new not in AT_REST:
            self._recount(slot, old, new)
        if (emit := self._events.slot_state_change) is not None:
            emit(slot.id, self.backend, old.label, new.label)

    def _recount(self, slot: S, old: State, new: State) -> None:
        """Adjust the counts other than that of claims; most transitions need none of this."""
        totals = self._totals
        totals.checking += (new is CHECKING) - (old is CHECKING)
        change = (new in CONNECTED) - (old in CONNECTED)
        self.connected += change
        totals.connected += change
        if old is CONNECTING:
            del self.dials[slot]
            if not self.dials:
                self.dials = {}  # one that was filled keeps its memory
        if change < 0 and slot.is_due:
            self.retiring -= 1
        if new is CLOSED:
            del self.slots[slot]
            totals.slots -= 1
            if self.is_drained:
                self._end()

    def add_dials(self, new: list[S]) -> None:
        """Add slots that have just been made."""
        for slot in new:
            self.slots[slot] = None
            self.dials[slot] = NOT_YET
        self._totals.slots += len(new)

    def date_dial(self, slot: S, now: float) -> None:
        """Note that the dial of a slot begins now."""
        self.dials[slot] = now

    # Idle slots.

    def push_idle(self, slot: S) -> None:
        """Make a connection that was checked out a spare."""
        idle = self.idle_slots
        is_first = not idle
        idle.append(slot)
        if self._events.slot_state_change is None:
            # Fast path: `transition` for CLAIMED to UNCLAIMED, without its call.
            slot.state = UNCLAIMED
            self.claimed -= 1
            self._totals.claimed -= 1
        else:
            self.transition(slot, UNCLAIMED)
        if is_first:
            # Last, because a spare of an ejected backend may be lent by this, as a trial.
            self._idle_listener.add(self)

    def push_free(self, slot: S, *, lend_last: bool = False) -> None:
        """Make a connection that is free, in whatever state, a spare."""
        is_first = not self.idle_slots
        if lend_last:
            self.idle_slots.appendleft(slot)
        else:
            self.idle_slots.append(slot)
        self.transition(slot, UNCLAIMED)
        if is_first:
            self._idle_listener.add(self)

    def pop_idle(self) -> S:
        """Check out the spare that was used last, which is the likeliest to be alive."""
        slot = self.idle_slots.pop()
        if not self.idle_slots:
            self._idle_listener.remove(self)
        if self._events.slot_state_change is None:
            # Fast path: `transition` for UNCLAIMED to CLAIMED, without its call.
            slot.state = CLAIMED
            self.claimed += 1
            self._totals.claimed += 1
        else:
            self.transition(slot, CLAIMED)
        return slot

    def count_retiring(self, slot: S) -> None:
        """Count a connection that has become due; if it is idle, it is lent last from now on."""
        self.retiring += 1
        if slot.state is UNCLAIMED:
            self.idle_slots.remove(slot)
            self.idle_slots.appendleft(slot)

    def pop_oldest_idle(self) -> S:
        """Take the spare that has been idle for longest out of the idle ones."""
        slot = self.idle_slots.popleft()
        if not self.idle_slots and self.is_active:
            self._idle_listener.remove(self)
        return slot

    def remove_idle(self, slot: S) -> None:
        """Take one spare out of the idle ones; the longest idle one costs least."""
        self.idle_slots.remove(slot)
        if not self.idle_slots:
            self._idle_listener.remove(self)

    # Ejection, which costs claims nothing, because the spares just have another listener.

    def begin_ejection(self, listener: IdleListener) -> None:
        """Keep the spares out of the idle index, and tell `listener` of them instead."""
        if self.idle_slots:
            self._idle_index.remove(self)
        self._idle_listener = listener
        self.is_ejected = True

    def end_ejection(self) -> None:
        """Let the spares be lent again."""
        self.is_ejected = False
        self._idle_listener = self._idle_index
        if self.idle_slots:
            self._idle_index.add(self)

    # The end.

    def deactivate(self) -> None:
        """Lend nothing from here any more: the backend has left, or the pool ends."""
        if not self.is_active:
            return
        self.is_active = False
        if self.idle_slots:
            self._idle_listener.remove(self)
        self._idle_index.forget(self)
        if self.is_drained:
            self._end()

    @property
    def is_drained(self) -> bool:
        """True if the last slot has closed, and there will be no other."""
        return not (self.slots or self.is_active)

    def _end(self) -> None:
        """Do what is left to do for a set that has no slot any more, and will have none."""
