"""The errors that qorb_trio raises. Each says whose fault it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from .stats import PoolStats


class QorbError(Exception):
    """The base class of every error that this package defines."""


class ResolveError(QorbError):
    """The backends of a service could not be looked up.

    A resolver keeps this to itself while it has backends to offer; it is what a
    one-shot lookup raises, and what a resolver's snapshot shows as its last error.
    """


class IneligibleBackendError(QorbError):
    """A backend works, but is not eligible for this pool now.

    For `Connector.connect` to raise, for example at a replica where the primary is wanted, and
    for `Connector.is_broken`, when a primary has become a replica. It is no failure of the
    backend: one INFO line, no back-off, no WARNING. The pool tries the backend again within a
    second while nothing else is online.
    """


class StaleConnectionError(QorbError, ConnectionError):
    """The peer closed a connection while it was idle, as servers do.

    For `Connector.is_broken` to raise. It is no failure of the backend: no WARNING, no
    back-off, no claim is refused for it. The pool counts it as ``stale`` and replaces the
    connection if it is wanted.
    """


class MisusedConnectionError(QorbError, ConnectionError):
    """This program has left a connection in a state in which no other task can use it.

    For `Connector.is_broken` to raise: the connection was closed, or half closed, or bytes of
    an answer were left unread, by the task that had claimed it. It counts against no backend.
    The pool closes the connection, and says in a WARNING which task had claimed it.
    """


class ClaimError(QorbError):
    """A claim was not granted.

    Attributes:
      pool: the name of the pool.
      stats: a `PoolStats` snapshot of the pool at the moment the claim failed. While a pool
        uses more than 500 backends, many failures share one, and it may be some tenths of a
        second old: 0.15 s for 1,000 backends.
    """

    def __init__(self, message: str, *, pool: str, stats: PoolStats) -> None:
        super().__init__(message)
        self.pool = pool
        self.stats = stats

    def __reduce__(self) -> tuple[object, ...]:
        # The keyword arguments are not in `args`, which is all that pickle and
        # copy would otherwise hand to the constructor.
        return _rebuild, (type(self), self.args[0], self.pool, self.stats)


def _rebuild(kind: type[ClaimError], message: str, pool: str, stats: PoolStats) -> ClaimError:
    return kind(message, pool=pool, stats=stats)


class ClaimTimeoutError(ClaimError, trio.TooSlowError):
    """No connection could be had within the claim's timeout.

    A `trio.TooSlowError` too, so that code written against `trio.fail_after`
    catches it. The subclasses tell why; this class itself is raised when there were
    connections, but each that was tried failed its ``on_acquire`` (``__cause__`` is
    the last such failure).
    """


class NoBackendsError(ClaimTimeoutError):
    """The resolver knows no backend of the service."""


class NoBackendsOnlineError(ClaimTimeoutError):
    """There are backends, but none has a connection.

    ``__cause__`` is the last error of a connect, where there was one.
    """


class AllClaimsUsedError(ClaimTimeoutError):
    """There are connections, but every one of them is in use."""


class PoolOverloadedError(ClaimTimeoutError):
    """The claim was refused by `Policy.max_waiting` or `Policy.queue_target`."""


class PoolTerminatedError(ClaimError):
    """The pool has ended, or is ending; it grants no more claims."""
