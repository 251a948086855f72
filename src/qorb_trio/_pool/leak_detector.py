"""A task that warns of claims that are held for long."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any, Generic, TypeVar, final

import attrs
import trio

from .._claims.holders import Holder, claimed_slots, make_holder
from .._model.settings import Settings
from .._slots.registry import Registry
from .._slots.slot_set import Slot
from .._util import log_safely, printable

logger = logging.getLogger("qorb_trio.claim")

C = TypeVar("C")


@final
@attrs.define(eq=False, repr=False)
class LeakDetector(Generic[C]):
    """Logs each claim that has been held for a while, once, with its holder's stack.

    The task needs no wake-up: a claim that is made while it sleeps cannot become overdue before
    it next runs. So the claim path has nothing to do for it.
    """

    _pool: str
    _settings: Settings
    _registry: Registry[C]
    #: The slots that were warned of, with the time at which the claim began.
    _warned: dict[Slot[Any], float] = attrs.field(init=False, factory=dict)
    _timer: trio.CancelScope = attrs.field(init=False, factory=trio.CancelScope)
    _is_running: bool = attrs.field(init=False, default=False)
    #: Starts the task, when a warning is wanted for the first time. The lifecycle's.
    on_first: Callable[[], None] | None = attrs.field(init=False, default=None)

    def restart(self) -> None:
        """Go by another `leak_warning_after`."""
        if self._is_running:
            self._timer.cancel()
        elif self.on_first is not None and self._settings.policy.leak_warning_after < math.inf:
            self._is_running = True
            self.on_first()

    async def run(self) -> None:
        """Warn of each claim that has been held for ``leak_warning_after`` seconds."""
        while True:
            with trio.CancelScope() as self._timer:
                self._timer.deadline = self._next_due(self._settings.policy.leak_warning_after)
                await trio.sleep_forever()
            self._warn_of_overdue(trio.current_time())

    def _warn_of_overdue(self, now: float) -> None:
        after = self._settings.policy.leak_warning_after
        for slot in claimed_slots(self._registry):
            began = slot.claimed_at
            if began + after <= now and self._warned.get(slot) != began:
                self._warned[slot] = began
                self._warn(make_holder(slot, now))

    def _next_due(self, after: float) -> float:
        """Return when the next claim will be overdue; forget those that have ended."""
        if after == math.inf:
            return math.inf
        claims = {slot: slot.claimed_at for slot in claimed_slots(self._registry)}
        for slot in [it for it, began in self._warned.items() if claims.get(it) != began]:
            del self._warned[slot]
        waiting = [began for slot, began in claims.items() if slot not in self._warned]
        return min(waiting, default=trio.current_time()) + after

    def _warn(self, holder: Holder) -> None:
        log_safely(
            logger,
            logging.WARNING,
            "pool %s: task %s has held a connection to %s for %.3g s; it is here:\n%s",
            printable(self._pool),
            printable(holder.task),
            printable(holder.backend.name),
            holder.age,
            "".join(holder.stack().format()),
        )
