"""The holders of a pool's connections: for people who ask why a claim waits."""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from heapq import nsmallest
from operator import attrgetter
from types import FrameType
from typing import Any, final

import attrs
import trio

from .._model.backend import Backend
from .._slots.slot_set import Slot, SlotSet
from .._slots.state import CLAIMED
from .._util import printable

#: The number of holders that an error names: one that never gives back is among the oldest.
_NAMED = 3

#: Frames of these packages at the end of a stack tell how a task waits, which nobody asks.
_INTERNAL = ("trio.", "qorb_trio.", "outcome.")

_CLAIMED_AT = attrgetter("claimed_at")


@final
@attrs.frozen(kw_only=True)
class Holder:
    """One outstanding claim, as `Pool.holders` finds it."""

    backend: Backend
    """The backend that the connection leads to."""

    slot_id: int
    """The number of its slot, as instruments know it."""

    since: float
    """When the connection was handed out, on Trio's clock."""

    age: float
    """Seconds since then."""

    task: str
    """The label of the claim; without one, the name of the task that made it. The task may have
    passed the claim on since."""

    label: str | None = None
    """The label that the claim was given (see `Pool.claim`)."""

    _owner: trio.lowlevel.Task = attrs.field(repr=False, eq=False, kw_only=True)

    def stack(self) -> traceback.StackSummary:
        """Return where the task that made the claim is now, outermost call first.

        Taken anew at each call, without the frames inside Trio in which the task waits. Empty
        if the task has ended; of the task that asks, only the outermost call. Looks at other
        tasks, so call it in the thread that runs Trio.
        """
        if getattr(self._owner.coro, "cr_frame", None) is None:
            return traceback.StackSummary()  # it has ended, which Trio 0.27 does not expect
        frames = list(self._owner.iter_await_frames())
        while len(frames) > 1 and _is_internal(frames[-1][0]):
            frames.pop()
        return traceback.StackSummary.extract(iter(frames))


def _is_internal(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).startswith(_INTERNAL)


def find_holders(slot_sets: Iterable[SlotSet[Any]]) -> list[Holder]:
    """Return all outstanding claims, oldest first. Looks at all slots of sets with claims."""
    now = trio.current_time()
    return [make_holder(it, now) for it in sorted(claimed_slots(slot_sets), key=_CLAIMED_AT)]


def describe_oldest(slot_sets: Iterable[SlotSet[Any]]) -> str:
    """Return the oldest holders, as a part of an error's message.

    Each claim that fails asks for it, and most claims fail while there are many holders. So
    only the holders that are named are made.
    """
    now = trio.current_time()
    oldest = nsmallest(_NAMED, claimed_slots(slot_sets), key=_CLAIMED_AT)
    holders = [make_holder(slot, now) for slot in oldest]
    named = [f"{it.task} for {it.age:.3g} s ({it.backend.name})" for it in holders]
    return "; held longest by " + ", ".join(named) if named else ""


def claimed_slots(slot_sets: Iterable[SlotSet[Any]]) -> list[Slot[Any]]:
    """Return the slots that are checked out, without one that is being handed over just now."""
    return [
        slot
        for slot_set in slot_sets
        if slot_set.claimed
        for slot in slot_set.slots
        if slot.state is CLAIMED and slot.holder is not None
    ]


def holder_name(slot: Slot[Any]) -> str:
    """Return the label of the claim that holds a slot; without one, the name of its task."""
    if slot.holder is None:
        return "(unknown)"
    return printable(slot.label or slot.holder.name)


def make_holder(slot: Slot[Any], now: float) -> Holder:
    """Return the holder of a slot that is checked out."""
    assert slot.holder is not None
    return Holder(
        backend=slot.slot_set.backend,
        slot_id=slot.id,
        since=slot.claimed_at,
        age=now - slot.claimed_at,
        task=holder_name(slot),
        label=slot.label,
        owner=slot.holder,
    )
