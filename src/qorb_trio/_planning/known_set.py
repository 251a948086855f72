"""`KnownSet`: one set of backends of the resolver, which may have a million members."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, Generic, TypeVar, final

from .._model.backend import Backend

T = TypeVar("T")

#: The maximum size of a dict, about. A dict of a million names would take 60 ms for the one
#: step in which it grows, and 50 ms for the one in which it is freed.
PART: Final = 4096

_KEY: Final = struct.Struct(">d")


@final
class Names(Generic[T]):
    """Values by name, in as many dicts as the number of names asks for."""

    __slots__ = ("_mask", "_parts")

    def __init__(self, size: int) -> None:
        self._mask = (1 << (size // PART).bit_length()) - 1
        self._parts: list[dict[str, T]] = [{}]
        if self._mask:
            self._parts += [{} for _ in range(self._mask)]

    def get(self, name: str) -> T | None:
        """Return the value of a name; `None` if there is none."""
        return self._parts[hash(name) & self._mask].get(name)

    def put(self, name: str, value: T) -> None:
        """Set the value of a name."""
        self._parts[hash(name) & self._mask][name] = value

    def clear(self) -> Iterator[None]:
        """Free all values, with a pause between two dicts. Nothing may be looked up any more."""
        while len(self._parts) > 1:
            del self._parts[-1]
            yield
        self._parts.clear()


@final
class KnownSet:
    """The backends of one set of the resolver, in its order, each with its entry.

    An entry is what the queue of inactive backends sorts by: the key of the backend as eight
    bytes, followed by its name. Keys are positive, so that such bytes are in the order of
    the keys. Neither here nor in the queue is there an object per backend that the garbage
    collector has to look at. A million tuples would have it run for some 100 ms at a time.
    """

    __slots__ = ("_backends", "_entries", "_positions", "counts")

    def __init__(self, size: int) -> None:
        self._backends: list[Backend] = []
        self._entries: list[bytes] = []
        self._positions: Names[int] = Names(size)
        #: The number of backends of each priority.
        self.counts: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._backends)

    def __iter__(self) -> Iterator[Backend]:
        return iter(self._backends)

    def position(self, name: str) -> int | None:
        """Return the place in the resolver's order; `None` if the name is unknown."""
        return self._positions.get(name)

    def backend(self, position: int) -> Backend:
        """Return the backend at a place in the resolver's order."""
        return self._backends[position]

    def entry(self, position: int) -> bytes:
        """Return the entry of the backend at a place in the resolver's order."""
        return self._entries[position]

    def get(self, name: str) -> Backend | None:
        """Return the backend of that name, if there is one."""
        position = self._positions.get(name)
        return None if position is None else self._backends[position]

    def add(self, backend: Backend, entry: bytes) -> None:
        """Add a backend of a new name."""
        self._positions.put(backend.name, len(self._backends))
        self._entries.append(entry)
        self._backends.append(backend)
        self.counts[backend.priority] = self.counts.get(backend.priority, 0) + 1

    def move(self, backend: Backend, entry: bytes) -> None:
        """Change the entry of a backend."""
        position = self._positions.get(backend.name)
        assert position is not None
        self._entries[position] = entry

    def clear(self) -> Iterator[None]:
        """Free the memory, with pauses. The set must not be used any more."""
        yield from self._positions.clear()
        while len(self._backends) > PART:
            del self._backends[-PART:], self._entries[-PART:]
            yield
        self._backends.clear()
        self._entries.clear()


def pack(key: float, name: str) -> bytes:
    """Return the entry of a backend."""
    return _KEY.pack(key) + name.encode("utf-8", "surrogatepass")


def key_of(entry: bytes) -> float:
    """Return the key that is packed in an entry."""
    key: float = _KEY.unpack_from(entry)[0]
    return key


def name_of(entry: bytes) -> str:
    """Return the name that is packed in an entry."""
    return entry[_KEY.size :].decode("utf-8", "surrogatepass")
