"""Claims that nobody releases: leaked ones, and those that are held when the pool ends."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import trio

from .._slots.slot_set import Slot
from .._util import log_safely, printable
from .holders import holder_name

C = TypeVar("C")

logger = logging.getLogger("qorb_trio.pool")


def warn_of_cut(pool: str, slot: Slot[Any]) -> None:
    """Log that the connection of a claim is closed under its holder."""
    log_safely(
        logger,
        logging.WARNING,
        "pool %s: the claim of task %s on backend %s is cut off after %.3g s: the pool ends",
        printable(pool),
        printable(holder_name(slot)),
        printable(slot.slot_set.backend.name),
        trio.current_time() - slot.claimed_at,
    )


def take_back_leaked(
    pool: str,
    slot: Slot[C],
    token: trio.lowlevel.TrioToken | None,
    discard: Callable[[Slot[C]], None],
) -> None:
    """Have the connection of a claim that was garbage collected discarded.

    That may happen in another thread, or half-way through something in this one. So nothing
    may be done right now.
    """
    assert token is not None
    with contextlib.suppress(trio.RunFinishedError):
        token.run_sync_soon(discard, slot)
    backend = slot.slot_set.backend.name
    warnings.warn(
        f"a claim of pool {pool!r} on backend {backend!r} was not released",
        ResourceWarning,
        stacklevel=3,
    )
