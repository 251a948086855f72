"""`Observer`: looks at the pools for all clients, and records their events meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, final

import trio

from .. import Pool
from ._recorder import Recorder
from ._snapshot import Snapshot, encode, holders_part, pool_part, set_part

#: The maximum age of a snapshot that clients share, in seconds. Nobody reads faster than that.
FRESH: Final = 0.05
#: The number of backends that are described between two checkpoints: about a millisecond.
STEP: Final = 64


def labels(names: Sequence[str]) -> list[str]:
    """Return the pools' names, made unique by a number where they are not."""
    found: list[str] = []
    for name in names:
        label, number = name, 1
        while label in found:
            number += 1
            label = f"{name}#{number}"
        found.append(label)
    return found


@final
class Observer:
    """The pools and, while at least one client watches, the instruments that record events.

    Work that takes milliseconds happens in pieces, with a checkpoint after each, and under the
    lock `work`. So however many clients there are, the program's other tasks never wait for
    more than one such piece.
    """

    def __init__(self, pools: Sequence[Pool[Any]]) -> None:
        self.pools: dict[str, Pool[Any]] = dict(
            zip(labels([pool.name for pool in pools]), pools, strict=True)
        )
        self.recorders: dict[str, Recorder] = {}
        self.work: trio.Lock = trio.Lock()
        self._watchers: int = 0
        self._latest: Snapshot | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Record the pools' events while the block runs."""
        if not self._watchers:
            for label, pool in self.pools.items():
                self.recorders[label] = Recorder()
                pool.add_instrument(self.recorders[label])
        self._watchers += 1
        try:
            yield
        finally:
            self._watchers -= 1
            if not self._watchers:
                self._latest = None
                for label, pool in self.pools.items():
                    with suppress(KeyError):  # it has raised, and was removed for that reason
                        pool.remove_instrument(self.recorders.pop(label))

    async def snapshot(self, seen: int) -> Snapshot:
        """Return a snapshot that is newer than number `seen`, and at most `FRESH` seconds old."""
        async with self.work:
            latest = self._latest
            oldest = trio.current_time() - FRESH
            if latest is not None and latest.number > seen and latest.time >= oldest:
                return latest
            number = max(seen, 0 if latest is None else latest.number) + 1
            new = self._latest = await self._take_snapshot(number)
            return new

    async def _take_snapshot(self, number: int) -> Snapshot:
        now = trio.current_time()
        stats, holders = {}, {}
        for label, pool in self.pools.items():
            stats[label], holders[label] = pool.stats(), pool.holders()
            await trio.lowlevel.checkpoint()
        sets: list[str] = []
        pools: list[dict[str, object]] = []
        for label, it in stats.items():
            waits, prefix = self.recorders[label].waits, f"{label}/" if len(stats) > 1 else ""
            pool, wait = self.pools[label], waits.of(None, now)
            held, limit = len(holders[label]), pool.policy.max_slots
            is_suspended = pool.is_suspended
            pools.append(
                pool_part(label, it, wait, held=held, max_slots=limit, is_suspended=is_suspended)
            )
            for place, (name, backend) in enumerate(it.backends.items()):
                if place % STEP == STEP - 1:
                    await trio.lowlevel.checkpoint()
                part = set_part(encode(label), backend, waits.of(name, now), now)
                sets.append(f"{encode(prefix + name)}:{part}")
        return Snapshot(number, now, ",".join(sets), pools, holders_part(holders))

    async def stack(self, asked: object) -> str | None:
        """Return the stack of a holder in JSON, or `None` if the question is malformed.

        The question is one of the holders of a message, its keys "pool", "id" and "since".
        """
        match asked:
            case {"pool": str(label), "id": int(slot_id), "since": float() | int() as since}:
                pool = self.pools.get(label)
            case _:
                return None
        text = "It has given the connection back."
        async with self.work:
            for holder in () if pool is None else pool.holders():
                if (holder.slot_id, holder.since) == (slot_id, since):
                    text = "".join(holder.stack().format()) or "The task has ended."
        return encode({"stack": {"pool": label, "id": slot_id, "since": since, "text": text}})
