"""Why a claim is refused: decided once, then raised in each claimant that it concerns."""

from __future__ import annotations

from typing import final

import attrs

from .._model.errors import (
    AllClaimsUsedError,
    ClaimError,
    ClaimTimeoutError,
    NoBackendsError,
    NoBackendsOnlineError,
    PoolTerminatedError,
)
from .._model.stats import PoolStats


@final
@attrs.frozen(kw_only=True)
class Refusal:
    """An error in waiting: what kind it is, what it says, and what caused it."""

    kind: type[ClaimError]
    message: str
    stats: PoolStats
    cause: BaseException | None = None

    def error(self, cause: Exception | None = None) -> ClaimError:
        """A new error for one claimant; `cause`: what its own last connection met.

        Each claimant gets its own, since a traceback grows on the one that is raised.
        """
        kind = self.kind
        if cause is not None and kind is NoBackendsOnlineError:
            kind = ClaimTimeoutError  # one was online: what it gave could not be set up
        error = kind(self.message, pool=self.stats.name, stats=self.stats)
        error.__cause__ = cause or self.cause
        return error


def terminated(stats: PoolStats) -> Refusal:
    """The pool is ending, or has ended."""
    message = f"pool {stats.name!r} has been terminated"
    return Refusal(kind=PoolTerminatedError, message=message, stats=stats)


def timed_out(
    stats: PoolStats,
    max_slots: int,
    last_error: Exception | None,
    held_by: str = "",
    trouble: str = "",
) -> Refusal:
    """No connection came in time; `last_error` is the latest failure of any backend,
    `held_by` says who has the connections, `trouble` why there is no backend."""
    backends = stats.backends.values()
    in_use = sum(b.claimed + b.checking for b in backends)
    spare = sum(b.unclaimed for b in backends)
    prefix = f"pool {stats.name!r}: no connection in time: "
    if not backends:
        reason = "the resolver knows no backend" + (trouble and f"; {trouble}")
        return Refusal(kind=NoBackendsError, message=prefix + reason, stats=stats)
    if in_use or stats.departed >= max_slots:
        in_use += stats.departed
        used = "the only connection is" if in_use == 1 else f"all {in_use} connections are"
        wait = "1 claimant waits" if stats.waiting == 1 else f"{stats.waiting} claimants wait"
        reason = f"{used} in use, {wait}{held_by}"
        return Refusal(kind=AllClaimsUsedError, message=prefix + reason, stats=stats)
    if spare:
        reason = "no connection could be set up"
        return Refusal(
            kind=ClaimTimeoutError, message=prefix + reason, stats=stats, cause=last_error
        )
    several = f"none of {len(backends)} backends is online"
    state = "the only backend is not online" if len(backends) == 1 else several
    whose = [f"{b.backend.name}: " for b in backends if b.last_error is last_error is not None]
    reason = f"{state}; last error: {''.join(whose[:1])}{_text(last_error)}"
    return Refusal(
        kind=NoBackendsOnlineError, message=prefix + reason, stats=stats, cause=last_error
    )


def _text(error: Exception | None) -> str:
    """An exception as text; it is the user's, and so is what may fail here."""
    try:
        return repr(error)
    except Exception:  # noqa: BLE001 - the user's code
        return type(error).__name__
