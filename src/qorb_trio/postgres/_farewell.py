"""The reason why a server has ended a connection.

A server that ends a session sends a FATAL message first: an administrator's command, a
time-out, a shutdown. On an idle connection libpq treats it as a notice. On a busy one it is the
error of the command.
"""

from __future__ import annotations

from typing import final

import psycopg
from psycopg import errors, pq
from psycopg.waiting import Wait

from .. import MisusedConnectionError, StaleConnectionError
from ._waiting import poll_now

_FINAL = {"FATAL", "PANIC"}


@final
class Farewell:
    """The last message of a server, taken from its notices."""

    __slots__ = ("error",)

    def __init__(self) -> None:
        self.error: psycopg.Error | None = None

    def hear(self, notice: errors.Diagnostic) -> None:
        """Remember a message that announces the end of the session."""
        if notice.severity_nonlocalized in _FINAL:
            kind = _error_class(notice.sqlstate or "")
            self.error = kind(notice.message_primary or "the server ended the session")


def _error_class(sqlstate: str) -> type[psycopg.Error]:
    try:
        return errors.lookup(sqlstate)
    except KeyError:
        return psycopg.OperationalError


def look_at_idle(pgconn: pq.abc.PGconn, farewell: Farewell) -> StaleConnectionError | None:
    """Read what has arrived on an idle connection; return the reason if it was its end.

    Notices, notifications and changed parameters arrive at any time. libpq keeps them.
    """
    lost: psycopg.Error | None = None
    if poll_now(pgconn.socket, Wait.R):
        try:
            pgconn.consume_input()
        except psycopg.Error as exc:
            lost = exc
        pgconn.is_busy()  # to parse what was read; a FATAL message reaches `farewell` by this
    error = farewell.error or lost
    if error is None:
        return None
    stale = StaleConnectionError(f"the server closed the idle connection: {error}")
    stale.__cause__ = error.with_traceback(None)
    return stale


def reason_of_loss(
    pgconn: pq.abc.PGconn, farewell: Farewell, *, closed_here: bool
) -> psycopg.Error | MisusedConnectionError:
    """Return the reason why a connection is closed."""
    if farewell.error is not None:
        return farewell.error
    if closed_here:
        return MisusedConnectionError("the connection was closed by this program")
    return psycopg.OperationalError(pgconn.get_error_message())
