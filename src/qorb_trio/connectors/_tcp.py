"""`TcpConnector`: plain TCP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import trio

from .. import _validation as _check
from ..abc import Connector
from ._dial import open_tcp
from ._sockets import fault_of, shut_down

if TYPE_CHECKING:
    from .._model.backend import Backend


class TcpConnector(Connector[trio.SocketStream]):
    """A connector that yields a `trio.SocketStream` to a backend's ``(host, port)``.

    ``TCP_NODELAY`` and keep-alive are on. A connector for a protocol can be a subclass
    that says hello in `connect`, and overrides ``is_valid`` or ``on_recycle`` with an
    exchange of its own::

        class EchoConnector(TcpConnector):
            async def is_valid(self, conn):
                await conn.send_all(b"ping")
                return await conn.receive_some(4) == b"ping"

    Args:
      streams: a connector to use in place of TCP. For tests, in which a
        `qorb_trio.testing.MemoryConnector` stands in for the network. It makes, watches and
        closes the connections, so that these are of its kind.

    Raises:
      TypeError: if `streams` is not a `Connector`.
    """

    # Also for subclasses whose own __init__ does not call this one.
    _streams: Connector[Any] | None = None

    def __init__(self, *, streams: Connector[Any] | None = None) -> None:
        if streams is not None:
            _check.instance("streams", streams, Connector)
            self._streams = streams

    async def connect(self, backend: Backend) -> trio.SocketStream:
        """Open a connection.

        A host name is looked up in a thread of the package's own. Its addresses are tried as
        RFC 8305 says: both families in turn, the next address 0.25 s after the one before.
        Cancelled, or failing, it leaves nothing open.

        Raises:
          OSError: if that fails. A socket that connected to itself counts as refused.
          ValueError: if the backend's address is the path of a Unix socket.
        """
        if self._streams is not None:
            return cast("trio.SocketStream", await self._streams.connect(backend))
        return await open_tcp(backend, type(self).__name__)

    async def disconnect(self, conn: trio.SocketStream) -> None:
        """Close `conn`, for forked child processes that share it too."""
        if self._streams is not None:
            await self._streams.disconnect(conn)
            return
        shut_down(conn.socket)
        await conn.aclose()

    def is_broken(self, conn: trio.SocketStream) -> bool:
        """Return False if `conn` is idle and whole, and raise the reason if it is not.

        Takes about 1 µs.

        Raises:
          StaleConnectionError: if the peer has closed or reset it.
          MisusedConnectionError: if this program has closed it, half closed it
            (`trio.SocketStream.send_eof`), or left bytes unread.
          OSError: the system's error, for example after unanswered keep-alive probes.
        """
        if self._streams is not None:
            return self._streams.is_broken(conn)
        fault = fault_of(conn.socket)
        if fault is not None:
            raise fault
        return False

    def fileno(self, conn: trio.SocketStream) -> int | None:
        """Return the socket's descriptor."""
        if self._streams is not None:
            return self._streams.fileno(conn)
        return conn.socket.fileno()


TcpConnector.__module__ = "qorb_trio"  # where users import it from
