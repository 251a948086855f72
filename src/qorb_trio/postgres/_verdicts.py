"""Which errors of a claim's body are the server's fault. Pure functions."""

from __future__ import annotations

from psycopg import Error, errors

#: SQLSTATE classes of a server that cannot serve: connection exceptions, insufficient
#: resources, operator intervention other than a cancelled query, internal errors.
_CLASSES = ("08", "53", "57P", "XX")
#: System errors, but for missing and duplicate files, which a statement may name.
_STATES = {"58000", "58030"}
_READ_ONLY = errors.ReadOnlySqlTransaction.sqlstate


def blames_server(exc: Error, *, lost: bool, for_writing: bool) -> bool:
    """Tell whether an error of psycopg speaks against the server.

    Args:
      exc: the error.
      lost: True if the connection is closed, and this program did not close it.
      for_writing: True if the pool's backends must accept writes.
    """
    state = exc.sqlstate
    if state is None:
        return lost or isinstance(exc, errors.CancellationTimeout)
    if state == _READ_ONLY:
        return for_writing
    return state.startswith(_CLASSES) or state in _STATES
