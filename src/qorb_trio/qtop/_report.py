"""`Observer` and `Report`: what a client is told.

The first two keys of a message are those of qorb's own qtop, so that either can watch
what the other serves. docs/observability.md has a table of them all.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, final

import trio

from .. import BackendStats, Holder, Pool, PoolStats
from ._recorder import WHOLE_POOL, Recorder, describe

#: At most so many holders are told of, those who have held longest.
HOLDERS: Final = 100

#: The two waits that are told of, in seconds; `None` where nobody has waited lately.
Waits = tuple[float, float] | None

_encode: Final = json.JSONEncoder(separators=(",", ":")).encode


def labels(names: Sequence[str]) -> list[str]:
    """The pools' names, made unique by a number where they are not."""
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
    """The pools, and, while anybody watches, the instruments that record their events."""

    def __init__(self, pools: Sequence[Pool[Any]]) -> None:
        self.pools: dict[str, Pool[Any]] = dict(
            zip(labels([pool.name for pool in pools]), pools, strict=True)
        )
        self.recorders: dict[str, Recorder] = {}
        self._watchers: int = 0

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Record what happens while the block runs."""
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
                for label, pool in self.pools.items():
                    with suppress(KeyError):  # it has raised, and been removed for that
                        pool.remove_instrument(self.recorders.pop(label))

    def stack(self, asked: object) -> str | None:
        """Where a holder is, in JSON; `None` if it was not asked properly.

        The question is one of the holders of a message, its keys "pool", "id" and "since".
        """
        match asked:
            case {"pool": str(label), "id": int(slot_id), "since": float() | int() as since}:
                pool = self.pools.get(label)
            case _:
                return None
        holders = pool.holders() if pool is not None else ()
        text = "It has given the connection back."
        for holder in holders:
            if (holder.slot_id, holder.since) == (slot_id, since):
                text = "".join(holder.stack().format()) or "The task has ended."
        answer = {"pool": label, "id": slot_id, "since": since, "text": text}
        return _encode({"stack": answer})


@final
class Report:
    """What one client has been told so far, and so, what is news to it."""

    def __init__(self, observer: Observer) -> None:
        self._observer: Observer = observer
        self._told_at: float | None = None
        self._claims: int = 0
        self._events: dict[str, int] = {}

    async def next(self) -> str:
        """The next message, in JSON."""
        now = trio.current_time()
        observer = self._observer
        stats = {label: pool.stats() for label, pool in observer.pools.items()}
        waits = {label: it.waits.percentiles(now) for label, it in observer.recorders.items()}
        claims = sum(it.claims for it in stats.values())
        holders = {label: pool.holders() for label, pool in observer.pools.items()}
        news = claims - self._claims if self._told_at is not None else 0
        rest = {
            "interval": now - self._told_at if self._told_at is not None else 0.0,
            "pools": [
                _pool_part(label, observer.pools[label], it, waits[label].get(WHOLE_POOL))
                | {"held": len(holders[label])}
                for label, it in stats.items()
            ],
            "holders": _holders_part(holders),
            "events": [event for label in stats for event in self._news(label, now)],
        }
        self._told_at, self._claims = now, claims
        # With a thousand backends each half of this takes a few milliseconds, during which
        # nobody else in the program can run.
        await trio.lowlevel.checkpoint()
        sets = [
            f"{_encode(f'{label}/{name}' if len(stats) > 1 else name)}:"
            f"{_set_part(_encode(label), it, waits[label].get(name))}"
            for label, pool_stats in stats.items()
            for name, it in pool_stats.backends.items()
        ]
        # By hand, since that takes a quarter of the time of making dicts and encoding them.
        return f'{{"claims":{news},"sets":{{{",".join(sets)}}},{_encode(rest)[1:]}'

    def _news(self, label: str, now: float) -> Iterator[dict[str, object]]:
        """The events of one pool that the client has not been told of."""
        told = self._events.get(label, 0)
        for event in self._observer.recorders[label].events:
            if event.number > told:
                self._events[label] = event.number
                yield {
                    "age": now - event.time,
                    "pool": label,
                    "event": event.kind,
                    "backend": event.backend,
                    "detail": event.detail,
                }


def _pool_part(label: str, pool: Pool[Any], stats: PoolStats, waits: Waits) -> dict[str, object]:
    return {
        "name": label,
        "claims": stats.claims,
        "waiting": stats.waiting,
        "slots": stats.slots,
        "max_slots": pool.policy.max_slots,
        "departed": stats.departed,
        "backends": len(stats.backends),
        "wait_p50": waits and waits[0],
        "wait_p99": waits and waits[1],
    }


def _set_part(pool: str, stats: BackendStats, waits: Waits) -> str:
    """One backend; the first five keys are those that qorb's qtop knows."""
    error = stats.last_error
    return (
        f'{{"connecting_slots":{stats.connecting}'
        f',"unclaimed_slots":{stats.unclaimed}'
        f',"checking_slots":{stats.checking}'
        f',"claimed_slots":{stats.claimed}'
        f',"total_claims":{stats.total_claims}'
        f',"closing_slots":{stats.closing}'
        f',"wanted_slots":{stats.wanted}'
        f',"online":{"true" if stats.online else "false"}'
        f',"failures":{stats.failures}'
        f',"last_error":{"null" if error is None else _encode(describe(error))}'
        f',"wait_p50":{"null" if waits is None else waits[0]}'
        f',"wait_p99":{"null" if waits is None else waits[1]}'
        f',"pool":{pool}'
        f',"backend":{_encode(stats.backend.name)}}}'
    )


def _holders_part(holders: Mapping[str, Sequence[Holder]]) -> list[dict[str, object]]:
    """Those who have held longest, of all pools together."""
    every = ((label, it) for label, found in holders.items() for it in found)
    return [
        {
            "pool": label,
            "id": it.slot_id,
            "backend": it.backend.name,
            "since": it.since,
            "age": it.age,
            "task": it.task,
        }
        for label, it in heapq.nsmallest(HOLDERS, every, key=lambda pair: pair[1].since)
    ]
