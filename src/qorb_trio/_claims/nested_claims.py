"""`NestedClaims`: warns of a task that claims while it holds a claim."""

from __future__ import annotations

import logging
from typing import final

import trio

from .._util import log_safely, printable

logger = logging.getLogger("qorb_trio.pool")


@final
class NestedClaims:
    """The claims of tasks that hold another claim of the same pool."""

    __slots__ = ("_has_warned", "_pool")

    def __init__(self, pool: str) -> None:
        self._pool: str = pool
        self._has_warned: bool = False

    def warn(self, task: trio.lowlevel.Task) -> None:
        """Warn once that a task claims while it holds a claim.

        Such a task can deadlock, alone or with other tasks that do the same.
        """
        if self._has_warned:
            return
        self._has_warned = True
        log_safely(
            logger,
            logging.WARNING,
            "pool %s: task %s claims while it holds a claim of this pool; when all"
            " connections are in use, such tasks wait for one another",
            printable(self._pool),
            printable(task.name),
        )
