"""`WebSocket`: whole text messages over a Trio stream; wsproto knows the protocol."""

from __future__ import annotations

from typing import Any, Final, final

import trio
import wsproto
from wsproto import events
from wsproto.connection import Connection, ConnectionState
from wsproto.utilities import RemoteProtocolError

_CHUNK: Final = 65536


class MessageTooLongError(Exception):
    """The peer has sent more than was to be expected of it."""


@final
class WebSocket:
    """One end of an established connection.

    One task may `receive` while others `send`. A peer that does not read is given
    `patience` seconds for each message; `send` raises `trio.TooSlowError` then. So there
    is never more than one message under way, however slow the peer is.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        protocol: wsproto.WSConnection | Connection,
        *,
        longest: int,
        patience: float,
    ) -> None:
        self._stream: trio.abc.Stream = stream
        self._protocol: wsproto.WSConnection | Connection = protocol
        self._longest: int = longest
        self._patience: float = patience
        self._sending: trio.Lock = trio.Lock()
        self._parts: list[str | bytes] = []
        self._length: int = 0

    async def send(self, text: str) -> None:
        """Send a message.

        Raises:
          trio.TooSlowError: the peer does not read.
          trio.BrokenResourceError: the connection is lost, or is being closed.
        """
        with trio.fail_after(self._patience):
            async with self._sending:
                if self._protocol.state is not ConnectionState.OPEN:
                    raise trio.BrokenResourceError("the WebSocket is being closed")
                await self._stream.send_all(self._protocol.send(events.TextMessage(data=text)))

    async def receive(self) -> str | None:
        """The next message, or `None` when the peer has closed the connection.

        Raises:
          MessageTooLongError: it is longer than it may be.
          wsproto.utilities.RemoteProtocolError: this is no WebSocket.
          trio.TooSlowError, trio.BrokenResourceError: as `send`.
        """
        while True:
            for event in self._protocol.events():
                if isinstance(event, events.Message):
                    if (text := self._add(event)) is not None:
                        return text
                elif isinstance(event, events.Ping):
                    await self._reply(event.response())
                elif isinstance(event, events.CloseConnection):
                    if self._protocol.state is ConnectionState.OPEN:
                        # Not the peer has said so, but wsproto, of what it cannot make out.
                        raise RemoteProtocolError(event.reason or "not a WebSocket")
                    if self._protocol.state is ConnectionState.REMOTE_CLOSING:
                        await self._reply(event.response())
                    return None
            data = await self._stream.receive_some(_CHUNK)
            if not data:
                return None
            self._protocol.receive_data(bytes(data))

    async def close(self) -> None:
        """Say goodbye. The stream is the caller's to close."""
        if self._protocol.state is ConnectionState.OPEN:
            await self._reply(events.CloseConnection(code=1000))

    async def _reply(self, event: events.Event) -> None:
        with trio.fail_after(self._patience):
            async with self._sending:
                await self._stream.send_all(self._protocol.send(event))

    def _add(self, event: events.Message[Any]) -> str | None:
        """Take a part of a message; the message, if that was its last part."""
        self._parts.append(event.data)
        self._length += len(event.data)
        if self._length > self._longest:
            raise MessageTooLongError(f"a message is longer than {self._longest}")
        if not event.message_finished:
            return None
        parts, self._parts, self._length = self._parts, [], 0
        if isinstance(parts[0], str):
            return "".join(part for part in parts if isinstance(part, str))
        return b"".join(part for part in parts if isinstance(part, bytes | bytearray)).decode()
