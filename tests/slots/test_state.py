"""The states of a slot: the table, and the one place that follows it."""

from __future__ import annotations

import itertools

import pytest

from qorb_trio._slots.state import NEXT, IllegalTransitionError, State

from .kit import Changes, Scene

#: The table once more, by the letters of the states: what may follow what.
ALLOWED = {
    "connecting": {"unclaimed", "claimed", "closing", "closed"},
    "unclaimed": {"claimed", "checking", "closing"},
    "checking": {"unclaimed", "claimed", "closing"},
    "claimed": {"unclaimed", "checking", "closing"},
    "closing": {"closed"},
    "closed": set[str](),
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
    scene = Scene(changes)
    slot, slot_set, totals = scene.slot_in(old), scene.slot_set, scene.totals
    changes.seen.clear()
    before = counts(scene, slot.state)
    if new.label in ALLOWED[old.label]:
        slot_set.transition(slot, new)
        assert slot.state is new
        assert changes.seen == [(slot.id, old.label, new.label)]
        connected = new in {State.UNCLAIMED, State.CHECKING, State.CLAIMED}
        assert counts(scene, new) == {
            "slots": new is not State.CLOSED,
            "connecting": new is State.CONNECTING,
            "connected": connected,
            "checking": new is State.CHECKING,
            "claimed": new is State.CLAIMED,
            "closing": new is State.CLOSING,
        }
        assert (totals.slots, totals.connected) == (len(slot_set.slots), slot_set.connected)
        assert (slot in slot_set.dials) is (new is State.CONNECTING)
        assert (slot in slot_set.slots) is (new is not State.CLOSED)
    else:
        with pytest.raises(IllegalTransitionError, match=f"{old.label}.*{new.label}"):
            slot_set.transition(slot, new)
        assert slot.state is old
        assert changes.seen == []
        assert counts(scene, old) == before


def counts(scene: Scene, state: State) -> dict[str, int]:
    """The counts of a set of one slot in this state, and of the pool.

    `transition` leaves the idle slots to `push_idle`, so the set derives a spare from there.
    """
    found = scene.counts()
    assert found["checking"] - (state is State.UNCLAIMED) == scene.totals.checking
    assert scene.totals.idle == (state is State.UNCLAIMED)
    return found | {"checking": scene.totals.checking}


def test_a_slot_shows_what_it_is() -> None:
    """The repr of a slot names its number, its backend and its state."""
    slot = Scene().slot_in(State.CHECKING)
    assert repr(slot) == f"<slot {slot.id} of a:1: checking>"
    assert repr(slot.slot_set) == "<slot set of a:1>"
