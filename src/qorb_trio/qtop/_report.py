"""`Report`: the messages to one client.

The first two keys of a message are those of qorb's own qtop, so that either program can
watch what the other serves. docs/observability.md has a table of all keys.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import final

import trio

from ._observer import Observer
from ._recorder import Event
from ._snapshot import Snapshot, encode


@final
class Report:
    """Remembers what one client was told, so that each message contains what is new to it."""

    def __init__(self, observer: Observer) -> None:
        self._observer: Observer = observer
        self._last: Snapshot | None = None
        self._events: dict[str, int] = {}

    async def next(self) -> str:
        """Return the next message, in JSON."""
        last = self._last
        new = await self._observer.snapshot(0 if last is None else last.number)
        self._last = new
        claims = 0 if last is None else new.claims - last.claims
        rest = {
            "interval": 0.0 if last is None else new.time - last.time,
            "pools": new.pools,
            "holders": new.holders,
            "events": self._news(trio.current_time()),
        }
        return f'{{"claims":{claims},"sets":{{{new.sets}}},{encode(rest)[1:]}'

    def _news(self, now: float) -> list[dict[str, object]]:
        """Return the events that the client was not told of, those of all pools in order."""
        pools = (self._news_of(label) for label in self._observer.pools)
        return [
            {
                "age": now - event.time,
                "pool": label,
                "event": event.kind,
                "backend": event.backend,
                "detail": event.detail,
            }
            for label, event in heapq.merge(*pools, key=lambda pair: pair[1].time)
        ]

    def _news_of(self, label: str) -> Iterator[tuple[str, Event]]:
        told = self._events.get(label, 0)
        for event in self._observer.recorders[label].events:
            if event.number > told:
                self._events[label] = event.number
                yield label, event
