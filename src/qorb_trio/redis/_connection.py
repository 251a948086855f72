"""`RedisConnection`: commands and replies over one stream.

The server answers in order, so one number tells how many replies it still owes. A cancelled
exchange leaves that number above zero; the replies are dropped before the connection serves
anyone else. A request that was cut in the middle of being sent cannot be completed: then the
connection is useless.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, cast, final

import hiredis
import trio

from ._errors import RedisError
from ._server import Server
from ._session import SUBSCRIPTIONS, Argument, Command, Session, may_block
from ._wire import receive, send

_NOTHING: Final = object()
#: Its annotations know only commands of one word.
_pack_command: Final = cast("Callable[[tuple[Argument, ...]], bytes]", hiredis.pack_command)
#: Errors by which a connection shows that it is lost.
_LOST: Final = (trio.BrokenResourceError, hiredis.HiredisError, EOFError)


@final
class RedisConnection:
    """A connection to one Redis server, made by `RedisConnector`.

    Serves one task at a time. Words of commands are `str` (sent as UTF-8), bytes or numbers.
    Replies are what hiredis makes of them: bytes, int, `None`, lists; with protocol 3 also
    float, bool and dict.

    Attributes:
      stream: the stream below, as the connector for streams made it.
      protocol: the version of the protocol, 2 or 3.
    """

    def __init__(self, stream: trio.abc.Stream, server: Server, protocol: int) -> None:
        self.stream: trio.abc.Stream = stream
        self._server = server
        self._generation = server.generation
        self.protocol: int = protocol
        self._reader = hiredis.Reader(replyError=RedisError, notEnoughData=_NOTHING)
        self._session = Session(protocol)
        self._messages: deque[Any] = deque()
        #: The number of replies that the server still owes.
        self.unanswered: int = 0
        self._busy = False
        #: The reason for which nothing more can be exchanged.
        self._useless: str | None = None

    @property
    def is_reusable(self) -> bool:
        """True if the connection can be made fit for another claim.

        Subscriptions, ``MONITOR``, a request that was sent in part, and a blocking command
        that was cancelled make it false.
        """
        return self._useless is None and not self._session.must_close

    @property
    def needs_cleaning(self) -> bool:
        """True if replies are still owed, or a command has left state on the connection."""
        return self.unanswered > 0 or self._session.needs_reset

    @property
    def is_of_left_server(self) -> bool:
        """True if the server was left since this connection was dialled."""
        return self._generation != self._server.generation

    @property
    def trouble(self) -> Exception | None:
        """The reason for which the server was left; `None` while it is in use."""
        return self._server.trouble

    @property
    def has_unread(self) -> bool:
        """True if something was received that nobody has asked for."""
        return bool(self._messages) or self._reader.has_data()

    def leave_server(self, trouble: Exception) -> None:
        """Have all connections to this server closed, because it cannot serve them."""
        self._server.leave(self._generation, trouble)

    async def execute(self, *command: Argument) -> Any:
        """Send one command and return its reply.

        Cancelled, it leaves a reply that is dropped before the next exchange. Whether the
        server has executed the command is then unknown.

        Subscriptions (``SUBSCRIBE`` and its relatives) return `None` as soon as they are sent:
        confirmations and messages come from `receive`. Such a connection is closed at the end
        of the claim.

        Raises:
          RedisError: the server's error; the connection is fine. Errors inside the reply to
            ``EXEC`` are elements of the list.
          ConnectionError: the connection is lost, or an earlier exchange was cut short in a
            way that makes it useless.
          ValueError: the command is empty, or one of those that break the rule of one reply
            for each command (``SYNC``, ``PSYNC``, ``CLIENT REPLY``).
          RuntimeError: the connection receives messages that look like replies.
          trio.BusyResourceError: another task uses the connection.
        """
        name = self._session.begin(command)
        if name is None:
            (reply,) = await self._exchange(_pack(command), 1)
        elif name in SUBSCRIPTIONS:
            await self._exchange(_pack(command), 0)
            await trio.lowlevel.cancel_shielded_checkpoint()  # there was no reply to wait for
            return None
        else:
            (reply,) = await self._exchange(_pack(command), 1, blocks=may_block(command))
            self._session.end(name, reply)
        if isinstance(reply, RedisError):
            raise self._noted(reply)
        return reply

    async def pipeline(self, *commands: Command, return_errors: bool = False) -> list[Any]:
        """Send several commands at once, and return their replies in order.

        A pipeline is no transaction: the server may run other clients' commands in between.
        Put ``("MULTI",)`` first and ``("EXEC",)`` last for that. Cancelled, it behaves as
        `execute` does.

        Args:
          commands: each a sequence of words, as `execute` takes them.
          return_errors: true to get each `RedisError` in the place of its reply. Otherwise
            the first one is raised, after all replies have been read.

        Raises:
          RedisError, ConnectionError, ValueError, RuntimeError, trio.BusyResourceError: as
            `execute` does. A subscription is a `ValueError`.
        """
        names = [self._begin_in_pipeline(command) for command in commands]
        data = b"".join([_pack(command) for command in commands])
        replies = await self._exchange(data, len(commands), blocks=any(map(may_block, commands)))
        errors = []
        for name, reply in zip(names, replies, strict=True):
            if name is not None:
                self._session.end(name, reply)
            if isinstance(reply, RedisError):
                errors.append(self._noted(reply))
        if errors and not return_errors:
            raise errors[0]
        return replies

    async def receive(self) -> Any:
        """Return the next message of a subscription, or of ``MONITOR``.

        A message is a list such as ``[b"message", b"channel", b"text"]``. With protocol 3 the
        notices of ``CLIENT TRACKING`` come this way too. Cancelled, it loses nothing.

        Raises:
          ConnectionError: the connection is lost.
          RuntimeError: nothing was subscribed on this connection.
          trio.BusyResourceError: another task uses the connection.
        """
        if self._messages:
            await trio.lowlevel.checkpoint()
            return self._messages.popleft()
        if not self._session.receives:
            raise RuntimeError("nothing is subscribed on this connection")
        self._occupy()
        try:
            await self._drop_replies(self.unanswered)
            # Messages that arrived between those replies come first.
            return self._messages.popleft() if self._messages else await self._read()
        except _LOST as exc:
            raise self._lose(exc) from exc
        finally:
            self._busy = False

    async def greet(self, commands: Sequence[Command]) -> list[Any]:
        """Send the commands with which a session begins, and return their replies.

        They leave nothing that would have to be cleaned. A `RedisError` has the place of its
        reply. Raises as `execute` does.
        """
        replies = await self.pipeline(*commands, return_errors=True)
        self._session = Session(self.protocol)
        return replies

    async def clean(self, greeting: Sequence[Command]) -> None:
        """Drop the replies that are owed, and reset the session if a command has altered it.

        Args:
          greeting: the commands that follow RESET, as at the beginning of the connection.

        Raises:
          RedisError: the server refuses one of the commands.
          ConnectionError: the connection is lost.
        """
        if not self._session.needs_reset:
            await self._exchange(b"", 0)
            return
        for reply in await self.greet([("RESET",), *greeting]):
            if isinstance(reply, RedisError):
                raise reply
        self._messages.clear()

    def _begin_in_pipeline(self, command: Command) -> str | None:
        name = self._session.begin(command)
        if name in SUBSCRIPTIONS:
            raise ValueError(f"{name} cannot be part of a pipeline: use execute")
        return name

    def _noted(self, error: RedisError) -> RedisError:
        self._server.look(self._generation, error)
        return error

    async def _exchange(self, data: bytes, count: int, *, blocks: bool = False) -> list[Any]:
        """Send commands and return their replies.

        Args:
          data: the commands.
          count: the number of replies to them.
          blocks: true if the server may delay a reply until something happens. Cancelled, such
            an exchange makes the connection useless, since its reply may never come.
        """
        self._occupy()
        try:
            # From here to the first byte that is sent there is no checkpoint, so that a
            # cancellation that came before costs nothing.
            await trio.lowlevel.checkpoint_if_cancelled()
            owed = self.unanswered
            self.unanswered += count
            self._useless = "a request was cut off while it was being sent"
            await send(self.stream, data)
            self._useless = "a blocking command was cut off" if blocks else None
            await self._drop_replies(owed)
            replies = [await self._reply() for _ in range(count)]
            self._useless = None
            return replies
        except _LOST as exc:
            raise self._lose(exc) from exc
        finally:
            self._busy = False

    def _occupy(self) -> None:
        """Keep other tasks out until `_busy` is unset."""
        if self._busy:
            raise trio.BusyResourceError("another task uses this connection")
        if self._useless is not None:
            raise ConnectionError(f"the connection cannot be used: {self._useless}")
        self._busy = True

    def _lose(self, exc: Exception) -> ConnectionError:
        """Make the connection useless, and return the error that says so."""
        self._useless = f"the connection was lost: {exc.__cause__ or exc}"
        return ConnectionError(self._useless)

    async def _drop_replies(self, count: int) -> None:
        for _ in range(count):
            await self._reply()

    async def _reply(self) -> Any:
        """Return the next item that is a reply, and put aside the messages before it."""
        while isinstance(item := await self._read(), hiredis.PushNotification):
            self._messages.append(item)
        self.unanswered -= 1
        return item

    async def _read(self) -> Any:
        """Return the next item that the server sends."""
        while (item := self._reader.gets()) is _NOTHING:
            data = await receive(self.stream)
            if not data:
                raise EOFError("the server has closed it")
            self._reader.feed(data)
        return item


def _pack(command: Command) -> bytes:
    return _pack_command(command if type(command) is tuple else tuple(command))
