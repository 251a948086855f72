"""`LoggingInstrument`: a pool's events as log records, and never too many of them."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Final, final

import attrs

from .. import _validation as _check
from .event import KINDS, PoolEvent
from .event_instrument import EventInstrument, given_up

#: The levels of what is not `logging.DEBUG`.
LEVELS: Final = {
    "claim_failed": logging.WARNING,
    "claim_acquire_failed": logging.WARNING,
    "connect_failed": logging.WARNING,
    "health_check_failed": logging.WARNING,
    "recycle_failed": logging.WARNING,
    "slot_set_online": logging.INFO,
    "slot_set_offline": logging.INFO,
    "backend_added": logging.INFO,
    "backend_removed": logging.INFO,
}

PERIOD: Final = 1.0


@attrs.define
class _Window:
    """The records of one kind of event within one second, and those left out."""

    ends: float
    level: int
    logged: int = 0
    left_out: int = 0


@final
class LoggingInstrument(EventInstrument):
    """Logs the events of the pools that it watches, at most so many a second.

    A record's message is for people, and its attributes are for machines: ``qorb_event``,
    ``qorb_pool``, ``qorb_slot_id`` and so on, one for each key of `PoolEvent.as_dict`. With
    a handler that writes JSON, they are fields.

    Of each kind of event, of each pool, `limit` records are written in any second. What
    comes beyond that is counted, and when the second is over one record says how many were
    left out (``qorb_left_out``); it is written with the first event of any kind that comes
    then, or by `flush`.

    Args:
      logger: where the records go; ``logging.getLogger("qorb_trio.event")`` by default.
      levels: the levels of some events, by name. The others keep theirs: failures are
        warnings, what befalls a backend (``slot_set_online``, ``slot_set_offline``,
        ``backend_added``, ``backend_removed``) is information, all that belongs to everyday
        work is for debugging, and so is what fails because it was cancelled or given up.
      limit: so many records per second of each kind of event; 10 by default, and
        ``math.inf`` for all.

    Raises:
      TypeError, ValueError: for wrong arguments, an event that does not exist among them.
    """

    def __init__(
        self,
        logger: logging.Logger | None = None,
        *,
        levels: Mapping[str, int] | None = None,
        limit: float = 10,
    ) -> None:
        super().__init__()
        if logger is None:
            logger = logging.getLogger("qorb_trio.event")
        _check.instance("logger", logger, logging.Logger)
        if limit != math.inf:
            _check.count("limit", limit, least=1)
        levels = {} if levels is None else levels
        _check.instance("levels", levels, Mapping)
        if unknown := [name for name in levels if name not in KINDS]:
            raise ValueError(f"levels: there is no event {unknown[0]!r}")
        self._logger: logging.Logger = logger
        self._levels: Mapping[str, int] = LEVELS | dict(levels)
        self._limit: float = limit
        self._windows: dict[tuple[str, str], _Window] = {}
        #: When the next window ends.
        self._next_end: float = math.inf

    def on_event(self, event: PoolEvent) -> None:
        """Log the event, or count it."""
        if event.time >= self._next_end:
            self._close_windows(event.time)
        level = self._levels.get(event.name, logging.DEBUG)
        if given_up(event.error):
            level = min(level, logging.DEBUG)
        if not self._logger.isEnabledFor(level):
            return
        window = self._windows.get((event.pool, event.name))
        if window is None:
            window = _Window(event.time + PERIOD, level)
            self._windows[event.pool, event.name] = window
            self._next_end = min(self._next_end, window.ends)
        if window.logged < self._limit:
            window.logged += 1
            extra = {f"qorb_{name}": value for name, value in event.as_dict().items()}
            self._logger.log(level, "%s", event, extra=extra)
        else:
            window.level = max(window.level, level)
            window.left_out += 1

    def flush(self) -> None:
        """Say now how many records were left out, as before the end of a program."""
        self._close_windows(math.inf)

    def _close_windows(self, now: float) -> None:
        """Forget the windows that have ended, and tell what was left out of them."""
        over = [(key, window) for key, window in self._windows.items() if window.ends <= now]
        for (pool, name), window in over:
            del self._windows[pool, name]
            if window.left_out:
                extra = {
                    "qorb_event": name,
                    "qorb_pool": pool,
                    "qorb_left_out": window.left_out,
                }
                message = "%s pool=%s: %d more within a second were left out"
                self._logger.log(window.level, message, name, pool, window.left_out, extra=extra)
        self._next_end = min((it.ends for it in self._windows.values()), default=math.inf)
