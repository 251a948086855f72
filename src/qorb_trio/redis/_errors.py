"""`RedisError`: a server's error in reply to a command."""

from __future__ import annotations

from typing import Final

from .. import QorbError

#: Errors by which a server says that it cannot serve this client at present: it is a replica,
#: it reads its data from disk, or it is a replica that has lost its primary.
SERVER_CODES: Final = frozenset({"READONLY", "LOADING", "MASTERDOWN"})


class RedisError(QorbError):
    """An error that the server sent in reply to a command.

    The exchange is complete, and the connection can be used again.
    """

    @property
    def code(self) -> str:
        """The first word of the error: ``"WRONGTYPE"``, ``"NOAUTH"``, ``"ERR"``, ..."""
        return str(self).partition(" ")[0]
