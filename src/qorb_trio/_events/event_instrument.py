"""`EventInstrument`: an instrument with one method for all events."""

from __future__ import annotations

import functools
from collections.abc import Callable

import trio

from ..abc import Instrument
from .correlator import Correlator
from .event import EVENT_SPECS, PoolEvent


class EventInstrument(Instrument):
    """An instrument that receives all events through one method, as records.

    Subclass it and override `on_event`. Each record adds what the event's own arguments
    leave out: the backend to which a slot leads, the claim that holds the slot, and the
    duration. The instrument remembers what is going on for that purpose, and nothing that
    has ended.

    One instrument may watch several pools if their names differ. If it is added to a pool
    that runs already, spans that began before have no duration.

    A subclass with an ``__init__`` of its own must call this one.
    """

    def __init__(self) -> None:
        self._correlator: Correlator = Correlator()

    def on_event(self, event: PoolEvent) -> None:
        """Receive one event.

        Like every method of an instrument, it is called in the middle of the pool's work: be
        quick, do not block, and call no method of the pool but ``stats()``. If it raises, the
        instrument is removed.
        """

    def _record(self, name: str, pool: str, *args: object) -> None:
        self.on_event(self._correlator.record(name, trio.current_time(), pool, *args))


def _recorder(name: str) -> Callable[..., None]:
    @functools.wraps(getattr(Instrument, name))
    def record(self: EventInstrument, pool: str, *args: object) -> None:
        self._record(name, pool, *args)

    return record


for _name in EVENT_SPECS:
    setattr(EventInstrument, _name, _recorder(_name))
del _name


EventInstrument.__module__ = "qorb_trio"  # where users import it from
