"""A task that warns of claims that are held for long."""

from __future__ import annotations

import logging
from typing import Any, Generic, TypeVar, final

import trio

from .._claims.holders import Holder, claimed_slots, make_holder
from .._slots.registry import Registry
from .._slots.slot import Slot

logger = logging.getLogger("qorb_trio.claim")

C = TypeVar("C")


@final
class LeakDetector(Generic[C]):
    """Logs each claim that has been held for a while, once, with its holder's stack.

    The task needs no wake-up: a claim that is made while it sleeps cannot become overdue before
    it next runs. So the claim path has nothing to do for it.
    """

    def __init__(self, pool: str, registry: Registry[C]) -> None:
        self._pool: str = pool
        self._registry: Registry[C] = registry
        #: The slots that were warned of, with the time at which the claim began.
        self._warned: dict[Slot[Any], float] = {}

    async def run(self, after: float) -> None:
        """Warn of each claim that has been held for `after` seconds."""
        while True:
            await trio.sleep_until(self._next_due(after))
            now = trio.current_time()
            for slot in claimed_slots(self._registry):
                began = slot.claimed_at
                if began + after <= now and self._warned.get(slot) != began:
                    self._warned[slot] = began
                    self._warn(make_holder(slot, now))

    def _next_due(self, after: float) -> float:
        """Return when the next claim will be overdue; forget those that have ended."""
        claims = {slot: slot.claimed_at for slot in claimed_slots(self._registry)}
        for slot in [it for it, began in self._warned.items() if claims.get(it) != began]:
            del self._warned[slot]
        waiting = [began for slot, began in claims.items() if slot not in self._warned]
        return min(waiting, default=trio.current_time()) + after

    def _warn(self, holder: Holder) -> None:
        logger.warning(
            "pool %s: task %s has held a connection to %s for %.3g s; it is here:\n%s",
            self._pool,
            holder.task,
            holder.backend.name,
            holder.age,
            "".join(holder.stack().format()),
        )
