"""A slot set without a pool: no task, no I/O, and an index that only takes note."""

from __future__ import annotations

import itertools
import random
from typing import Any

from qorb_trio import Backend, SetConfig
from qorb_trio._events.emitter import Emitter
from qorb_trio._health.detector import FailureDetector
from qorb_trio._slots.slot_set import Shared, Slot, SlotSet
from qorb_trio._slots.state import NEXT, State
from qorb_trio._slots.timer_queue import TimerQueue
from qorb_trio._slots.totals import Totals
from qorb_trio.abc import Instrument


class Index:
    """A record of the sets that have a spare."""

    def __init__(self) -> None:
        self.members: list[SlotSet[str]] = []
        #: Those that were to be forgotten, with their weights at that time.
        self.forgotten: list[tuple[SlotSet[str], float]] = []

    def add(self, slot_set: SlotSet[str]) -> None:
        """Enter a set that was not there."""
        assert slot_set not in self.members
        self.members.append(slot_set)

    def remove(self, slot_set: SlotSet[str]) -> None:
        """Delete a set that was there."""
        self.members.remove(slot_set)

    def forget(self, slot_set: SlotSet[str]) -> None:
        """Note a set that is not there."""
        assert slot_set not in self.members
        self.forgotten.append((slot_set, slot_set.balancing_weight))


class Changes(Instrument):
    """Notes each change of a state."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, str, str]] = []

    def slot_state_change(
        self, pool: str, slot_id: int, backend: Backend, old: str, new: str
    ) -> None:
        """Note it."""
        self.seen.append((slot_id, old, new))


class Scene:
    """One slot set, with the totals, the index and the events that it changes."""

    def __init__(self, *instruments: Instrument) -> None:
        self.totals, self.index = Totals(), Index()
        self.events = Emitter("p", instruments)
        #: Told of when it has left and its last slot has closed.
        self.gone: list[SlotSet[str]] = []
        index: Any = self.index
        shared: Shared[str] = Shared(
            totals=self.totals,
            timers=TimerQueue(),
            idle_index=index,
            events=self.events,
            next_slot_id=itertools.count(1).__next__,
        )
        shared.forget = self.gone.append
        detector = FailureDetector(SetConfig(), random.Random(0))
        self.slot_set: SlotSet[str] = SlotSet(Backend(("a", 1)), detector, 0.5, shared)

    def slot_in(self, state: State) -> Slot[str]:
        """A new slot, led to this state by `transition` alone."""
        self.slot_set.order_dials(1)
        slot = list(self.slot_set.slots)[-1]
        if state is State.CONNECTING:
            return slot
        path = [state] if state in NEXT[State.CONNECTING] else [State.UNCLAIMED, state]
        for step in path:
            self.slot_set.transition(slot, step)
        return slot

    def spare(self) -> Slot[str]:
        """A new slot that is among the idle ones."""
        slot = self.slot_in(State.CONNECTING)
        self.slot_set.push_free(slot)
        return slot

    def counts(self) -> dict[str, int]:
        """Return the set's counts, after checking them against the states of its slots."""
        slot_set, totals = self.slot_set, self.totals
        states = [slot.state for slot in slot_set.slots]
        found = {
            "slots": len(states),
            "connecting": slot_set.connecting,
            "connected": slot_set.connected,
            "checking": slot_set.connected - slot_set.idle - slot_set.claimed,
            "claimed": slot_set.claimed,
            "closing": slot_set.closing,
        }
        assert totals.slots == found["slots"]
        assert totals.connected == found["connected"]
        assert totals.claimed == found["claimed"]
        return found
