"""The bound on DNS sockets: at most `LIMIT` are open at once in a ``trio.run``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar, final

import trio

from .records import QueryError

T = TypeVar("T")

#: The maximum number of sockets. A process may often have 1,024 descriptors for everything.
LIMIT: Final = 128

# When all sockets are in use, an exchange that is this old, in seconds, gives way to one that
# waits. Otherwise a few hundred resolvers of dead nameservers would block all others.
_MIN_AGE = 1.0

_BUDGET = trio.lowlevel.RunVar["SocketBudget"]("qorb_trio DNS sockets")


@final
class SocketBudget:
    """Bounds the number of exchanges. Each exchange has one socket at a time.

    Args:
      limit: the maximum number of exchanges at once.
    """

    def __init__(self, limit: int) -> None:
        self._free = trio.Semaphore(limit)
        # When each exchange began, the oldest first; those that gave way are not in it.
        self._began: dict[trio.CancelScope, float] = {}

    async def run(self, exchange: Callable[[], Awaitable[T]]) -> T:
        """Wait for a free socket, and return what `exchange` returns.

        Raises:
          QueryError: if the exchange had no answer and gave way to another one.
        """
        await self._acquire()
        scope = trio.CancelScope()
        self._began[scope] = trio.current_time()
        try:
            with scope:
                return await exchange()
        finally:
            self._began.pop(scope, None)
            self._free.release()
        raise QueryError(f"no answer within {_MIN_AGE:g} s, and other queries wait for a socket")

    async def _acquire(self) -> None:
        while True:  # noqa: ASYNC913 - acquire() is a checkpoint
            oldest = next(iter(self._began.values()), trio.current_time())
            with trio.move_on_at(oldest + _MIN_AGE):
                await self._free.acquire()
                return
            self._end_oldest()

    def _end_oldest(self) -> None:
        for scope, began in self._began.items():
            if began + _MIN_AGE <= trio.current_time():
                del self._began[scope]
                scope.cancel()
            return


def socket_budget() -> SocketBudget:
    """Return the budget of this ``trio.run``."""
    try:
        return _BUDGET.get()
    except LookupError:
        budget = SocketBudget(LIMIT)
        _BUDGET.set(budget)
        return budget
