"""`RedisConnector`: Redis over a connector for streams."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

import trio
from hiredis import ProtocolError

from .. import (
    IneligibleBackendError,
    MisusedConnectionError,
    StaleConnectionError,
    _validation as _check,
)
from ..abc import Connector
from ..connectors import TcpConnector
from ..connectors._lateness import say_why_late
from ._connection import RedisConnection
from ._errors import SERVER_CODES, RedisError
from ._server import Directory

if TYPE_CHECKING:
    from .. import Backend
    from ._session import Command

S = TypeVar("S", bound=trio.abc.Stream)

#: The first word of the reply to ROLE.
_ROLES: Final = {b"master": "primary", b"slave": "replica"}


class RedisConnector(Connector[RedisConnection]):
    """Connects to Redis, authenticates, and cleans connections between claims.

    The connection has `RedisConnection.execute` and `RedisConnection.pipeline`. State that
    outlives a claim never reaches the next: after ``MULTI`` without ``EXEC``, ``WATCH``,
    ``SELECT``, ``CLIENT SETNAME`` and their like, the connection is reset (``RESET``, Redis
    6.2 or later), after a subscription it is closed. A claim that leaves nothing behind costs
    no exchange. The reply to a cancelled command is read and dropped in the pool's time.

    ``READONLY``, ``LOADING`` and ``MASTERDOWN`` concern the server: the pool leaves the
    backend. Its connections are closed, and new ones raise `IneligibleBackendError` for as long
    as the server is a replica, or is loading, or has no primary.

    Args:
      tcp: the connector for streams: `TcpConnector`, `UnixConnector` or `TlsConnector`, or
        another one whose connections are `trio.abc.Stream`.
      username: for ``AUTH``, together with `password`; by default Redis's ``default`` user.
      password: for ``AUTH``; by default no authentication.
      db: the number of the database.
      protocol: 2 or 3, the version of the protocol. 3 needs Redis 6.
      role: ``"primary"`` or ``"replica"``, to use only such servers; by default any. A pool
        over replicas should say so: otherwise a write that one of them refuses makes the pool
        leave it.

    Raises:
      TypeError, ValueError: naming the argument that is wrong.
    """

    def __init__(
        self,
        *,
        tcp: Connector[S] | None = None,
        username: str | None = None,
        password: str | None = None,
        db: int = 0,
        protocol: Literal[2, 3] = 2,
        role: Literal["primary", "replica"] | None = None,
    ) -> None:
        if tcp is not None:
            _check.instance("tcp", tcp, Connector)
        for name, value in (("username", username), ("password", password)):
            if value is not None and not isinstance(value, str):
                raise TypeError(f"{name} must be a str, not {type(value).__name__}")
        if username is not None and password is None:
            raise ValueError("username needs a password too")
        _check.count("db", db)
        if protocol not in {2, 3} or isinstance(protocol, bool):
            raise ValueError(f"protocol must be 2 or 3, not {protocol!r}")
        if role not in {None, "primary", "replica"}:
            raise ValueError(f'role must be "primary", "replica" or None, not {role!r}')
        self._tcp: Connector[Any] = TcpConnector() if tcp is None else tcp
        self._protocol = protocol
        self._role = role
        self._greeting = _greeting(username, password, db, protocol)
        # A pool over replicas expects that they refuse to write.
        tolerated = {"READONLY"} if role == "replica" else set()
        self._directory = Directory(SERVER_CODES - tolerated)

    async def connect(self, backend: Backend) -> RedisConnection:
        """Open a connection, authenticate, and select the database.

        Cancelled, or failing, it leaves nothing open.

        Raises:
          OSError: the stream cannot be opened.
          ConnectionError: the server hangs up, or does not speak this protocol.
          TimeoutError: the server does not answer; shortly before the time is up.
          RedisError: the server refuses, for example the password.
          IneligibleBackendError: the server does not have the wanted role, is loading its
            data, or is a replica without its primary.
        """
        server = self._directory.find(backend)
        role = self._role or ("primary" if server.is_read_only else None)
        stream = await self._tcp.connect(backend)
        try:
            conn = RedisConnection(stream, server, self._protocol)
            await self._greet(conn, backend, role)
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        if not conn.is_of_left_server:
            server.come_back()
        return conn

    async def _greet(self, conn: RedisConnection, backend: Backend, role: str | None) -> None:
        commands: list[Command] = [*self._greeting, ("PING",)]
        if role is not None:
            commands.append(("ROLE",))
        replies = await _greeted(conn, commands, backend.name)
        for reply in replies:
            if isinstance(reply, RedisError):
                if reply.code in self._directory.codes:
                    raise IneligibleBackendError(f"{backend.name} is not ready: {reply}") from reply
                raise reply
        pong = replies[len(self._greeting)]
        if not isinstance(pong, bytes):  # a server that repeats what it hears
            raise ConnectionError(
                f"{backend.name} is no Redis server: it answers PING with {pong!r}"
            )
        if role is not None and _role(replies[-1]) != role:
            raise IneligibleBackendError(f"{backend.name} is a {_role(replies[-1])}, not a {role}")

    async def is_valid(self, conn: RedisConnection) -> bool:
        """Send ``PING``, and ask for the role if one is wanted.

        A server that has another role now is left, with all its connections.
        """
        if self._role is None:
            return bool(await conn.execute("PING") == b"PONG")
        pong, reply = await conn.pipeline(("PING",), ("ROLE",))
        if _role(reply) != self._role:
            conn.leave_server(IneligibleBackendError(f"it is a {_role(reply)} now"))
            return False
        return bool(pong == b"PONG")

    async def on_recycle(self, conn: RedisConnection) -> None:
        """Drop the replies to cancelled commands, and reset what commands have altered."""
        if conn.needs_cleaning:
            await conn.clean(self._greeting)

    async def disconnect(self, conn: RedisConnection) -> None:
        """Close the stream."""
        await self._tcp.disconnect(conn.stream)

    def is_broken(self, conn: RedisConnection) -> bool:
        """Tell whether an idle connection is closed, or has something to be read.

        Nothing is read from a connection that comes back in the middle of an exchange.

        Raises:
          StaleConnectionError: the server was left since the connection was made, or has
            closed it.
          MisusedConnectionError: messages of the server were left unread.
        """
        if conn.is_of_left_server:
            raise StaleConnectionError(f"the server was left: {conn.trouble}")
        if conn.needs_cleaning:
            return False
        if conn.has_unread:
            raise MisusedConnectionError("the connection has unread messages")
        return self._tcp.is_broken(conn.stream)

    def should_recycle(self, conn: RedisConnection, exc: BaseException | None) -> bool:  # noqa: ARG002
        """Keep a connection that can be cleaned, whatever has ended the claim."""
        return conn.is_reusable

    def needs_recycle(self, conn: RedisConnection) -> bool:
        """Return true if a reply is owed, or a command has left something behind."""
        return conn.needs_cleaning

    def is_failure(self, conn: RedisConnection, exc: BaseException) -> bool:
        """Blame the server for errors that concern it, not for errors of commands."""
        if isinstance(exc, RedisError):
            return exc.code in self._directory.codes
        return super().is_failure(conn, exc)

    def fileno(self, conn: RedisConnection) -> int | None:
        """Return the descriptor of the stream, as its connector tells it."""
        return self._tcp.fileno(conn.stream)


def _greeting(
    username: str | None, password: str | None, db: int, protocol: int
) -> tuple[Command, ...]:
    """Return the commands with which a session begins."""
    commands: list[Command] = []
    if protocol == 3:
        auth = () if password is None else ("AUTH", username or "default", password)
        commands.append(("HELLO", 3, *auth))
    elif password is not None:
        commands.append(("AUTH", password) if username is None else ("AUTH", username, password))
    if db:
        commands.append(("SELECT", db))
    return tuple(commands)


async def _greeted(conn: RedisConnection, commands: list[Command], name: str) -> list[Any]:
    """Return the replies to the first commands; the errors name what is the likeliest mistake."""
    try:
        with say_why_late(
            f"{name} has accepted the connection, but does not answer: it hangs, is no Redis"
            " server, or expects TLS"
        ):
            return await conn.greet(commands)
    except ConnectionError as exc:
        if isinstance(exc.__cause__, ProtocolError):
            reason = f"{name} is no Redis server, or expects TLS: {exc.__cause__}"
            raise ConnectionError(reason) from exc.__cause__
        if conn.unanswered == len(commands):
            raise ConnectionError(
                f"{name} closed the connection before it answered: it was stopped, is no Redis"
                " server, or expects TLS"
            ) from exc
        raise


def _role(reply: object) -> str:
    """Return a server's role from its reply to ``ROLE``."""
    first: Any = reply[0] if isinstance(reply, list) and reply else reply
    return _ROLES.get(first) or repr(first)
