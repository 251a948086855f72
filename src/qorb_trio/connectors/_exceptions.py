"""Questions about exceptions that may be groups."""

from __future__ import annotations

import trio


def is_cancellation(exc: BaseException) -> bool:
    """Return True for `trio.Cancelled`, and for groups of nothing else."""
    if isinstance(exc, BaseExceptionGroup):
        return exc.split(trio.Cancelled)[1] is None
    return isinstance(exc, trio.Cancelled)


def unwrap(exc: Exception) -> Exception:
    """Return the one exception in nested groups of one; else the group."""
    while isinstance(exc, ExceptionGroup) and len(exc.exceptions) == 1:
        exc = exc.exceptions[0]
    return exc
