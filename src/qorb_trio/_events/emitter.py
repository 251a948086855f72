"""Tells the instruments of a pool what happens."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Any, final

from ..abc import Instrument

logger = logging.getLogger("qorb_trio.instrument")

EVENTS = tuple(name for name in vars(Instrument) if not name.startswith("_"))


@final
class Watch:
    """For each event, the methods of those instruments that override it.

    `changed` is called whenever there are others than before.
    """

    __slots__ = ("_changed", "_listeners", "instruments")

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self.instruments: list[Instrument] = []
        self._listeners: dict[str, list[tuple[Instrument, Callable[..., object]]]] = {}

    def add(self, instrument: Instrument) -> None:
        """Tell `instrument` too from now on, unless it is told already."""
        if any(it is instrument for it in self.instruments):
            return
        self.instruments.append(instrument)
        for event in EVENTS:
            method = getattr(instrument, event)
            if getattr(method, "__func__", None) is not getattr(Instrument, event):
                self._listeners.setdefault(event, []).append((instrument, method))
        self._changed()

    def remove(self, instrument: Instrument) -> None:
        """Do not tell `instrument` any more; a `KeyError` if it is not told."""
        if not any(it is instrument for it in self.instruments):
            raise KeyError(instrument)
        self.instruments = [it for it in self.instruments if it is not instrument]
        for event, listeners in self._listeners.items():
            self._listeners[event] = [it for it in listeners if it[0] is not instrument]
        self._changed()

    def fire(self, event: str, *args: Any) -> None:
        """Tell of an event. An instrument that raises is logged and removed."""
        for instrument, method in tuple(self._listeners.get(event, ())):
            try:
                method(*args)
            except BaseException:  # noqa: ASYNC103 - see below
                # As in Trio: whatever an instrument raises, the pool is in the middle
                # of something, and nobody up the stack has asked for this call.
                logger.exception("%r raised in %s; it is removed", instrument, event)
                with contextlib.suppress(KeyError):  # it may have removed itself
                    self.remove(instrument)
