"""`KnownBackends`: all backends of a pool, and the order of those that it does not use."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, final

import attrs

from .._model.backend import Backend, effective_weight
from .inactive_queue import InactiveQueue
from .known_set import KnownSet, key_of, name_of, pack
from .next_set import NextSet, remember, remember_gone
from .rotation import MAX_REMEMBERED, RotationOrder


@final
@attrs.define(eq=False, repr=False)
class Replacement:
    """The consequences of a new set for the active backends."""

    removed: list[Backend] = attrs.field(factory=list)
    """Active ones that are not in the new set. They are active no more."""

    changed: list[Backend] = attrs.field(factory=list)
    """Active ones that have another priority, weight or target, as they are now."""


#: The set of a pool that has not heard from its resolver. Nothing is ever added to it.
NOTHING_KNOWN: Final = KnownSet(0)


@final
class KnownBackends:
    """All backends that the resolver knows; some of them are active.

    A set of the resolver is read in chunks (`read`), replaces the one before in one step
    (`replace`), and the rest of the old one is freed in chunks (`tidy`). In each pause,
    backends may become active and inactive. All else takes O(log n) per backend that does so.
    """

    def __init__(self, order: RotationOrder) -> None:
        self._order = order
        self._set = NOTHING_KNOWN
        self._queues: dict[int, InactiveQueue] = {}
        self._active: dict[str, Backend] = {}
        #: The number of active backends of each priority.
        self._active_counts: dict[int, int] = {}
        #: The set that is being read, or was the last one to be read.
        self._next: NextSet | None = None
        #: Backends that were deactivated while a set was being read.
        self._moved: dict[str, None] = {}
        #: The set that was replaced, until it has been freed.
        self._old: KnownSet | None = None

    def __len__(self) -> int:
        return len(self._set)

    def is_active(self, backend: Backend) -> bool:
        """Return True if a backend is active and still known."""
        return self._active.get(backend.name) == backend

    def active_backend(self, name: str) -> Backend | None:
        """Return the backend of a name as it is now, if it is active."""
        return self._active.get(name)

    def position(self, name: str) -> int:
        """Return the place of a backend in the resolver's order; an unknown one comes last."""
        position = self._set.position(name)
        return len(self._set) if position is None else position

    @property
    def has_inactive(self) -> bool:
        """True if more backends are known than are active."""
        return len(self._set) > len(self._active)

    def inactive(self, priority: int) -> int:
        """Return the number of inactive backends of a priority."""
        return self._set.counts.get(priority, 0) - self._active_counts.get(priority, 0)

    def priorities(self) -> list[int]:
        """Return the priorities of all inactive backends, best first."""
        return sorted(filter(self.inactive, self._set.counts))

    def key(self, backend: Backend) -> float:
        """Return the rotation key of a backend that is known."""
        if backend.name in self._active:
            return self._order.key(backend.name, effective_weight(backend.weight))
        # Its key as it was when it became known, or inactive.
        return key_of(self._set.entry(self.position(backend.name)))

    # A new set.

    def read(self, backends: Iterable[Backend], size: int) -> Iterator[None]:
        """Read a set of about `size` backends; the caller may do other things at each pause.

        Nothing has changed until `replace`.

        Raises:
          TwinBackendsError: two backends have the same name and different addresses.
        """
        new = self._next = NextSet(size, self._set, self._order)
        self._moved = {}
        return new.read(backends)

    def replace(self) -> Replacement:
        """Let the set that was read take the place of the one before, in one step."""
        replacement, new = Replacement(), self._next
        assert new is not None
        for name, backend in list(self._active.items()):
            self._replace_active(new, name, backend, replacement)
        for name in self._moved:
            self._replace_moved(new, name)
        self._old, self._set = self._set, new.backends
        self._active_counts = {}
        for backend in self._active.values():
            _count(self._active_counts, backend.priority, 1)
        for priority, heap in new.entries.items():
            self._queue(priority).extend(heap)
        self._next = None
        return replacement

    def _replace_active(
        self, read: NextSet, name: str, backend: Backend, replacement: Replacement
    ) -> None:
        new = read.backends.get(name)
        if new != backend:
            replacement.removed.append(backend)
            del self._active[name]
            if new is not None:
                read.reenter(new)
            return
        assert new is not None
        self._active[name] = new
        if _details(new) != _details(backend):
            replacement.changed.append(new)

    def _replace_moved(self, read: NextSet, name: str) -> None:
        """Take account of a backend that became inactive after it had been read, perhaps."""
        new = read.backends.get(name)
        if new is not None and name not in self._active:
            read.reenter(new)

    def tidy(self) -> Iterator[None]:
        """Free what the latest replacement has left, with pauses."""
        old, self._old = self._old, None
        if old:
            if len(old) <= MAX_REMEMBERED:
                yield from remember_gone(self._order, old, self._set)
            yield from old.clear()
        for priority, queue in list(self._queues.items()):
            yield from queue.tidy(self.inactive(priority))
            if not (queue or self._set.counts.get(priority)):
                del self._queues[priority]

    # The active backends.

    def _queue(self, priority: int) -> InactiveQueue:
        queue = self._queues.get(priority)
        if queue is None:

            def is_valid(entry: bytes) -> bool:
                return self._is_valid(entry, priority)

            queue = self._queues[priority] = InactiveQueue(is_valid)
        return queue

    def _is_valid(self, entry: bytes, priority: int) -> bool:
        """Return True if an entry in the queue of a priority stands for an inactive backend."""
        name = name_of(entry)
        position = self._set.position(name)
        if position is None or name in self._active or self._set.entry(position) != entry:
            return False
        return self._set.backend(position).priority == priority

    def activate_next(self, priority: int) -> Backend | None:
        """Make the first inactive backend of a priority active, and return it."""
        queue = self._queues.get(priority)
        entry = queue.pop() if queue is not None else None
        backend = None if entry is None else self._set.get(name_of(entry))
        if backend is not None:
            self._activate(backend)
        return backend

    def activate_all(self) -> list[Backend]:
        """Make all inactive backends active; return them in the resolver's order."""
        backends = [backend for backend in self._set if backend.name not in self._active]
        for backend in backends:
            self._activate(backend)
        return backends

    def _activate(self, backend: Backend) -> None:
        remember(self._order, self._set, backend)
        self._active[backend.name] = backend
        _count(self._active_counts, backend.priority, 1)

    def deactivate(self, backend: Backend, *, behind: float | None = None) -> None:
        """Make an active backend inactive; with `behind`, at a larger key than that."""
        backend = self._active.pop(backend.name)
        name, weight = backend.name, effective_weight(backend.weight)
        _count(self._active_counts, backend.priority, -1)
        key = self._order.key(name, weight)
        if behind is not None:
            key = self._order.postpone(name, weight, behind=max(key, behind))
        entry = pack(key, name)
        self._set.move(backend, entry)
        self._queue(backend.priority).push(entry)
        self._moved[name] = None


def _count(counts: dict[int, int], priority: int, change: int) -> None:
    counts[priority] = counts.get(priority, 0) + change


def _details(backend: Backend) -> tuple[int, int, str | None]:
    """Return what may change of a backend that stays the same."""
    return backend.priority, backend.weight, backend.target
