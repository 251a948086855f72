"""`UnixConnector`: stream sockets in the file system."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from ..abc import Connector
from ._sockets import is_readable

if TYPE_CHECKING:
    from .._model.backend import Backend


class UnixConnector(Connector[trio.SocketStream]):
    """Connects to a Unix socket by its path, and yields a `trio.SocketStream`."""

    async def connect(self, backend: Backend) -> trio.SocketStream:
        """Open a connection.

        Cancelled, or failing, it leaves nothing open.

        Raises:
          OSError: if that fails.
          ValueError: if the backend's address is a ``(host, port)`` pair.
        """
        if not isinstance(backend.address, str):
            raise ValueError(  # noqa: TRY004 - the type is right, its value is not for us
                f"{type(self).__name__} connects to the path of a Unix socket, and"
                f" {backend.name} has the address {backend.address!r}: use TcpConnector"
            )
        return await trio.open_unix_socket(backend.address)

    def is_broken(self, conn: trio.SocketStream) -> bool:
        """Whether `conn`, which should be idle, is closed or has something to be read."""
        return is_readable(conn.socket)
