"""`Batch`: lets other tasks have their turn while thousands of slots are opened or closed."""

from __future__ import annotations

from typing import final

import trio


@final
class Batch:
    """Counts slots, and lets all other tasks have their turn after each `size` of them."""

    __slots__ = ("_done", "_size")

    def __init__(self, size: int) -> None:
        self._size: int = size
        self._done: int = 0

    async def add(self, count: int) -> None:
        """Count slots that are about to be opened or closed. Sometimes a checkpoint."""
        if self._done >= self._size:
            self._done = 0
            await trio.lowlevel.cancel_shielded_checkpoint()
        self._done += count
