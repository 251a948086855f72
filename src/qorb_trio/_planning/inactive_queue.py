"""`InactiveQueue`: the inactive backends of one priority, in the order by weighted chance."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from typing import Final, final

#: Number of entries that are moved in one go, in about 1 ms.
CHUNK: Final = 500


@final
class InactiveQueue:
    """Entries of inactive backends, the smallest first.

    Entries of backends that have left or have become active stay until they come first, or
    until most entries are of that kind. `is_valid` tells them from the others.
    """

    __slots__ = ("_heaps", "_is_valid")

    def __init__(self, is_valid: Callable[[bytes], bool]) -> None:
        self._is_valid = is_valid
        #: The first is the main one; the others are being merged into it.
        self._heaps: list[list[bytes]] = [[]]

    def __len__(self) -> int:
        """The number of all entries, valid or not."""
        return sum([len(heap) for heap in self._heaps])

    def push(self, entry: bytes) -> None:
        """Add an entry."""
        heappush(self._heaps[0], entry)

    def extend(self, heap: list[bytes]) -> None:
        """Add a heap of entries in one step; `tidy` merges it with the others later."""
        self._heaps.insert(len(heap) < len(self._heaps[0]), heap)

    def pop(self) -> bytes | None:
        """Remove and return the smallest valid entry, if there is one."""
        for heap in self._heaps:
            while heap and not self._is_valid(heap[0]):
                heappop(heap)
        heaps = [heap for heap in self._heaps if heap]
        return heappop(min(heaps)) if heaps else None

    def tidy(self, size: int) -> Iterator[None]:
        """Merge the heaps, and remove invalid entries if less than half are valid.

        `size` is the number of valid entries. To remove the last entries of a heap leaves a
        heap, so the queue can be used in each pause.
        """
        if len(self) > 2 * size + CHUNK:
            self._heaps.insert(0, [])
        while len(self._heaps) > 1:
            last = self._heaps[-1]
            for entry in filter(self._is_valid, last[-CHUNK:]):
                self.push(entry)
            del last[-CHUNK:]
            if last:
                yield
            else:
                del self._heaps[-1]
