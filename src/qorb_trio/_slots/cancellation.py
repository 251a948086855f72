"""The meaning of a cancellation in a task that does I/O on a slot."""

from __future__ import annotations

import trio


def is_cancellation(exc: BaseException) -> bool:
    """Return True if `exc` is a cancellation, or a group of nothing else."""
    if isinstance(exc, BaseExceptionGroup):
        return exc.split(trio.Cancelled)[1] is None
    return isinstance(exc, trio.Cancelled)


def interruption(what: str, *, is_wanted: bool) -> Exception:
    """Return what it means that the scope of some I/O was cancelled.

    Its deadline has passed; or the pool gave it up, if it is not wanted any more.
    """
    if is_wanted:
        return trio.TooSlowError(f"{what} took longer than its timeout")
    return ConnectionAbortedError(f"{what} was given up: no longer wanted")
