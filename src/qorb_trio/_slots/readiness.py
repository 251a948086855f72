"""`Readiness`: tasks that wait for slots to connect, or in the end to close."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import trio


@final
class Readiness:
    """A condition on the slots of a pool, and the tasks that wait for it."""

    __slots__ = ("_lot", "_waiting", "_wanted")

    def __init__(self) -> None:
        self._lot: trio.lowlevel.ParkingLot = trio.lowlevel.ParkingLot()
        #: The number of tasks that wait.
        self._waiting: int = 0
        self._wanted: list[int] = []

    @property
    def minimum(self) -> int:
        """The number of connections that the most demanding `wait_ready` waits for."""
        return max(self._wanted, default=0)

    def request(self, slots: int) -> None:
        """Count a `wait_ready`; `withdraw` must follow."""
        self._wanted.append(slots)

    def withdraw(self, slots: int) -> None:
        """Forget a `wait_ready` that has ended."""
        self._wanted.remove(slots)

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Return when `condition` holds. It is evaluated at once and at each change."""
        self._waiting += 1
        try:
            while not condition():
                await self._lot.park()
        finally:
            self._waiting -= 1

    def slot_connected(self, connected: int) -> None:
        """Wake the waiting tasks if that many connections are enough for one of them."""
        if self._wanted and connected >= min(self._wanted):
            self.changed()

    def changed(self) -> None:
        """Wake all waiting tasks, to look again."""
        if self._waiting:
            self._lot.unpark_all()
