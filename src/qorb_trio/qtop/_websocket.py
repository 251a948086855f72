"""`WebSocket`: whole text messages over a Trio stream; wsproto knows the protocol.

The peer may be hostile. For each frame that it sends, `receive` executes a checkpoint, so
that the program's other tasks run between any two frames. The memory that a peer can occupy
is bounded by the maximum length of a message and the maximum number of its fragments.
"""

from __future__ import annotations

from typing import Any, Final, final

import trio
import wsproto
from wsproto import events
from wsproto.connection import Connection, ConnectionState
from wsproto.utilities import RemoteProtocolError

from ._rate_limit import RateLimit

#: The maximum number of fragments (frames) of one message.
MAX_FRAGMENTS: Final = 1000
_CHUNK: Final = 65536


class PeerExcessError(Exception):
    """The peer has sent more than it may."""


@final
class WebSocket:
    """One end of an established connection.

    One task may `receive` while others `send`. A peer that does not read is given
    `patience` seconds for each message; `send` raises `trio.TooSlowError` then. So there
    is never more than one message under way, however slow the peer is.

    Args:
      stream: the transport.
      protocol: the state of the connection after the handshake.
      longest: the maximum length of a message from the peer, in characters or bytes.
      patience: the time limit for sending one message, in seconds.
      cut: True to drop the end of a longer message. By default such a message is an error.
      limit: the maximum rate of the peer's frames; by default there is none.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        protocol: wsproto.WSConnection | Connection,
        *,
        longest: int,
        patience: float,
        cut: bool = False,
        limit: RateLimit | None = None,
    ) -> None:
        self._stream: trio.abc.Stream = stream
        self._protocol: wsproto.WSConnection | Connection = protocol
        self._longest: int = longest
        self._patience: float = patience
        self._cut: bool = cut
        self._limit: RateLimit | None = limit
        self._sending: trio.Lock = trio.Lock()
        self._parts: list[str | bytes] = []
        self._length: int = 0
        self._fragments: int = 0

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
        """Return the next message, or `None` when the peer has closed the connection.

        Raises:
          PeerExcessError: the message is too long, or there are too many frames.
          wsproto.utilities.RemoteProtocolError: the peer does not speak WebSocket.
          trio.TooSlowError, trio.BrokenResourceError: as `send`.
        """
        while True:
            for event in self._protocol.events():
                # Tens of thousands of small frames fit into one chunk of data.
                await trio.lowlevel.checkpoint()
                self._count(event)
                if isinstance(event, events.Message):
                    if (text := self._add(event)) is not None:
                        return text
                elif await self._obey(event):
                    return None
            data = await self._stream.receive_some(_CHUNK)
            if not data:
                return None
            self._protocol.receive_data(bytes(data))

    async def close(self) -> None:
        """Send a close frame. The caller closes the stream."""
        if self._protocol.state is ConnectionState.OPEN:
            await self._reply(events.CloseConnection(code=1000))

    async def _obey(self, event: events.Event) -> bool:
        """Answer a control frame; return True if it ends the connection."""
        if isinstance(event, events.Ping):
            await self._reply(event.response())
        if not isinstance(event, events.CloseConnection):
            return False
        if self._protocol.state is ConnectionState.OPEN:
            # The peer has not closed the connection: wsproto could not parse its data.
            raise RemoteProtocolError(event.reason or "not a WebSocket")
        if self._protocol.state is ConnectionState.REMOTE_CLOSING:
            await self._reply(event.response())
        return True

    async def _reply(self, event: events.Event) -> None:
        with trio.fail_after(self._patience):
            async with self._sending:
                await self._stream.send_all(self._protocol.send(event))

    def _count(self, event: events.Event) -> None:
        """Count one frame. A long frame arrives as several events, and its last one counts."""
        if isinstance(event, events.Message) and not event.frame_finished:
            return
        if self._limit is not None and not self._limit.take(trio.current_time()):
            raise PeerExcessError("the peer sends too many frames per second")

    def _add(self, event: events.Message[Any]) -> str | None:
        """Add a part of a message; return the message if that was its last part."""
        self._fragments += event.frame_finished
        if self._fragments > MAX_FRAGMENTS:
            raise PeerExcessError(f"a message has more than {MAX_FRAGMENTS} fragments")
        data = event.data[: self._longest - self._length] if self._cut else event.data
        self._length += len(data)
        if self._length > self._longest:
            raise PeerExcessError(f"a message is longer than {self._longest}")
        if data:
            self._parts.append(data)
        if not event.message_finished:
            return None
        parts, self._parts, self._length, self._fragments = self._parts, [], 0, 0
        if isinstance(event.data, str):
            return "".join(part for part in parts if isinstance(part, str))
        text = b"".join(part for part in parts if isinstance(part, bytes | bytearray))
        return text.decode(errors="ignore" if self._cut else "strict")
