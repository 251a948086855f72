"""`LoggingInstrument`: a pool's events as log records, at a bounded rate."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Final, final

import attrs

from .. import _validation as _check
from .._util import printable
from .event import EVENT_SPECS, PoolEvent
from .event_instrument import EventInstrument

#: The default levels. An event that is not listed is logged at `logging.DEBUG`.
LEVELS: Final = {
    "claim_failed": logging.WARNING,
    "claim_acquire_failed": logging.WARNING,
    "claim_cut": logging.WARNING,
    "connect_failed": logging.WARNING,
    "connection_broken": logging.WARNING,
    "health_check_failed": logging.WARNING,
    "recycle_failed": logging.WARNING,
    "slot_set_online": logging.INFO,
    "slot_set_offline": logging.INFO,
    "backend_added": logging.INFO,
    "backend_removed": logging.INFO,
    "backend_ejected": logging.WARNING,
    "backend_restored": logging.INFO,
}

#: The length of a window of the rate limit, in seconds.
PERIOD: Final = 1.0


@attrs.define(eq=False, repr=False)
class _Window:
    """The records of one kind of event within one second, logged and left out."""

    ends: float
    level: int
    logged: int = 0
    left_out: int = 0


@final
class LoggingInstrument(EventInstrument):
    """Logs the events of the pools that it watches, at a bounded rate.

    A record's message is for people: one line, in which everything that is not printable is
    escaped. Its attributes are for machines: ``qorb_event``, ``qorb_pool``, ``qorb_slot_id``
    and so on, one for each key of `PoolEvent.as_dict`. A handler that writes JSON finds the
    exact values there.

    In any second, at most `limit` records are written for each kind of event and each pool.
    Events beyond the limit are counted. When the second is over, one record tells how many
    were left out (``qorb_left_out``). It is written with the next event of any kind, or by
    `flush`.

    Args:
      logger: the logger of the records; by default ``logging.getLogger("qorb_trio.event")``.
      levels: the levels of some events, by name. By default failures, cut claims and
        ejections are warnings. ``slot_set_online``, ``slot_set_offline``, ``backend_added``,
        ``backend_removed`` and ``backend_restored`` are information. All other events are for
        debugging, and so is a failure that is a cancellation or an abandonment.
      limit: the maximum number of records per second for each kind of event and each pool; 10
        by default, ``math.inf`` for no limit.

    Raises:
      TypeError, ValueError: for wrong arguments, including an event that does not exist.
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
        if unknown := [name for name in levels if name not in EVENT_SPECS]:
            raise ValueError(f"levels: there is no event {unknown[0]!r}")
        self._logger: logging.Logger = logger
        self._levels: Mapping[str, int] = LEVELS | dict(levels)
        self._limit: float = limit
        self._windows: dict[tuple[str, str], _Window] = {}
        #: The time at which the next window ends.
        self._next_end: float = math.inf

    def on_event(self, event: PoolEvent) -> None:
        """Log the event, or count it if there are too many."""
        if event.time >= self._next_end:
            self._close_windows(event.time)
        level = self._levels.get(event.name, logging.DEBUG)
        if event.is_abandoned:
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
        """Log now how many records were left out, for example before the program ends."""
        self._close_windows(math.inf)

    def _close_windows(self, now: float) -> None:
        """Forget the windows that have ended, and log how many records they left out."""
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
                words = name, printable(pool), window.left_out
                self._logger.log(window.level, message, *words, extra=extra)
        self._next_end = min((it.ends for it in self._windows.values()), default=math.inf)


LoggingInstrument.__module__ = "qorb_trio"  # where users import it from
