"""`SlotSet`: the idle slots, the fast paths, and the commands to a backend's set."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from qorb_trio import Backend
from qorb_trio._slots.slot_set import Slot, SlotSet
from qorb_trio._slots.state import State

from .kit import Changes, Scene


def slow_push_idle(slot_set: SlotSet[str], slot: Slot[str]) -> None:
    """Do what `push_idle` says, by `transition`."""
    slot_set.idle_slots.append(slot)
    slot_set.transition(slot, State.UNCLAIMED)


def slow_pop_idle(slot_set: SlotSet[str]) -> Slot[str]:
    """Do what `pop_idle` says, by `transition`."""
    slot = slot_set.idle_slots.pop()
    slot_set.transition(slot, State.CLAIMED)
    return slot


def claims_of(
    scene: Scene,
    push: Callable[[SlotSet[str], Slot[str]], None],
    pop: Callable[[SlotSet[str]], Slot[str]],
) -> list[object]:
    """Check three spares out and in, in several orders; return everything that can be seen."""
    slot_set = scene.slot_set
    seen: list[object] = []

    def look(slot: Slot[str]) -> None:
        idle = [each.id for each in slot_set.idle_slots]
        states = [each.state for each in slot_set.slots]
        totals = scene.totals
        sums = (totals.slots, totals.connected, totals.checking, totals.claimed, totals.idle)
        seen.append((slot.id, idle, states, slot_set.claimed, slot_set.idle, sums))

    for _ in range(3):
        scene.spare()
    first, second = pop(slot_set), pop(slot_set)
    look(second)
    push(slot_set, first)
    look(first)
    third, fourth = pop(slot_set), pop(slot_set)
    look(third)
    for slot in (fourth, second, third):
        push(slot_set, slot)
        look(slot)
    slot_set.remove_idle(second)
    slot_set.transition(second, State.CHECKING)
    look(second)
    slot_set.push_free(second)
    look(second)
    return seen


@pytest.mark.parametrize("listens", [False, True], ids=["fast path", "heard"])
def test_fast_paths_are_transitions(listens: bool) -> None:
    """`push_idle` and `pop_idle` leave the states and the counts that `transition` leaves."""
    fast = claims_of(Scene(*([Changes()] if listens else [])), SlotSet.push_idle, SlotSet.pop_idle)
    assert fast == claims_of(Scene(), slow_push_idle, slow_pop_idle)


def test_fast_paths_are_heard() -> None:
    """An instrument that listens hears of each check-out and return."""
    changes = Changes()
    scene = Scene(changes)
    slot = scene.spare()
    changes.seen.clear()
    assert scene.slot_set.pop_idle() is slot
    scene.slot_set.push_idle(slot)
    assert changes.seen == [(slot.id, "unclaimed", "claimed"), (slot.id, "claimed", "unclaimed")]


def test_the_index_knows_which_sets_have_a_spare() -> None:
    """A set is in the index exactly while it has a spare, for every way to add or take one."""
    scene = Scene()
    slot_set, index = scene.slot_set, scene.index
    slots = [scene.spare() for _ in range(4)]
    assert index.members == [slot_set]
    assert slot_set.pop_idle() is slots[3]
    assert slot_set.pop_oldest_idle() is slots[0]
    assert index.members == [slot_set]
    slot_set.remove_idle(slots[2])
    assert index.members == [slot_set]
    assert slot_set.pop_oldest_idle() is slots[1]
    assert index.members == []
    slot_set.push_idle(slots[3])
    slot_set.remove_idle(slots[3])
    assert index.members == []


def test_a_set_that_leaves_lends_nothing() -> None:
    """A set that is deactivated leaves the index, and its spares can still be closed."""
    scene = Scene()
    slot_set, index = scene.slot_set, scene.index
    slots = [scene.spare() for _ in range(2)]
    slot_set.deactivate()
    slot_set.deactivate()
    assert (index.members, slot_set.is_active) == ([], False)
    for slot in slots:
        assert slot_set.pop_oldest_idle() is slot
        slot_set.transition(slot, State.CLOSING)
        assert not slot_set.is_drained
    for slot in slots:
        slot_set.transition(slot, State.CLOSED)
    assert slot_set.is_drained


def test_a_set_without_slots_is_drained_at_once() -> None:
    """A set that has no slot when its backend leaves has nothing to wait for."""
    slot_set = Scene().slot_set
    slot_set.deactivate()
    assert slot_set.is_drained


def test_an_active_set_is_never_drained() -> None:
    """A set whose last slot closes goes on while its backend is there."""
    scene = Scene()
    slot = scene.slot_in(State.CLOSING)
    scene.slot_set.transition(slot, State.CLOSED)
    assert not scene.slot_set.is_drained


@pytest.mark.parametrize("spares", [0, 1])
def test_an_update_moves_the_set_in_the_index(spares: int) -> None:
    """New weights and priorities are adopted, and the index is told if the set is in it."""
    scene = Scene()
    for _ in range(spares):
        scene.spare()
    backend = Backend(("a", 1), priority=3, weight=0)
    scene.slot_set.update(backend)
    assert scene.slot_set.backend is backend
    assert (scene.slot_set.priority, scene.slot_set.effective_weight > 0) == (3, True)
    assert scene.index.members == [scene.slot_set] * spares


def test_a_probe_has_news_of_its_own() -> None:
    """A connection to a failing backend is the probe, and news of what failed before it."""
    scene = Scene()
    slot_set = scene.slot_set
    slot = scene.slot_in(State.CONNECTING)
    slot_set.begin_dial(slot, 3.0)
    began = slot.health_generation
    assert (slot.connecting_since, slot.created_at) == (3.0, math.inf)
    assert slot_set.detector.record_failure(OSError(), began, 4.0)
    slot.mark_connected(5.0)
    slot_set.begin_probe(slot)
    assert (slot.created_at, slot.idle_since) == (5.0, 5.0)
    assert slot.health_generation > began
    assert slot_set.probe is slot
    assert (slot_set.end_probe(slot), slot_set.end_probe(slot)) == (True, False)


def test_a_plain_connection_keeps_the_generation_of_its_dial() -> None:
    """A connection that is no probe has seen only the failures from before its dial."""
    scene = Scene()
    slot = scene.slot_in(State.CONNECTING)
    scene.slot_set.begin_dial(slot, 3.0)
    began = slot.health_generation
    scene.slot_set.detector.record_failure(OSError(), began, 4.0)
    slot.mark_connected(5.0)
    assert slot.health_generation == began
    assert scene.slot_set.probe is None


def test_the_index_forgets_what_changes_and_what_leaves() -> None:
    """The index is told before a weight changes, and when the backend leaves, spares or not."""
    scene = Scene()
    slot_set = scene.slot_set
    scene.spare()
    slot_set.update(Backend(("a", 1), weight=5))
    assert scene.index.members == [slot_set]
    slot_set.pop_idle()
    slot_set.scale_weight(0.5)
    slot_set.deactivate()
    assert scene.index.forgotten == [(slot_set, 1.0), (slot_set, 5.0), (slot_set, 2.5)]
    assert scene.index.members == []
