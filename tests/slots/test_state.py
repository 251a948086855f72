"""The states of a slot: the table, and the one place that follows it."""

from __future__ import annotations

import itertools
import random

import pytest
from qorb_trio._health.failure_detector import SLOW_DIAL
from trio.testing import MockClock

from qorb_trio import Backend, Policy
from qorb_trio._claims.dispatcher import Core
from qorb_trio._slots.slot_set import SlotSet
from qorb_trio._slots.state import NEXT, IllegalTransitionError, Slot, State
from qorb_trio.abc import Instrument
from qorb_trio.testing import FakeConnection, FakeConnector

#: The table once more, by the letters of the states: what may follow what.
ALLOWED = {
    "connecting": {"unclaimed", "claimed", "closing", "closed"},
    "unclaimed": {"claimed", "checking", "closing"},
    "checking": {"unclaimed", "claimed", "closing"},
    "claimed": {"unclaimed", "checking", "closing"},
    "closing": {"closed"},
    "closed": set[str](),
}


class Changes(Instrument):
    """Notes each change of a state."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, str, str]] = []

    def slot_state_change(
        self, pool: str, slot_id: int, backend: Backend, old: str, new: str
    ) -> None:
        """Note it."""
        self.seen.append((slot_id, old, new))


def a_slot(state: State, changes: Changes) -> Slot[FakeConnection]:
    """A slot in this state, of a set that does no I/O."""
    core: Core[FakeConnection] = Core(
        FakeConnector(), name="p", policy=Policy(), instruments=[changes], rng=random.Random(0)
    )
    setattr(core, "start", lambda *_: None)  # noqa: B010
    home = SlotSet(core, Backend(("a", 1)), 1)
    home.open()
    slot = next(iter(home.slots))
    path = {
        State.CONNECTING: [],
        State.CLOSED: [State.CLOSED],
    }.get(state, [state] if state in NEXT[State.CONNECTING] else [State.UNCLAIMED, state])
    for step in path:
        home.move(slot, step)
    changes.seen.clear()
    return slot


def counts(home: SlotSet[FakeConnection]) -> dict[str, int]:
    """What a set of one slot, and the pool, count."""
    core = home._core
    assert core.claimed == home.claimed
    return {
        "slots": len(home.slots),
        "connecting": home.connecting,
        "connected": home.connected,
        "checking": core.checking,
        "claimed": home.claimed,
        "closing": home.closing,
    }


def test_the_table() -> None:
    """From each state exactly these may follow; the end is the end."""
    table = {state.label: {each.label for each in following} for state, following in NEXT.items()}
    assert table == ALLOWED


@pytest.mark.parametrize(("old", "new"), list(itertools.product(State, State)))
def test_each_transition(old: State, new: State) -> None:
    """A legal transition changes state and counts together, and is told; an illegal one
    raises and changes nothing."""
    changes = Changes()
    slot = a_slot(old, changes)
    home = slot.home
    core = home._core
    before = counts(home)
    if new.label in ALLOWED[old.label]:
        home.move(slot, new)
        assert slot.state is new
        assert changes.seen == [(slot.id, old.label, new.label)]
        connected = new in {State.UNCLAIMED, State.CHECKING, State.CLAIMED}
        assert counts(home) == {
            "slots": new is not State.CLOSED,
            "connecting": new is State.CONNECTING,
            "connected": connected,
            "checking": new is State.CHECKING,
            "claimed": new is State.CLAIMED,
            "closing": new is State.CLOSING,
        }
        assert (core.slots, core.connected) == (len(home.slots), home.connected)
        assert (slot in home.dials) is (new is State.CONNECTING)
        assert (slot in home.slots) is (new is not State.CLOSED)
    else:
        with pytest.raises(IllegalTransitionError, match=f"{old.label}.*{new.label}"):
            home.move(slot, new)
        assert slot.state is old
        assert changes.seen == []
        assert counts(home) == before


def test_a_slot_shows_what_it_is() -> None:
    """The repr of a slot names its number, its backend and its state."""
    slot = a_slot(State.CHECKING, Changes())
    assert repr(slot) == f"<slot {slot.id} of a:1: checking>"


async def test_patience_with_a_dial_grows(autojump_clock: MockClock) -> None:
    """The dial of a backend that has failed before may take longer before it seems to hang."""
    home = a_slot(State.CONNECTING, Changes()).home
    (slot,) = home.slots
    slot.since = 0.0
    assert home.slow_at(0) == SLOW_DIAL
    for _ in range(3):
        home.record.gave_up(home.record.epoch, 0)
    assert home.slow_at(0) == 2**3 * SLOW_DIAL
