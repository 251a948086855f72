"""`ClaimFailure`: the reason why claims fail, made once and raised in each claimant."""

from __future__ import annotations

from typing import final

import attrs

from .._model.errors import (
    AllClaimsUsedError,
    ClaimError,
    ClaimTimeoutError,
    NoBackendsError,
    NoBackendsOnlineError,
    PoolOverloadedError,
    PoolTerminatedError,
)
from .._model.stats import PoolStats


@final
@attrs.frozen(kw_only=True, eq=False, repr=False)
class ClaimFailure:
    """The error of one or several claimants: its class, its message and its cause."""

    kind: type[ClaimError]
    message: str
    stats: PoolStats
    cause: BaseException | None = None

    def error(self, cause: Exception | None = None) -> ClaimError:
        """Return a new error for one claimant; `cause` is the failure of its last connection.

        Each claimant gets an error of its own, because raising one adds to its traceback.
        """
        kind = self.kind
        if cause is not None and kind is NoBackendsOnlineError:
            kind = ClaimTimeoutError  # one was online, but its connection could not be set up
        error = kind(self.message, pool=self.stats.name, stats=self.stats)
        error.__cause__ = cause or self.cause
        return error


def termination_failure(stats: PoolStats, crash: BaseException | None = None) -> ClaimFailure:
    """Return the failure of claims on a pool that is ending or has ended.

    `crash` is the exception that ended the pool, if one did.
    """
    message = f"pool {stats.name!r} has been terminated"
    return ClaimFailure(kind=PoolTerminatedError, message=message, stats=stats, cause=crash)


def timeout_failure(
    stats: PoolStats,
    max_slots: int,
    last_error: Exception | None,
    held_by: str = "",
    trouble: str = "",
) -> ClaimFailure:
    """Return the failure of claims that got no connection in time.

    `last_error` is the latest failure of any backend, `held_by` names the holders of the
    connections, and `trouble` says why there is no backend.
    """
    backends = stats.backends.values()
    in_use = sum(b.claimed + b.checking for b in backends)
    spare = sum(b.unclaimed for b in backends)
    prefix = f"pool {stats.name!r}: no connection in time: "
    if not (backends or stats.known):
        reason = "the resolver knows no backend" + (trouble and f"; {trouble}")
        return ClaimFailure(kind=NoBackendsError, message=prefix + reason, stats=stats)
    if in_use or stats.departed >= max_slots:
        in_use += stats.departed
        used = "the only connection is" if in_use == 1 else f"all {in_use} connections are"
        wait = "1 claimant waits" if stats.waiting == 1 else f"{stats.waiting} claimants wait"
        reason = f"{used} in use, {wait}{held_by}"
        return ClaimFailure(kind=AllClaimsUsedError, message=prefix + reason, stats=stats)
    if spare:
        reason = "no connection could be set up"
        return ClaimFailure(
            kind=ClaimTimeoutError, message=prefix + reason, stats=stats, cause=last_error
        )
    state = _describe_outage(len(backends), max(stats.known, len(backends)))
    whose = [f"{b.backend.name}: " for b in backends if b.last_error is last_error is not None]
    reason = f"{state}; no connect has ended yet"
    if last_error is not None:
        reason = f"{state}; last error: {''.join(whose[:1])}{_text(last_error)}"
    return ClaimFailure(
        kind=NoBackendsOnlineError, message=prefix + reason, stats=stats, cause=last_error
    )


def _describe_outage(active: int, known: int) -> str:
    """Return which backends are not online; of thousands, a pool tries a few at a time."""
    if known == 1:
        return "the only backend is not online"
    if active == known:
        return f"none of {known} backends is online"
    return f"none of the {active} backends that are being tried, of {known}, is online"


def full_queue_failure(stats: PoolStats) -> ClaimFailure:
    """Return the failure of a claim that ``max_waiting`` refuses."""
    wait = "1 claimant waits" if stats.waiting == 1 else f"{stats.waiting} claimants wait"
    message = f"pool {stats.name!r} is overloaded: {wait} already (see Policy.max_waiting)"
    return ClaimFailure(kind=PoolOverloadedError, message=message, stats=stats)


def overload_failure(stats: PoolStats) -> ClaimFailure:
    """Return the failure of claims that ``queue_target`` refuses."""
    message = (
        f"pool {stats.name!r} is overloaded: refused after a wait, so that others are served"
        " in time (see Policy.queue_target)"
    )
    return ClaimFailure(kind=PoolOverloadedError, message=message, stats=stats)


def suspension_failure(stats: PoolStats) -> ClaimFailure:
    """Return the failure of claims that got no connection because the pool is suspended."""
    wait = "1 claimant waits" if stats.waiting == 1 else f"{stats.waiting} claimants wait"
    message = (
        f"pool {stats.name!r}: no connection in time: the pool is suspended, {wait}"
        " (see Pool.resume)"
    )
    return ClaimFailure(kind=AllClaimsUsedError, message=message, stats=stats)


def balancer_failure(stats: PoolStats, exc: Exception) -> ClaimFailure:
    """Return the failure of a claim for which the balancer has failed by `exc`."""
    message = f"pool {stats.name!r}: no backend was chosen: {exc}"
    # The exception of the user's code, if there is one, says more than that it was raised.
    return ClaimFailure(kind=ClaimError, message=message, stats=stats, cause=exc.__cause__ or exc)


def _text(error: Exception | None) -> str:
    """Return an exception as text. Its ``repr`` is user code, and may fail."""
    try:
        return repr(error)
    except Exception:  # noqa: BLE001 - the user's code
        return type(error).__name__
