"""`UnixConnector`: stream sockets in the file system."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from ..abc import Connector
from ._sockets import fault_of, shut_down

if TYPE_CHECKING:
    from .._model.backend import Backend


class UnixConnector(Connector[trio.SocketStream]):
    """A connector that yields a `trio.SocketStream` to a Unix socket, given by its path."""

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

    async def disconnect(self, conn: trio.SocketStream) -> None:
        """Close `conn`, for forked child processes that share it too."""
        shut_down(conn.socket)
        await conn.aclose()

    def is_broken(self, conn: trio.SocketStream) -> bool:
        """Return False if `conn` is idle and whole, and raise the reason if it is not.

        The reasons are those of `TcpConnector.is_broken`.
        """
        fault = fault_of(conn.socket)
        if fault is not None:
            raise fault
        return False

    def fileno(self, conn: trio.SocketStream) -> int:
        """Return the socket's descriptor."""
        return conn.socket.fileno()


UnixConnector.__module__ = "qorb_trio"  # where users import it from
