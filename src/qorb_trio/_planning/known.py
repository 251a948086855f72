"""`KnownBackends`: all backends of a pool, and the order of those that it does not use."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from typing import Final, final

import attrs

from .._model.backend import Backend, effective_weight
from .rotation import RotationOrder

#: Number of backends that are taken over in one go, in about 2 ms.
CHUNK: Final = 250

#: Number of parts in which the records are kept.
SHARDS: Final = 256


@attrs.define(eq=False)
class _Record:
    """One known backend."""

    backend: Backend
    #: The update that named it last.
    update: int
    #: The entry of the queue that stands for it; 0 while it is active.
    entry: int = 0

    def is_equivalent(self, backend: Backend) -> bool:
        """Return True if priority and weight are the same."""
        mine = self.backend
        return (mine.priority, mine.weight) == (backend.priority, backend.weight)


@final
class _Records:
    """The records by name, in many small dicts.

    One dict of a million entries would take 60 ms for the single step in which it grows.
    """

    def __init__(self) -> None:
        self._shards: list[dict[str, _Record]] = [{} for _ in range(SHARDS)]

    def __len__(self) -> int:
        return sum([len(shard) for shard in self._shards])

    def __iter__(self) -> Iterator[_Record]:
        for shard in self._shards:
            yield from shard.values()

    def get(self, name: str) -> _Record | None:
        """Return the record of that name, if there is one."""
        return self._shards[hash(name) % SHARDS].get(name)

    def add(self, record: _Record) -> None:
        """Add the record of a new name."""
        name = record.backend.name
        self._shards[hash(name) % SHARDS][name] = record

    def remove(self, record: _Record) -> None:
        """Remove a record."""
        name = record.backend.name
        del self._shards[hash(name) % SHARDS][name]


@final
class _Queue:
    """The inactive backends of one priority, smallest key first.

    Entries of backends that were removed, or are active, stay in the heap until they
    come first or most entries are of that kind.
    """

    def __init__(self, records: _Records) -> None:
        self._records = records
        self._heap: list[tuple[float, int, str]] = []
        self._draining: list[tuple[float, int, str]] = []
        #: Number of valid entries.
        self.size = 0

    def push(self, key: float, entry: int, name: str) -> None:
        """Add a backend."""
        heappush(self._heap, (key, entry, name))
        self.size += 1

    def pop(self) -> str | None:
        """Remove and return the name of the first backend."""
        self._drop_stale(self._heap)
        self._drop_stale(self._draining)
        heaps = [heap for heap in (self._heap, self._draining) if heap]
        if not heaps:
            return None
        self.size -= 1
        return heappop(min(heaps))[2]

    def compact(self) -> Iterator[None]:
        """Remove stale entries if they are in the majority, in chunks.

        To remove the last entries of a heap leaves a heap, so both lists can be used
        between two chunks.
        """
        if not self._draining and len(self._heap) > 2 * self.size + CHUNK:
            self._heap, self._draining = [], self._heap
        while self._draining:
            for entry in self._draining[-CHUNK:]:
                if self._is_valid(entry):
                    heappush(self._heap, entry)
            del self._draining[-CHUNK:]
            yield

    def _drop_stale(self, heap: list[tuple[float, int, str]]) -> None:
        while heap and not self._is_valid(heap[0]):
            heappop(heap)

    def _is_valid(self, entry: tuple[float, int, str]) -> bool:
        record = self._records.get(entry[2])
        return record is not None and record.entry == entry[1]


@final
class KnownBackends:
    """All backends that the resolver knows; some of them are active.

    A set of the resolver is taken over in O(n log n), a chunk at a time. All else takes
    O(log n) for each backend that becomes active or inactive.
    """

    def __init__(self, order: RotationOrder) -> None:
        self._order = order
        self._records = _Records()
        self._queues: dict[int, _Queue] = {}
        self._updates = 0
        self._entries = itertools.count(1)
        self._active: dict[str, Backend] = {}
        #: Active backends that were removed. The caller drains and clears them.
        self.removed: list[Backend] = []

    def __len__(self) -> int:
        return len(self._records)

    def is_active(self, backend: Backend) -> bool:
        """Return True if a backend is active and still known."""
        return self._active.get(backend.name) == backend

    def priorities(self) -> list[int]:
        """Return the priorities of all inactive backends, best first."""
        return sorted([priority for priority, queue in self._queues.items() if queue.size])

    def inactive(self, priority: int) -> int:
        """Return the number of inactive backends of a priority."""
        queue = self._queues.get(priority)
        return 0 if queue is None else queue.size

    def update(self, backends: Iterable[Backend]) -> Iterator[None]:
        """Take over a set of backends; the caller may do other things at each item.

        Active backends that are not in the set are in `removed` before the first step
        that takes time in proportion to what was known before. Names must be unique.
        """
        self._updates += 1
        for count, backend in enumerate(backends, 1):
            self._note(backend)
            if count % CHUNK == 0:
                yield
        for name in list(self._active):
            if self._record(name).update != self._updates:
                self._remove_active(name)
        yield from self._sweep()
        for queue in list(self._queues.values()):
            yield from queue.compact()

    def _note(self, backend: Backend) -> None:
        """Add a backend, or update its priority and weight."""
        record = self._records.get(backend.name)
        if record is not None and record.backend != backend:
            self._forget(record)
            record = None
        if record is None:
            record = _Record(backend, self._updates)
            self._records.add(record)
            self._enqueue(record)
            return
        record.update = self._updates
        if record.entry and not record.is_equivalent(backend):
            self._dequeue(record)
            record.backend = backend
            self._enqueue(record)
        record.backend = backend

    def _sweep(self) -> Iterator[None]:
        """Remove the backends that the latest update has not named."""
        stale: list[_Record] = []
        # Nothing else adds or removes records while an update is under way.
        for count, record in enumerate(self._records, 1):
            if record.update != self._updates:
                stale.append(record)
            if count % (20 * CHUNK) == 0:
                yield
        while stale:
            for record in stale[-CHUNK:]:
                self._forget(record)
            del stale[-CHUNK:]
            yield

    def _record(self, name: str) -> _Record:
        """Return the record of a name that is known."""
        record = self._records.get(name)
        assert record is not None
        return record

    def _forget(self, record: _Record) -> None:
        if record.entry:
            self._dequeue(record)
        else:
            self._remove_active(record.backend.name)
        self._records.remove(record)

    def _remove_active(self, name: str) -> None:
        backend = self._active.pop(name, None)
        if backend is not None:
            self.removed.append(backend)

    def _enqueue(self, record: _Record) -> None:
        backend = record.backend
        queue = self._queues.get(backend.priority)
        if queue is None:
            queue = self._queues[backend.priority] = _Queue(self._records)
        record.entry = next(self._entries)
        queue.push(self.key(backend), record.entry, backend.name)

    def _dequeue(self, record: _Record) -> None:
        """Make the entry of a backend stale."""
        record.entry = 0
        self._queues[record.backend.priority].size -= 1

    def key(self, backend: Backend) -> float:
        """Return the rotation key of a backend."""
        return self._order.key(backend.name, effective_weight(backend.weight))

    def activate_next(self, priority: int) -> Backend | None:
        """Make the first inactive backend of a priority active, and return it."""
        queue = self._queues.get(priority)
        name = queue.pop() if queue is not None else None
        if name is None:
            return None
        record = self._record(name)
        record.entry = 0
        self._active[name] = record.backend
        return record.backend

    def deactivate(self, backend: Backend) -> None:
        """Make an active backend inactive."""
        del self._active[backend.name]
        self._enqueue(self._record(backend.name))

    def postpone(self, backend: Backend) -> None:
        """Make an active backend inactive, behind its present place in the order."""
        key = self.key(backend)
        self._order.postpone(backend.name, effective_weight(backend.weight), behind=key)
        self.deactivate(backend)
