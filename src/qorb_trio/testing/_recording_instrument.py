"""`RecordingInstrument`: keeps the events of a pool for a test."""

from __future__ import annotations

from collections import deque
from typing import final

import trio

from .. import _validation as _check
from .._events.event import EVENT_SPECS, PoolEvent
from .._events.event_instrument import EventInstrument


@final
class RecordingInstrument(EventInstrument):
    """Keeps the events of the pools that it watches, the latest `keep` of them.

    ::

        recording = RecordingInstrument()
        async with open_pool(nursery, resolver, connector, instruments=[recording]) as pool:
            async with pool.claim():
                pass
            recycled = await recording.wait_for("recycle_done")
        assert recycled.backend in {event.backend for event in recording.of("connect_done")}

    Args:
      keep: the maximum number of events; the oldest are forgotten first. 10,000 by
        default.

    Raises:
      TypeError, ValueError: `keep` is not a positive number.
    """

    def __init__(self, *, keep: int = 10_000) -> None:
        super().__init__()
        _check.count("keep", keep, least=1)
        self.events: deque[PoolEvent] = deque(maxlen=keep)
        """The events, in the order in which they happened."""
        self._news: trio.lowlevel.ParkingLot = trio.lowlevel.ParkingLot()

    @property
    def names(self) -> list[str]:
        """The names of the events, in order."""
        return [event.name for event in self.events]

    def of(self, *names: str) -> list[PoolEvent]:
        """The events of these names, in order.

        Raises:
          ValueError: there is no such event.
        """
        _check_names(names)
        return [event for event in self.events if event.name in names]

    async def wait_for(self, name: str, *, count: int = 1) -> PoolEvent:
        """Wait until there are `count` events of that name, and return the last of them.

        Events in the past count too, so that a test cannot come too late. Call `clear` first to
        wait for another one. This is a checkpoint. A cancellation ends the wait, and has no
        other effect.

        Raises:
          TypeError, ValueError: there is no such event, or `count` is not positive.
        """
        _check_names((name,))
        _check.count("count", count, least=1)
        await trio.lowlevel.checkpoint()
        while len(found := self.of(name)) < count:
            await self._news.park()
        return found[count - 1]

    def clear(self) -> None:
        """Forget all events so far."""
        self.events.clear()

    def on_event(self, event: PoolEvent) -> None:
        """Keep the event."""
        self.events.append(event)
        self._news.unpark_all()


def _check_names(names: tuple[str, ...]) -> None:
    for name in names:
        if name not in EVENT_SPECS:
            raise ValueError(f"there is no event {name!r}")
