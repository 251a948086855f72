"""`PlanRequests`: requests for a plan, and the waits of the planner for them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import final

import trio

from .._slots.bell import Bell


@final
class PlanRequests:
    """Collects requests for a plan, so that however many come in one go cause one plan."""

    __slots__ = ("_bell", "_is_pending", "_is_refused", "_start", "is_closed")

    def __init__(self) -> None:
        self._is_pending: bool = False
        self._is_refused: bool = False
        #: True as soon as the pool is ending: there are no more plans.
        self.is_closed: bool = False
        #: Wakes the planner.
        self._bell: Bell = Bell()
        #: Starts the planner, until it has been started.
        self._start: Callable[[], None] | None = None

    def bind(self, start: Callable[[], None]) -> None:
        """Have `start` called when the first backends are there to plan for."""
        self._start = start

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
            if self._start is not None:
                start, self._start = self._start, None
                start()

    async def next(self, deadline: float) -> None:
        """Wait for a request, or until `deadline`. What is requested later needs another plan."""
        await self._bell.wait(deadline)
        self._is_pending = False

    async def rest(self, until: float) -> None:
        """Wait until then, or until the end. What is requested meanwhile needs no other plan."""
        while not self.is_closed and trio.current_time() < until:
            await self._bell.wait(until)
        self._is_pending = False

    def take(self) -> None:
        """Begin the first plan: what is requested from now on needs another one."""
        self._bell.forget()
        self._is_pending = False
