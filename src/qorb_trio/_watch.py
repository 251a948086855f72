"""Tells the instruments of a pool what happens."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, final

from .abc import Instrument

logger = logging.getLogger("qorb_trio.instrument")

EVENTS = tuple(name for name in vars(Instrument) if not name.startswith("_"))


@final
class Watch:
    """For each event, the methods of those instruments that override it."""

    __slots__ = ("_listeners",)

    def __init__(self, instruments: Iterable[Instrument]) -> None:
        self._listeners: dict[str, list[tuple[Instrument, Callable[..., object]]]] = {}
        for instrument in instruments:
            for event in EVENTS:
                method = getattr(instrument, event)
                if getattr(method, "__func__", None) is not getattr(Instrument, event):
                    self._listeners.setdefault(event, []).append((instrument, method))

    def fire(self, event: str, *args: Any) -> None:
        """Tell of an event. An instrument that raises is logged and removed."""
        for instrument, method in tuple(self._listeners.get(event, ())):
            try:
                method(*args)
            except BaseException:  # noqa: ASYNC103 - see below
                # As in Trio: whatever an instrument raises, the pool is in the middle
                # of something, and nobody up the stack has asked for this call.
                logger.exception("%r raised in %s; it is removed", instrument, event)
                self._remove(instrument)

    def _remove(self, instrument: Instrument) -> None:
        for event, listeners in self._listeners.items():
            self._listeners[event] = [it for it in listeners if it[0] is not instrument]
