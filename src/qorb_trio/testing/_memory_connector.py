"""`MemoryConnector`: streams in memory, at whose other end a function of the test answers."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, TypeAlias, final

import trio
from trio.testing import MemoryReceiveStream, MemorySendStream, memory_stream_pair

from .._model.errors import MisusedConnectionError
from ..abc import Connector
from ..connectors._exceptions import is_cancellation, unwrap
from ..connectors._sockets import found_unread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .._model.backend import Backend

_Ends: TypeAlias = "trio.StapledStream[MemorySendStream, MemoryReceiveStream]"


@final
class MemoryStream(trio.abc.HalfCloseableStream):
    """One end of a connection in memory, made by a `MemoryConnector`.

    Sending never waits for the peer to receive.
    """

    def __init__(self, ends: _Ends, backend: Backend) -> None:
        self._ends = ends
        self._backend = backend
        self._peer = self
        self._sent = self._received = 0
        self._is_closed = self._has_sent_eof = False
        self._failure: BaseException | None = None

    @property
    def backend(self) -> Backend:
        """The backend to which the connection leads."""
        return self._backend

    @property
    def is_closed(self) -> bool:
        """True if this end has been closed."""
        return self._is_closed

    @property
    def unread(self) -> int:
        """Number of bytes that have arrived and were not received yet."""
        return self._peer._sent - self._received

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send data. A checkpoint.

        Raises:
          trio.BrokenResourceError: if the peer has closed its end. If the handler is that peer
            and has raised, its exception is the ``__cause__``.
          trio.ClosedResourceError: if this end is closed.
        """
        try:
            await self._ends.send_all(data)
        except trio.BrokenResourceError:
            self._raise_failure()
            raise
        self._sent += len(data)

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Receive at least one byte, or ``b""`` at the end. A checkpoint; raises as `send_all`."""
        data = await self._ends.receive_some(max_bytes)
        self._received += len(data)
        if not data:
            self._raise_failure()
        return data

    async def wait_send_all_might_not_block(self) -> None:
        """Return at once, because sending never blocks. A checkpoint."""
        await self._ends.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """Close the sending half: the peer receives the end of the stream. A checkpoint."""
        await self._ends.send_eof()
        self._has_sent_eof = True

    async def aclose(self) -> None:
        """Close this end. A checkpoint."""
        self._close()
        await trio.lowlevel.checkpoint()

    def _close(self) -> None:
        self._is_closed = True
        self._ends.send_stream.close()
        self._ends.receive_stream.close()

    def _raise_failure(self) -> None:
        """Raise if the peer is a handler that has failed."""
        failure = self._peer._failure
        if failure is not None:
            raise trio.BrokenResourceError(_of_handler(self._backend, failure)) from failure

    def _fault(self) -> OSError | None:
        """Return the reason why this end cannot be used again; `None` if it can."""
        if self._is_closed:
            return MisusedConnectionError("the connection was closed by this program")
        if self._has_sent_eof:
            return MisusedConnectionError("the connection was half closed by this program")
        has_ended = self._peer._is_closed or self._peer._has_sent_eof
        if has_ended or self.unread:
            return found_unread(self.unread, closed=has_ended)
        return None

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "open"
        return f"<MemoryStream to {self._backend.name}, {state}>"


class MemoryConnector(Connector[MemoryStream]):
    """A connector for tests: each connection leads to a call of `handler`, in memory.

    For testing a connector or a client of your own, with its protocol, under
    `trio.testing.MockClock`. The handler is the server: it gets the other end of each
    connection, which is closed when the handler returns. Use it in place of a `TcpConnector`:

    * as the connector of a pool, whose claimants then get a `MemoryStream`;
    * as the ``streams`` of a connector that composes one, such as `TcpConnector` and its
      subclasses, ``HttpConnector``, or your own.

    A handler that raises breaks its connection: the other end gets a
    `trio.BrokenResourceError` that names the exception and has it as its ``__cause__``, and
    so does the reason of `is_broken`. `failures` has them all, and `assert_all_closed` raises
    them. It is no failure that the handler sends to a client that has closed the connection.
    Handlers run as system tasks of Trio; those that are left are cancelled at the end.

    Args:
      handler: an async function of a `MemoryStream` and the `Backend`.

    Raises:
      TypeError: if `handler` is not a function.

    Attributes:
      connections: the streams of all connections, in the order in which they were made.
      failures: the exceptions that handlers have raised, in order.
    """

    def __init__(self, handler: Callable[[MemoryStream, Backend], Awaitable[object]]) -> None:
        if not callable(handler):
            raise TypeError(f"handler must be an async function, not {handler!r}")
        self._handler = handler
        self.connections: list[MemoryStream] = []
        self.failures: list[BaseException] = []
        self._complaints: list[str] = []

    @property
    def open(self) -> list[MemoryStream]:
        """The streams that have not been closed."""
        return [conn for conn in self.connections if not conn.is_closed]

    def assert_all_closed(self) -> None:
        """Check that every connection was closed, and that no handler has raised.

        Raises:
          AssertionError: saying which were not, and what was raised. The first exception of a
            handler is its ``__cause__``.
        """
        wrong = [*self._complaints, *(f"{conn!r} was not closed" for conn in self.open)]
        if wrong:
            raise AssertionError("; ".join(wrong)) from next(iter(self.failures), None)

    async def connect(self, backend: Backend) -> MemoryStream:
        """Return one end of a new connection, and start the handler with the other.

        A checkpoint. Cancelled, it makes no connection.
        """
        await trio.lowlevel.checkpoint()
        ours, theirs = (MemoryStream(ends, backend) for ends in memory_stream_pair())
        ours._peer, theirs._peer = theirs, ours
        self.connections.append(ours)
        trio.lowlevel.spawn_system_task(
            self._serve, theirs, backend, name=f"handler of {backend.name}"
        )
        return ours

    async def _serve(self, stream: MemoryStream, backend: Backend) -> None:
        """Run the handler; nothing that it raises may end the program as a bug of Trio's."""
        try:
            result: object = self._handler(stream, backend)
            if not inspect.isawaitable(result):
                raise TypeError(f"handler must be async; it returned {result!r}")
            await result
        except BaseException as exc:  # noqa: ASYNC103 - so that `pytest.fail` can be used in it
            if is_cancellation(exc) or isinstance(exc, KeyboardInterrupt | SystemExit):
                raise
            if not (stream._peer.is_closed and _is_broken_stream(exc)):
                self._note_failure(stream, exc)
        finally:
            stream._close()

    def _note_failure(self, stream: MemoryStream, exc: BaseException) -> None:
        stream._failure = exc
        self.failures.append(exc)
        self._complaints.append(_of_handler(stream.backend, exc))

    def is_broken(self, conn: MemoryStream) -> bool:
        """Return False if `conn` is idle and whole, and raise the reason if it is not.

        The reasons are those of `TcpConnector.is_broken`, and one for a handler that raised.
        """
        failure = conn._peer._failure
        if failure is not None and not conn.is_closed:
            raise ConnectionError(_of_handler(conn.backend, failure)) from failure
        fault = conn._fault()
        if fault is not None:
            raise fault
        return False


def _is_broken_stream(exc: BaseException) -> bool:
    return isinstance(exc, Exception) and isinstance(unwrap(exc), trio.BrokenResourceError)


def _of_handler(backend: Backend, failure: BaseException) -> str:
    return f"the handler of {backend.name} raised {failure!r}"
