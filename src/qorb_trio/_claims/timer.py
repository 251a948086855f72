"""`Timer`: the time at which something is due, and the task that waits for it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import final

import trio


@final
class Timer:
    """Wakes one task at a time that may be changed. The task is started when it is needed.

    Most pools never need it, because no claimant ever waits.
    """

    __slots__ = ("_scope", "_start", "deadline")

    def __init__(self) -> None:
        #: When the task wakes. To read it costs less than to ask a scope.
        self.deadline: float = math.inf
        self._scope: trio.CancelScope | None = None
        self._start: Callable[[], None] | None = None

    def bind(self, start: Callable[[], None]) -> None:
        """Have `start` called when the task is needed: perhaps at once."""
        self._start = start
        if self.deadline < math.inf:
            self.set(self.deadline)

    def set(self, at: float) -> None:
        """Have the task wake at that time. This is expensive."""
        self.deadline = at
        if self._scope is not None:
            self._scope.deadline = at
        elif self._start is not None:
            start, self._start = self._start, None
            start()

    async def wait_until(self, at: float) -> None:
        """Return at that time, or at another one that is set meanwhile. For the task."""
        self.deadline = at
        with trio.CancelScope(deadline=at) as self._scope:
            await trio.sleep_forever()
