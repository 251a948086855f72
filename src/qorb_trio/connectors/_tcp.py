"""`TcpConnector`: plain TCP."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from ..abc import Connector
from ._sockets import is_readable, open_tcp

if TYPE_CHECKING:
    from .._model.backend import Backend


class TcpConnector(Connector[trio.SocketStream]):
    """Connects by TCP to a backend's ``(host, port)``, and yields a `trio.SocketStream`.

    ``TCP_NODELAY`` and keep-alive are on. A connector for a protocol can be a subclass
    that says hello in `connect`, and overrides ``is_valid`` or ``on_recycle`` with an
    exchange of its own::

        class EchoConnector(TcpConnector):
            async def is_valid(self, conn):
                await conn.send_all(b"ping")
                return await conn.receive_some(4) == b"ping"
    """

    async def connect(self, backend: Backend) -> trio.SocketStream:
        """Open a connection.

        A host that is a name is looked up, and its addresses are tried as by
        `trio.open_tcp_stream`. Cancelled, or failing, it leaves nothing open.

        Raises:
          OSError: if that fails.
          ValueError: if the backend's address is the path of a Unix socket.
        """
        return await open_tcp(backend, type(self).__name__)

    def is_broken(self, conn: trio.SocketStream) -> bool:
        """Whether `conn`, which should be idle, is closed or has something to be read.

        Either the peer has hung up, or it has sent bytes that belong to no request of
        the next claimant.
        """
        return is_readable(conn.socket)
