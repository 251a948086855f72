"""`EventInstrument`: an instrument with one method for all events."""

from __future__ import annotations

import functools
from collections.abc import Callable

import trio

from ..abc import Instrument
from .event import KINDS, Correlator, PoolEvent


class EventInstrument(Instrument):
    """An instrument that is told of all events by one method, as records.

    Subclass it and override `on_event`. Each record has what the event's own arguments
    leave out: the backend to which a slot leads, the claim that holds it, and how long it
    took. It remembers what is going on for that, and nothing of what has ended.

    One instrument may watch several pools, if their names differ. If it is added to a pool
    that runs already, what had begun before has no duration.

    A subclass that has an ``__init__`` of its own calls this one's.
    """

    def __init__(self) -> None:
        self._correlator: Correlator = Correlator()

    def on_event(self, event: PoolEvent) -> None:
        """Something happens in a pool.

        As every method of an instrument it is called in the middle of the pool's work: be
        quick, do not wait, and call nothing of the pool but ``stats()``. If it raises, the
        instrument is removed.
        """

    def _tell(self, name: str, pool: str, *args: object) -> None:
        self.on_event(self._correlator.record(name, trio.current_time(), pool, *args))


def given_up(error: BaseException | None) -> bool:
    """Whether an event tells of something that nobody wanted any more, not of a failure."""
    if isinstance(error, trio.Cancelled):
        return True
    # The pool's own word for a dial or a check that it gave up. The system's has a number.
    return type(error) is ConnectionAbortedError and error.errno is None


def _teller(name: str) -> Callable[..., None]:
    @functools.wraps(getattr(Instrument, name))
    def tell(self: EventInstrument, pool: str, *args: object) -> None:
        self._tell(name, pool, *args)

    return tell


for _name in KINDS:
    setattr(EventInstrument, _name, _teller(_name))
del _name
