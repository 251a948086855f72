"""State of servers that all connections to one backend share.

A server that says it is a replica says so on one connection, but it holds for all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final
from weakref import WeakValueDictionary

from ._errors import RedisError

if TYPE_CHECKING:
    from .. import Backend

#: Maximum number of left servers that are remembered, the latest ones. A backend that the
#: resolver no longer knows is not dialled again, and so is not forgotten otherwise.
_MAX_LEFT: Final = 1000


@final
class Server:
    """One server's state as its own errors tell it.

    `generation` counts the times that the server was left. A connection remembers the
    generation in which it was dialled, and is of no use in a later one.
    """

    __slots__ = ("__weakref__", "_backend", "_directory", "generation", "trouble")

    def __init__(self, backend: Backend, directory: Directory) -> None:
        self._backend = backend
        self._directory = directory
        self.generation: int = 0
        #: The reason for which the server was left; `None` while it is in use.
        self.trouble: Exception | None = None

    @property
    def is_read_only(self) -> bool:
        """True if the server was left because it refused to write."""
        return isinstance(self.trouble, RedisError) and self.trouble.code == "READONLY"

    def look(self, generation: int, reply: object) -> None:
        """Leave the server if a reply, on a connection of `generation`, tells to do so."""
        if isinstance(reply, RedisError) and reply.code in self._directory.codes:
            self.leave(generation, reply)

    def leave(self, generation: int, trouble: Exception) -> None:
        """Give up the connections of a generation, because the server cannot serve them.

        Errors that arrive late, on connections of an earlier generation, change nothing.
        """
        if generation == self.generation:
            self.generation += 1
            self.trouble = trouble.with_traceback(None)  # it may be kept for long
            self._directory.remember(self._backend, self)

    def come_back(self) -> None:
        """Take the server into use again."""
        self.trouble = None
        self._directory.forget(self._backend)


@final
class Directory:
    """The servers that one connector knows."""

    def __init__(self, codes: frozenset[str]) -> None:
        #: The codes of the errors after which a server is left.
        self.codes: frozenset[str] = codes
        self._servers: WeakValueDictionary[Backend, Server] = WeakValueDictionary()
        self._left: dict[Backend, Server] = {}

    def find(self, backend: Backend) -> Server:
        """Return the state of a backend's server."""
        server = self._servers.get(backend)
        if server is None:
            server = self._servers[backend] = Server(backend, self)
        return server

    def remember(self, backend: Backend, server: Server) -> None:
        """Keep the state of a server to which there may be no connection."""
        self._left[backend] = server
        while len(self._left) > _MAX_LEFT:
            del self._left[next(iter(self._left))]

    def forget(self, backend: Backend) -> None:
        """Keep the state only while there are connections."""
        self._left.pop(backend, None)
