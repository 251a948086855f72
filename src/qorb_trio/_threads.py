"""Threads of the package's own, for calls that block.

Trio's default limiter belongs to the program: a few host names that hang would take all of
its 40 threads and stop every other use of threads in the program. Imports nothing of the
package.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, final

import trio

T = TypeVar("T")


@final
class Threads:
    """A small number of threads for one purpose, counted for each ``trio.run``.

    Args:
      name: the purpose, for debuggers.
      size: the maximum number of threads.
    """

    def __init__(self, name: str, size: int) -> None:
        self._size = size
        self._limiter = trio.lowlevel.RunVar[trio.CapacityLimiter](name)

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """Call a function in one of the threads, and return what it returns.

        Cancelled, it returns at once: the thread ends by itself, and its result is dropped.

        Raises:
          OSError: if the system has no thread to give.
        """
        try:
            limiter = self._limiter.get()
        except LookupError:
            limiter = trio.CapacityLimiter(self._size)
            self._limiter.set(limiter)
        try:
            return await trio.to_thread.run_sync(
                function, *args, abandon_on_cancel=True, limiter=limiter
            )
        except RuntimeError as exc:
            raise OSError(str(exc)) from exc
