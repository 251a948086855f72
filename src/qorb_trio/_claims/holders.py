"""Who holds the connections of a pool: for people who ask why a claim waits."""

from __future__ import annotations

import logging
import traceback
from heapq import nsmallest
from operator import attrgetter
from typing import TYPE_CHECKING, Any, final

import attrs
import trio

from .._model.backend import Backend
from .._slots.state import CLAIMED

if TYPE_CHECKING:
    from .._slots.state import Slot
    from .dispatcher import Core

logger = logging.getLogger("qorb_trio.claim")

#: An error names so many holders; the one that never gives back is among the oldest.
_NAMED = 3

_SINCE = attrgetter("since")


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
    """How many seconds ago that was."""

    task: str
    """The name of the task that made the claim. It may have passed it on since."""

    _owner: trio.lowlevel.Task = attrs.field(repr=False, eq=False)

    def stack(self) -> traceback.StackSummary:
        """Where the task that made the claim is now, outermost call first.

        Taken anew at each call. Empty if the task has ended; of the task that asks, only
        the outermost call. Looks at other tasks, so call it in the thread that runs Trio.
        """
        if getattr(self._owner.coro, "cr_frame", None) is None:
            return traceback.StackSummary()  # it has ended, which Trio 0.27 does not expect
        return traceback.StackSummary.extract(self._owner.iter_await_frames())


def find_holders(core: Core[Any]) -> list[Holder]:
    """All outstanding claims, the oldest first. Looks at all slots of sets with claims."""
    if not core.claimed:
        return []
    now = trio.current_time()
    return [_holder(slot, now) for slot in sorted(_claimed(core), key=_SINCE)]


def describe_oldest(core: Core[Any]) -> str:
    """The oldest holders, as a part of an error's message.

    Each claim that fails asks for it, and it is when most claims fail that there are many
    holders: so only those that are named are made.
    """
    if not core.claimed:
        return ""
    now = trio.current_time()
    oldest = [_holder(slot, now) for slot in nsmallest(_NAMED, _claimed(core), key=_SINCE)]
    named = [f"{it.task} for {it.age:.3g} s ({it.backend.name})" for it in oldest]
    return "; held longest by " + ", ".join(named)


async def warn_of_leaks(core: Core[Any], after: float) -> None:
    """Log each claim that has been held for `after` seconds, once, with its holder's stack.

    Nobody need wake this task: a claim that is made while it sleeps is not due before it
    looks again. So the claim path has nothing to do for it.
    """
    told: dict[Slot[Any], float] = {}  # by slot, when the claim began that was told of
    while True:
        await trio.sleep_until(_next_due(core, after, told))
        now = trio.current_time()
        for slot in _claimed(core):
            if slot.since + after <= now and told.get(slot) != slot.since:
                told[slot] = slot.since
                _warn(core, _holder(slot, now))


def _next_due(core: Core[Any], after: float, told: dict[Slot[Any], float]) -> float:
    """When the next claim will have been held for long; forgets those that have ended."""
    claims = {slot: slot.since for slot in _claimed(core)}
    for slot in [slot for slot, since in told.items() if claims.get(slot) != since]:
        del told[slot]
    waiting = [since for slot, since in claims.items() if slot not in told]
    return min(waiting, default=trio.current_time()) + after


def _warn(core: Core[Any], holder: Holder) -> None:
    logger.warning(
        "pool %s: task %s has held a connection to %s for %.3g s; it is here:\n%s",
        core.name,
        holder.task,
        holder.backend.name,
        holder.age,
        "".join(holder.stack().format()),
    )


def _claimed(core: Core[Any]) -> list[Slot[Any]]:
    """The slots that are lent out, but for one that is being handed over just now."""
    return [
        slot
        for home in (*core.sets.values(), *core.departed)
        if home.claimed
        for slot in home.slots
        if slot.state is CLAIMED and slot.holder is not None
    ]


def _holder(slot: Slot[Any], now: float) -> Holder:
    assert slot.holder is not None
    return Holder(
        backend=slot.home.backend,
        slot_id=slot.id,
        since=slot.since,
        age=now - slot.since,
        task=slot.holder.name,
        owner=slot.holder,
    )
