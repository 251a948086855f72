"""`NextSet`: a set of backends from the resolver while it is being read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import heappush
from typing import Final, final

from .._model.backend import Backend, effective_weight
from .known_set import KnownSet, key_of, pack
from .rotation import RotationOrder

#: Number of backends that are read in one go, in about half a millisecond.
CHUNK: Final = 100


class TwinBackendsError(ValueError):
    """Two backends of one set have the same name and different addresses."""


def remember(order: RotationOrder, backends: KnownSet, backend: Backend) -> None:
    """Have the order remember the place of a backend of a set."""
    position = backends.position(backend.name)
    assert position is not None
    key = key_of(backends.entry(position))
    order.remember(backend.name, effective_weight(backend.weight), key)


def remember_gone(order: RotationOrder, old: KnownSet, present: KnownSet) -> Iterator[None]:
    """Keep the places of inactive backends that have left, in case that they return."""
    for position, backend in enumerate(old):
        if present.position(backend.name) is None:
            remember(order, old, backend)
        if position % CHUNK == CHUNK - 1:
            yield


@final
class NextSet:
    """A set of about `size` backends, read in chunks, and their places in the order.

    A backend of the present set keeps its place, unless its priority or weight has changed.
    """

    def __init__(self, size: int, present: KnownSet, order: RotationOrder) -> None:
        #: The backends that have been read.
        self.backends = KnownSet(size)
        #: The new entries by priority, in heaps.
        self.entries: dict[int, list[bytes]] = {}
        self._present = present
        self._order = order
        # The backends of a small set all become active, so their places are remembered anyway.
        self._draw = order.key if size <= CHUNK else order.preview

    def read(self, backends: Iterable[Backend]) -> Iterator[None]:
        """Read all backends; the caller may do other things at each pause.

        Raises:
          TwinBackendsError: two backends have the same name and different addresses.
        """
        for count, backend in enumerate(backends, 1):
            self._read_one(backend)
            if count % CHUNK == 0:
                yield

    def _read_one(self, backend: Backend) -> None:
        twin = self.backends.get(backend.name)
        if twin is None:
            self.backends.add(backend, self._entry_of(backend))
        elif twin != backend:
            raise TwinBackendsError(
                f"two backends named {backend.name!r}: {twin.address!r} and {backend.address!r}"
            )

    def _entry_of(self, backend: Backend) -> bytes:
        """Return the entry of a backend; it is new if its place has changed."""
        name, weight = backend.name, effective_weight(backend.weight)
        position = self._present.position(name)
        if position is None:
            return self._enter(backend, pack(self._draw(name, weight), name))
        old = self._present.backend(position)
        if (old.priority, old.weight) == (backend.priority, backend.weight):
            return self._present.entry(position)
        remember(self._order, self._present, old)
        return self._enter(backend, pack(self._order.key(name, weight), name))

    def _enter(self, backend: Backend, entry: bytes) -> bytes:
        heappush(self.entries.setdefault(backend.priority, []), entry)
        return entry

    def reenter(self, backend: Backend) -> None:
        """Give a backend that was read an entry that is in the heaps for sure."""
        key = self._order.key(backend.name, effective_weight(backend.weight))
        self.backends.move(backend, self._enter(backend, pack(key, backend.name)))
