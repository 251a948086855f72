"""`PlanRequests`: requests for a plan, and the waits of the planner for them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import final

from .._slots.bell import Bell


@final
class PlanRequests:
    """Collects requests for a plan, so that however many come in one go cause one plan."""

    __slots__ = ("_bell", "_is_pending", "_is_refused", "is_closed")

    def __init__(self) -> None:
        self._is_pending: bool = False
        self._is_refused: bool = False
        #: True as soon as the pool is ending: there are no more plans.
        self.is_closed: bool = False
        #: Wakes the planner.
        self._bell: Bell = Bell()

    def request(self) -> None:
        """Have the planner run when all tasks that are runnable now have had their turn."""
        if not (self._is_pending or self._is_refused or self.is_closed):
            self._is_pending = True
            self._bell.ring()

    def close(self) -> None:
        """Refuse all requests from now on, and wake the planner for its end."""
        self.is_closed = True
        self._bell.ring()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Put plans off until the block ends; one is requested then.

        Between two sets of backends, a plan after each batch would cost more than it gains.
        """
        self._is_refused = True
        try:
            yield
        finally:
            self._is_refused = False
            self.request()

    async def next(self, deadline: float) -> None:
        """Wait for a request, or until `deadline`. What is requested later needs another plan."""
        await self._bell.wait(deadline)
        self._is_pending = False
