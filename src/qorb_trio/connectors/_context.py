"""`ContextConnector`: connections of clients that are asynchronous context managers."""

from __future__ import annotations

import inspect
import logging
from typing import TYPE_CHECKING, Final, Generic, NoReturn, Self, TypeVar, final

import trio

from .._model.errors import MisusedConnectionError, StaleConnectionError
from .._util import log_safely, printable
from ..abc import Connector
from ._exceptions import unwrap

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

    from .._model.backend import Backend

logger = logging.getLogger("qorb_trio.connector")

C = TypeVar("C")

#: Seconds for context managers that nobody waits for to end in order; the default of
#: `SetConfig.disconnect_timeout`.
_GRACE: Final = 1.0


@final
class _Visit(Generic[C]):
    """One context manager, entered and left by one task: its state, seen from other tasks."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.connections: list[C] = []  # one, as soon as the manager is entered
        self.was_left_early = False
        #: The manager is entered, or could not be.
        self.settled = trio.Event()
        self.ended = trio.Event()
        self._leaving = trio.Event()
        self._error: Exception | None = None
        self._is_reported = False
        # The enclosing scope ends while the pool still closes its connections in order.
        self._scope = trio.CancelScope(shield=True)

    async def run(self, open_: Callable[[Backend], AbstractAsyncContextManager[C]]) -> None:
        """Enter the manager, wait until it is time to leave, and leave it. A task of its own."""
        try:
            with self._scope:
                async with open_(self.backend) as connection:
                    self.connections.append(connection)
                    self.settled.set()
                    await self._leaving.wait()
        except Exception as exc:  # noqa: BLE001 - it is told to the tasks that ask
            self._error = unwrap(exc)
            if self._scope.cancel_called:
                self.log_unreported()
        finally:
            self.settled.set()
            self.ended.set()

    async def leave(self) -> None:
        """Leave the manager and wait for its end; cancelled, let it end by a cancellation."""
        self._leaving.set()
        try:
            await self.ended.wait()
        except BaseException:
            self._scope.cancel()
            raise

    def cancel(self) -> None:
        """End the manager by a cancellation, whatever it does."""
        self._scope.cancel()

    async def abandon(self) -> None:
        """End the manager by a cancellation, and wait a while for its clean-up."""
        self._scope.cancel()
        with trio.move_on_after(_GRACE, shield=True):
            await self.ended.wait()

    def raise_reason(self) -> NoReturn:
        """Raise the reason why the manager has ended."""
        self.raise_unreported()
        if self.was_left_early:
            raise MisusedConnectionError("the ContextConnector was left before the pool")
        raise self._error or StaleConnectionError("the connection's context manager has ended")

    def raise_unreported(self) -> None:
        """Raise the exception that ended the manager, unless it has been reported."""
        if self._error is not None and not self._is_reported:
            self._is_reported = True
            raise self._error

    def log_unreported(self) -> None:
        """Log the exception that ended the manager, unless it has been reported."""
        if self._error is not None and not self._is_reported:
            self._is_reported = True
            log_safely(
                logger,
                logging.WARNING,
                "the context manager of a connection to %s failed",
                printable(self.backend.name),
                exc_info=self._error,
            )


class ContextConnector(Connector[C]):
    """A connector for any client that is used as ``async with open(backend) as conn``.

    For clients that need a nursery of their own, such as those of WebSockets. One task per
    connection enters and leaves the context manager, so that nurseries and cancel scopes inside
    it nest properly. The connector holds these tasks. It is an asynchronous context manager
    itself, and encloses the pool::

        def open_socket(backend):
            return trio_websocket.open_websocket(backend.host, backend.port, "/", use_ssl=False)


        async with (
            ContextConnector(open_socket) as connector,
            open_pool(nursery, resolver, connector) as pool,
        ):
            async with pool.claim() as socket:
                await socket.send_message("hello")

    If the context manager ends while the connection is idle, the connection is broken. The
    exception that ended it is the reason; without one, it is a `StaleConnectionError`.

    Leaving the connector leaves the context managers that are still open, the last one first.
    It gives them one second altogether, then it cancels them. With a pool inside, that is
    done already.

    Args:
      open: called with a `Backend`; it returns an asynchronous context manager that yields the
        connection.

    Raises:
      TypeError: if `open` is not a function, or is a coroutine function.
    """

    def __init__(self, open: Callable[[Backend], AbstractAsyncContextManager[C]]) -> None:  # noqa: A002
        if not callable(open):
            raise TypeError(f"open must be a function that takes a Backend, not {open!r}")
        if inspect.iscoroutinefunction(open):
            raise TypeError(
                "open must return an async context manager, and must not be async itself:"
                f" decorate it with contextlib.asynccontextmanager, or make it a def: {open!r}"
            )
        self._open = open
        self._nursery_manager: AbstractAsyncContextManager[trio.Nursery]
        self._nursery: trio.Nursery | None = None
        self._visits: dict[_Visit[C], None] = {}  # those that have not ended, oldest first
        self._by_connection: dict[int, _Visit[C]] = {}

    async def __aenter__(self) -> Self:
        """Get ready to hold connections.

        Raises:
          RuntimeError: if it is entered already.
        """
        if self._nursery is not None:
            raise RuntimeError(f"this {type(self).__name__} is entered already")
        self._nursery_manager = trio.open_nursery()
        self._nursery = await self._nursery_manager.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave the context managers that are still open, the last one first."""
        self._nursery = None
        with trio.move_on_after(_GRACE, shield=True):
            for visit in reversed(list(self._visits)):
                visit.was_left_early = True
                await visit.leave()
        for visit in self._visits:
            visit.cancel()
        # A nursery wraps the block's exception in a group. It gets only a cancellation, which
        # may be its own.
        passed = (None, None, None) if isinstance(exc, Exception) else (kind, exc, traceback)
        await self._nursery_manager.__aexit__(*passed)  # noqa: ASYNC102 - the tasks end now

    async def connect(self, backend: Backend) -> C:
        """Enter the context manager of a connection.

        Cancelled, it cancels the entering, and waits up to a second for its clean-up.

        Raises:
          RuntimeError: if the connector is not entered.
          Exception: whatever the context manager raises. A group of one is unwrapped.
        """
        if self._nursery is None:
            raise RuntimeError(
                f"the {type(self).__name__} is not entered: write 'async with"
                f" {type(self).__name__}(open) as connector, open_pool(nursery, resolver,"
                " connector) as pool'"
            )
        visit = _Visit[C](backend)
        self._visits[visit] = None
        self._nursery.start_soon(self._hold, visit, name=f"connection to {backend.name}")
        try:
            await visit.settled.wait()
            return self._adopt(visit)
        except BaseException:
            await visit.abandon()  # noqa: ASYNC102 - it is shielded, and has a deadline
            raise

    async def _hold(self, visit: _Visit[C]) -> None:
        try:
            await visit.run(self._open)
        finally:
            del self._visits[visit]

    def _adopt(self, visit: _Visit[C]) -> C:
        """Return the connection of a manager that was entered, or raise."""
        if visit.ended.is_set():
            visit.raise_reason()
        [connection] = visit.connections
        if connection is None:
            raise TypeError("the context manager must yield a connection, not None")
        if id(connection) in self._by_connection:
            raise RuntimeError(f"the context manager yielded {connection!r}, which is in use")
        self._by_connection[id(connection)] = visit
        return connection

    async def disconnect(self, conn: C) -> None:
        """Leave the context manager; cancelled, cancel it and return at once.

        Raises:
          Exception: whatever the context manager raises as it is left.
          ValueError: if `conn` was not made by this connector, or is closed.
        """
        visit = self._visit_of(conn)
        del self._by_connection[id(conn)]
        if visit.ended.is_set():
            visit.log_unreported()
        await visit.leave()
        visit.raise_unreported()

    def is_broken(self, conn: C) -> bool:
        """Return False if the context manager has not ended.

        Raises:
          Exception: the exception that ended it.
          StaleConnectionError: if it ended without one.
          MisusedConnectionError: if the connector was left.
          ValueError: if `conn` was not made by this connector, or is closed.
        """
        visit = self._visit_of(conn)
        if visit.ended.is_set():
            visit.raise_reason()
        return False

    def _visit_of(self, conn: C) -> _Visit[C]:
        visit = self._by_connection.get(id(conn))
        if visit is None:
            raise ValueError(f"{conn!r} is no open connection of this connector")
        return visit


ContextConnector.__module__ = "qorb_trio"  # where users import it from
