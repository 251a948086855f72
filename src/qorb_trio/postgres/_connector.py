"""`PostgresConnector`: PostgreSQL servers as the backends of a pool."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Generic, TypeAlias

import psycopg
import trio
from psycopg import pq
from psycopg.conninfo import make_conninfo
from psycopg.rows import Row

from .. import Backend, Connector, IneligibleBackendError
from .._util import log_safely
from . import _cleaning, _parameters, _verdicts
from ._connection import PostgresConnection
from ._farewell import look_at_idle, reason_of_loss
from ._waiting import open_pgconn

if TYPE_CHECKING:
    from psycopg.abc import AdaptContext, ConnParam
    from psycopg.rows import AsyncRowFactory

logger = logging.getLogger("qorb_trio.postgres")

#: A user's function that prepares or cleans a connection.
Hook: TypeAlias = "Callable[[PostgresConnection[Any]], Awaitable[object]]"

#: The part of a dial's time that is kept to say how far it got.
_MARGIN = 0.05

#: The first version of libpq that can cancel a command without blocking.
_LIBPQ = 170000

_DROPS_STATEMENTS = re.compile(r"\b(?:DISCARD|DEALLOCATE)\s+(?:PREPARE\s+)?ALL\b", re.IGNORECASE)

_ROLE = (
    "SELECT pg_catalog.pg_is_in_recovery(),"
    " pg_catalog.current_setting('default_transaction_read_only')::pg_catalog.bool"
)


class PostgresConnector(Connector[PostgresConnection[Row]], Generic[Row]):
    """Connects to PostgreSQL servers, and yields a `PostgresConnection`.

    The address of a `Backend` says where a server is; everything else comes from `conninfo`.
    A backend at a Unix socket has the path of the socket, as in
    ``/run/postgresql/.s.PGSQL.5432``. A connection that comes back is cleaned only if there is
    something to clean: a cancelled command, an open transaction, changed settings.

    Args:
      conninfo: a connection string or URI, as for psycopg. The host in it, if any, is the name
        that TLS verifies, in place of ``Backend.target`` or the address. ``target_session_attrs``
        says which servers are eligible: "any" (the default), "read-write", "read-only",
        "primary" or "standby".
      autocommit: True, the default, commits each statement on its own, but for those in a
        ``transaction()`` block. With False, psycopg begins a transaction at the first statement,
        and what the claimant does not commit is rolled back.
      reset: further cleaning after *each* claim, outside of a transaction: SQL, a function
        ``async (connection)``, or True for all that ``DISCARD ALL`` does except dropping
        prepared statements. By default none.
      configure: a function ``async (connection)`` that prepares each new connection. What
        it sets is what the connection returns to between claims.
      prepare_threshold: as for `psycopg.AsyncConnection.connect`; 5 by default.
      context: the same; by default psycopg's global adapters.
      row_factory: the same; by default tuples.
      cursor_factory: the same; by default `psycopg.AsyncCursor`.
      **kwargs: parameters of the connection string, which override those in `conninfo`.

    Raises:
      TypeError, ValueError: naming what is wrong.
      RuntimeError: if psycopg runs with a libpq older than 17 (``psycopg[binary]`` does not).
    """

    def __init__(
        self,
        conninfo: str = "",
        *,
        autocommit: bool = True,
        reset: bool | str | Hook = False,
        configure: Hook | None = None,
        prepare_threshold: int | None = 5,
        context: AdaptContext | None = None,
        row_factory: AsyncRowFactory[Row] | None = None,
        cursor_factory: type[psycopg.AsyncCursor[Row]] | None = None,
        **kwargs: ConnParam,
    ) -> None:
        if pq.version() < _LIBPQ:
            raise RuntimeError(
                f"PostgresConnector needs libpq 17 or newer, not {pq.version()}:"
                " pip install 'psycopg[binary]'"
            )
        self._params, self._role = _parameters.checked(conninfo, kwargs)
        self._autocommit = _checked_flag("autocommit", autocommit)
        self._reset = _checked_reset(reset, prepare_threshold)
        self._configure = _checked_hook("configure", configure)
        self._prepare_threshold = prepare_threshold
        self._context = context
        self._row_factory = row_factory
        self._cursor_factory = cursor_factory
        self._has_warned = False

    # Connecting.

    async def connect(self, backend: Backend) -> PostgresConnection[Row]:
        """Open a connection. Cancelled, or failing, it leaves nothing open.

        Raises:
          psycopg.OperationalError: if that fails, with the server's or libpq's reason. Shortly
            before its time is up, a `psycopg.errors.ConnectionTimeout` says how far it got.
          IneligibleBackendError: if the server does not have the role that
            ``target_session_attrs`` asks for.
          ValueError: if the backend's address is a path, but no PostgreSQL socket's.
        """
        conn = await self._open(backend)
        try:
            if self._role != "any":
                await self._require_role(conn, backend)
            if self._configure is not None:
                await _call_hook("configure", self._configure, conn)
        except BaseException:
            conn.lock.close()
            raise
        conn.lock.settings = _cleaning.settings_of(conn)
        return conn

    async def _open(self, backend: Backend) -> PostgresConnection[Row]:
        now = trio.current_time()
        left = trio.current_effective_deadline() - now
        timeout = min(_parameters.connect_timeout(self._params), left * (1 - _MARGIN))
        params = await _parameters.look_up_backend(self._params, backend)
        pgconn = await open_pgconn(make_conninfo("", **params), now + timeout)
        conn: PostgresConnection[Row] = PostgresConnection(pgconn, self._row_factory)
        conn.set_up(self._prepare_threshold, self._context, self._cursor_factory)
        await conn.set_autocommit(self._autocommit)  # it sends nothing, and does not wait
        return conn

    async def _require_role(self, conn: PostgresConnection[Row], backend: Backend) -> None:
        role = await _role_of(conn)
        if self._role not in role:
            raise IneligibleBackendError(
                f"{backend.name} is {' and '.join(role)}, and target_session_attrs asks for"
                f" {self._role}"
            )

    async def is_primary(self, backend: Backend) -> bool:
        """Ask a server if it is a primary; for ``ProbedResolver(resolver, connector.is_primary)``.

        It opens a connection for this question, and closes it. False means a standby; a server
        that cannot be asked raises `psycopg.OperationalError`.
        """
        conn = await self._open(backend)
        try:
            return "primary" in await _role_of(conn)
        finally:
            conn.lock.close()

    # Checking.

    def fileno(self, conn: PostgresConnection[Row]) -> int | None:
        """Return the connection's socket, to be watched while it is idle."""
        return None if conn.closed else conn.fileno()

    def is_broken(self, conn: PostgresConnection[Row]) -> bool:
        """Look at the connection without waiting; the exception that it raises is the reason.

        The socket of a connection that is in the middle of an exchange is not read: the rest
        of the answer is in there, which `on_recycle` reads.

        Raises:
          StaleConnectionError: if the server has closed the idle connection, with the message
            that it sent (its ``__cause__``).
          MisusedConnectionError: if this program has closed it.
          psycopg.Error: if it was lost while it was in use.
        """
        exchange = conn.lock
        if conn.closed:
            raise reason_of_loss(conn.pgconn, exchange.farewell, closed_here=exchange.closed_here)
        if exchange.is_idle():
            reason = look_at_idle(conn.pgconn, exchange.farewell)
            if reason is not None:
                raise reason
        return False

    async def is_valid(self, conn: PostgresConnection[Row]) -> bool:
        """Send the server an empty query, or ask for its role if one is required."""
        if self._role == "any":
            await _cleaning.run(conn, "")
            return True
        return self._role in await _role_of(conn)

    def is_failure(self, conn: PostgresConnection[Row], exc: BaseException) -> bool:
        """Tell whether an exception speaks against the server.

        It does if the server is shutting down, lacks resources, fails inside, or was lost. It
        does not if it has refused a statement. If writes are required, it does if the server
        has become read-only.
        """
        if isinstance(exc, BaseExceptionGroup):
            if exc.subgroup(trio.Cancelled) is not None:
                return False
            return any(self.is_failure(conn, leaf) for leaf in exc.exceptions)
        if isinstance(exc, psycopg.Error):
            for_writing = self._role in {"read-write", "primary"}
            return _verdicts.blames_server(exc, lost=conn.broken, for_writing=for_writing)
        return super().is_failure(conn, exc)

    # Cleaning.

    def should_recycle(self, conn: PostgresConnection[Row], exc: BaseException | None) -> bool:
        """Keep each connection that is still open: `on_recycle` can clean what is left."""
        if exc is None and conn.info.transaction_status == pq.TransactionStatus.INTRANS:
            self._warn_of_open_transaction()
        return not conn.closed

    def _warn_of_open_transaction(self) -> None:
        if not self._has_warned:
            self._has_warned = True
            log_safely(
                logger,
                logging.WARNING,
                "a claim has ended within a transaction, which is rolled back: commit it, or"
                " use autocommit=True and `async with connection.transaction()`"
                " (this is said once)",
            )

    def needs_recycle(self, conn: PostgresConnection[Row]) -> bool:
        """Return False if the claim has left nothing to be cleaned."""
        return bool(self._reset) or not _cleaning.is_clean(conn)

    async def on_recycle(self, conn: PostgresConnection[Row]) -> None:
        """Clean a connection for the next claim.

        A command that was cancelled is cancelled on the server, and its answer dropped. A
        transaction is rolled back. Settings of the connection object return to what they were.
        `reset` comes last.
        """
        await _cleaning.clean(conn)
        if isinstance(self._reset, str):
            await _cleaning.run(conn, self._reset)
        elif self._reset is not None:
            await _call_hook("reset", self._reset, conn)

    async def disconnect(self, conn: PostgresConnection[Row]) -> None:
        """Close the connection. A command that the server still runs is cancelled first."""
        try:
            if conn.lock.unsettled:
                await conn.settle()
            elif conn.info.transaction_status == pq.TransactionStatus.ACTIVE:
                await conn.cancel_safe()  # a task is using it, and gets the error
        except psycopg.Error:
            pass  # the server cannot be asked, and notices the end by itself
        finally:
            conn.lock.close()


async def _call_hook(name: str, hook: Hook, conn: PostgresConnection[Any]) -> None:
    await hook(conn)
    if not conn.lock.is_idle():
        raise psycopg.ProgrammingError(
            f"{name} has left the connection in a transaction: commit it"
        )


async def _role_of(conn: PostgresConnection[Any]) -> list[str]:
    """Return the roles that a server has at present, in libpq's terms."""
    (result,) = await _cleaning.run(conn, _ROLE)
    in_recovery, read_only = (result.get_value(0, column) == b"t" for column in (0, 1))
    writable = not (in_recovery or read_only)
    return ["standby" if in_recovery else "primary", "read-write" if writable else "read-only"]


def _checked_flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be a bool, not {value!r}")
    return value


def _checked_hook(name: str, value: Hook | None) -> Hook | None:
    if value is not None and not callable(value):
        raise TypeError(f"{name} must be an async function, not {value!r}")
    return value


def _checked_reset(reset: bool | str | Hook, threshold: int | None) -> str | Hook | None:
    if isinstance(reset, bool):
        return _cleaning.RESET_SESSION if reset else None
    if not isinstance(reset, str):
        return _checked_hook("reset", reset)
    if threshold is not None and _DROPS_STATEMENTS.search(reset):
        raise ValueError(
            "reset drops the prepared statements that psycopg relies on: use reset=True, or"
            " prepare_threshold=None"
        )
    return reset or None
