"""`WarmUp`: gives backends that have just come online a smaller weight for a while."""

from __future__ import annotations

import math
from typing import Any, final

import attrs
import trio

from .._health import slow_start
from .._model.settings import Settings
from .._slots.slot_set import SlotSet


@final
@attrs.define(eq=False, repr=False)
class WarmUp:
    """The slow starts of one pool's backends (`SetConfig.slow_start`).

    `step` is called when a slot set is due, and schedules the next call. The weight
    is the balancer's only: the planner spreads connections by the whole weight from the
    beginning.
    """

    _settings: Settings
    #: When each backend that is being warmed up came online.
    _online_since: dict[SlotSet[Any], float] = attrs.field(init=False, factory=dict)

    def begin(self, slot_set: SlotSet[Any]) -> None:
        """Begin with a tenth of the weight: the backend has come online."""
        if self._settings.set_config.slow_start:
            self._online_since[slot_set] = trio.current_time()
            self.step(slot_set)

    def step(self, slot_set: SlotSet[Any]) -> None:
        """Let the weight rise as far as it is time."""
        since = self._online_since.get(slot_set)
        if since is None:
            return
        now, seconds = trio.current_time(), self._settings.set_config.slow_start
        slot_set.scale_weight(slow_start.weight_factor(since, now, seconds))
        next_at = slow_start.next_step_at(since, now, seconds)
        if next_at == math.inf:
            self.forget(slot_set)
        slot_set.schedule(next_at)

    def forget(self, slot_set: SlotSet[Any]) -> None:
        """Forget a backend that has left, or whose weight is whole."""
        self._online_since.pop(slot_set, None)
