"""`ThreadConnector`: connections of a blocking driver, used from threads."""

from __future__ import annotations

import inspect
import logging
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, TypeVarTuple, Unpack, cast, final

import trio

from .._util import NoPublicConstructor, log_safely
from ..abc import Connector
from ._exceptions import is_cancellation

if TYPE_CHECKING:
    from .._model.backend import Backend

logger = logging.getLogger("qorb_trio.connector")

D = TypeVar("D")
R = TypeVar("R")
Ts = TypeVarTuple("Ts")

#: Maximum number of threads that open connections to one backend, abandoned ones included.
#: One more than the default `SetConfig.max_count` would have no effect.
_MAX_OPENING: Final = 16


@final
class _Cell(Generic[D]):
    """A driver's connection, and the threads that use it. The last to let go of it closes it.

    A call in a thread cannot be stopped. A task that gives up must therefore not close the
    connection under a thread that uses it, nor lose one that a thread has just opened. The
    lock decides who was last: the task that lets go, or the thread that ends its call.
    """

    def __init__(self, close: Callable[[D], object]) -> None:
        self._close = close
        self._lock = threading.Lock()
        self._connections: list[D] = []  # one while it is open, otherwise none
        self._users = 0
        self._is_let_go = False

    def open(self, open_: Callable[[Backend], D], backend: Backend) -> None:
        """Open the connection. In a thread."""
        self._enter()
        try:
            connection = open_(backend)
            if connection is None:
                raise TypeError("open must return a connection, not None")
            self._connections.append(connection)
        finally:
            self._leave()

    def call(self, function: Callable[..., R], *args: object) -> R:
        """Call a function with the connection. In a thread."""
        self._enter()
        try:
            return function(self.connection, *args)
        finally:
            self._leave()

    def close(self) -> None:
        """Let go, and close the connection unless another thread uses it. In a thread."""
        for connection in self._let_go():
            self._close(connection)

    def let_go(self) -> None:
        """Let go, from a task that cannot wait: a thread closes the connection."""
        if connections := self._let_go():
            trio.lowlevel.start_thread_soon(
                lambda: self._close_unasked(connections), lambda _: None
            )

    @property
    def connection(self) -> D:
        """The driver's connection.

        Raises:
          trio.ClosedResourceError: if it is closed.
        """
        try:
            return self._connections[0]
        except IndexError:
            raise trio.ClosedResourceError("this connection is closed") from None

    def _enter(self) -> None:
        with self._lock:
            if self._is_let_go:
                raise trio.ClosedResourceError("this connection is closed")
            self._users += 1

    def _leave(self) -> None:
        with self._lock:
            self._users -= 1
            connections = self._take()
        self._close_unasked(connections)

    def _let_go(self) -> list[D]:
        with self._lock:
            self._is_let_go = True
            return self._take()

    def _take(self) -> list[D]:
        """Return the connection for closing, if it is let go and unused; only once."""
        if self._users or not self._is_let_go:
            return []
        taken, self._connections = self._connections, []
        return taken

    def _close_unasked(self, connections: list[D]) -> None:
        """Close a connection that no task waits for."""
        for connection in connections:
            try:
                self._close(connection)
            except Exception as exc:  # noqa: BLE001 - it is logged
                text = "could not close an abandoned connection"
                log_safely(logger, logging.WARNING, text, exc_info=exc)


@final
class ThreadConnection(Generic[D], metaclass=NoPublicConstructor):
    """A connection of a blocking driver, made by a `ThreadConnector`."""

    def __init__(self, cell: _Cell[D]) -> None:
        self._cell = cell
        # The token is held by the thread, until its call has ended.
        self._turn = trio.CapacityLimiter(1)
        self._cancels = trio.CapacityLimiter(1)
        self._is_clean = True
        self._was_cancelled = False

    async def run(self, function: Callable[[D, Unpack[Ts]], R], /, *args: *Ts) -> R:
        """Return ``function(connection, *args)``, called in a thread with the driver's connection.

        One call at a time: further ones wait for their turn. A checkpoint. Cancelled, it
        returns at once, while the thread goes on with its call; the next call waits for that
        thread. End the claim in that case, so that the pool can cancel the call or close the
        connection.

        Raises:
          Exception: whatever the function raises.
          trio.ClosedResourceError: if the pool has closed the connection.
        """
        self._is_clean = False
        try:
            return await self._in_thread(cast("Callable[..., R]", function), *args)
        except trio.Cancelled:
            self._was_cancelled = True
            raise

    @property
    def driver_connection(self) -> D:
        """The driver's own connection. Do not block in its methods; that is for `run`.

        Raises:
          trio.ClosedResourceError: if the pool has closed the connection.
        """
        self._is_clean = False
        return self._cell.connection

    async def _in_thread(self, function: Callable[..., R], *args: object) -> R:
        return await trio.to_thread.run_sync(
            self._cell.call, function, *args, abandon_on_cancel=True, limiter=self._turn
        )

    def _is_busy(self) -> bool:
        """Return True while a thread uses the connection."""
        return self._turn.borrowed_tokens > 0

    async def _cancel_call(self, cancel: Callable[[D], object] | None) -> None:
        """Cancel the call that a thread is in, if there is one."""
        if cancel is not None and self._is_busy():
            await trio.to_thread.run_sync(
                self._cell.call, cancel, abandon_on_cancel=True, limiter=self._cancels
            )

    async def _clean(
        self, cancel: Callable[[D], object] | None, reset: Callable[[D], object]
    ) -> None:
        await self._cancel_call(cancel)
        await self._in_thread(reset)
        self._is_clean = True
        self._was_cancelled = False

    async def _close(self, cancel: Callable[[D], object] | None) -> None:
        try:
            await self._cancel_call(cancel)
            await trio.to_thread.run_sync(
                self._cell.close, abandon_on_cancel=True, limiter=self._turn
            )
        finally:
            self._cell.let_go()

    def __repr__(self) -> str:
        return f"<ThreadConnection, {'busy' if self._is_busy() else 'idle'}>"


class ThreadConnector(Connector[ThreadConnection[D]]):
    """A connector for any blocking driver, such as those of the DB-API (PEP 249).

    Yields a `ThreadConnection`, whose ``run`` calls a function in a thread, with the driver's
    connection as its first argument::

        def count(db, table):
            return db.execute(f"select count(*) from {table}").fetchone()[0]


        connector = ThreadConnector(
            lambda backend: sqlite3.connect("a.db", check_same_thread=False),
            cancel=sqlite3.Connection.interrupt,
        )
        async with open_pool(nursery, resolver, connector) as pool:
            async with pool.claim() as conn:
                total = await conn.run(count, "users")

    The threads are not those of Trio's default limiter, which a slow server could exhaust. A
    connection uses one thread at a time, so the pool's `Policy` bounds the threads. At most 16
    threads open connections to one backend at the same time.

    **Cleaning.** After a claim, `reset_connection` runs in a thread, if the claimant has used
    the connection. By default it is ``rollback()``: commit in your function what is to stay.

    **Cancellation.** A call that is cancelled returns at once, although its thread goes on.
    With `cancel`, the pool then cancels the call and keeps the connection. Without, it closes
    the connection as soon as the thread has ended. An exception of any other kind closes the
    connection; override ``should_recycle`` to keep it.

    Args:
      open: called with a `Backend` in a thread; it returns the driver's connection, and must
        allow threads other than its own to use it.
      cancel: called in a thread with the driver's connection, while another thread is in a
        call of it. It must end that call soon, and do no harm if the call has just ended. For
        example `sqlite3.Connection.interrupt`, or ``cancel`` of psycopg2 and pyodbc.

    Raises:
      TypeError: naming the argument that is wrong.
    """

    def __init__(
        self,
        open: Callable[[Backend], D],  # noqa: A002 - it does what the built-in function does
        *,
        cancel: Callable[[D], object] | None = None,
    ) -> None:
        _check_function("open", open)
        if cancel is not None:
            _check_function("cancel", cancel)
        self._open = open
        self._cancel = cancel
        # Each is kept alive by the threads that hold its tokens.
        self._opening: weakref.WeakValueDictionary[Backend, trio.CapacityLimiter] = (
            weakref.WeakValueDictionary()
        )

    def reset_connection(self, connection: D) -> None:
        """Clean the driver's connection after a claim; by default ``rollback()``, if it has one.

        Runs in a thread. Raising closes the connection. To be overridden.
        """
        _call_if_there(connection, "rollback")

    def close_connection(self, connection: D) -> None:
        """Close the driver's connection; by default ``close()``, if it has one.

        Runs in a thread, exactly once for each connection. To be overridden.
        """
        _call_if_there(connection, "close")

    async def connect(self, backend: Backend) -> ThreadConnection[D]:
        """Open a connection.

        Cancelled, it returns at once; if the thread opens a connection later, it closes it.

        Raises:
          Exception: whatever `open` raises.
        """
        cell = _Cell[D](self.close_connection)
        limiter = self._opening.setdefault(backend, trio.CapacityLimiter(_MAX_OPENING))
        try:
            await trio.to_thread.run_sync(
                cell.open, self._open, backend, abandon_on_cancel=True, limiter=limiter
            )
        except BaseException:
            cell.let_go()
            raise
        return ThreadConnection[Any]._create(cell)

    async def on_recycle(self, conn: ThreadConnection[D]) -> None:
        """Cancel the call that was left running, if any; then reset the connection."""
        await conn._clean(self._cancel, self.reset_connection)

    async def disconnect(self, conn: ThreadConnection[D]) -> None:
        """Close the connection; cancelled, leave that to the thread that still uses it."""
        await conn._close(self._cancel)

    def should_recycle(self, conn: ThreadConnection[D], exc: BaseException | None) -> bool:
        """Return True after a claim that ended well, or that was cancelled if there is `cancel`."""
        if conn._is_busy():
            return self._cancel is not None
        if exc is None:
            return True
        was_cancelled = conn._was_cancelled or is_cancellation(exc)
        return was_cancelled and self._cancel is not None

    def needs_recycle(self, conn: ThreadConnection[D]) -> bool:
        """Return True if the claimant has used the connection."""
        return not conn._is_clean


def _check_function(name: str, given: object) -> None:
    if not callable(given) or inspect.iscoroutinefunction(given):
        raise TypeError(f"{name} must be a function that blocks, not async, not {given!r}")


def _call_if_there(connection: object, name: str) -> None:
    method = getattr(connection, name, None)
    if method is not None:
        method()


# Where users import them from.
ThreadConnection.__module__ = "qorb_trio"
ThreadConnector.__module__ = "qorb_trio"
