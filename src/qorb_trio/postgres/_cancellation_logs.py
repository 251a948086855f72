"""Silence for the warnings that psycopg logs as it unwinds from a cancelled call.

It leaves pipelines and COPY blocks in the middle of an exchange then, and warns that it could
not do so in order. That is expected: the connection is settled before it is used again.
"""

from __future__ import annotations

import logging
import math
from typing import final

import trio


@final
class _CancellationFilter(logging.Filter):
    """Drops the warnings about ignored errors of tasks that are being cancelled."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return False for a warning that a cancellation explains."""
        return not (str(record.msg).startswith("error ignored") and _is_cancelled())


def _is_cancelled() -> bool:
    """Return True in a task that is being cancelled."""
    try:
        return trio.current_effective_deadline() == -math.inf
    except RuntimeError:  # psycopg is used outside of Trio too
        return False


_FILTER = _CancellationFilter()


def install() -> None:
    """Attach the filter to the loggers in question, once."""
    for name in ("psycopg", "psycopg.transaction"):
        logging.getLogger(name).addFilter(_FILTER)
