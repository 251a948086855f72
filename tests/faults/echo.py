"""A small protocol over TCP, and a connector for it such as a user would write.

A request is a number and its checksum, and the reply is a copy of it. Each number is used once
in the life of a program. So a client can tell the reply to another request from a reply that
was damaged on its way.
"""

from __future__ import annotations

import itertools
import struct
import zlib
from typing import Final

import attrs
import trio

import qorb_trio

_NUMBER: Final = struct.Struct(">Q")
_CHECKSUM: Final = struct.Struct(">I")
FRAME: Final = _NUMBER.size + _CHECKSUM.size

_numbers = itertools.count(1)


class DamagedError(ConnectionError):
    """The reply is not what anybody has sent."""


class WrongReplyError(Exception):
    """The reply to another request: what must never happen."""


def frame(number: int) -> bytes:
    """The bytes of a request, and of its reply."""
    data = _NUMBER.pack(number)
    return data + _CHECKSUM.pack(zlib.crc32(data))


def number_of(data: bytes) -> int:
    """The number in a frame.

    Raises:
      DamagedError: if it is not whole.
    """
    number, checksum = data[: _NUMBER.size], data[_NUMBER.size :]
    if checksum != _CHECKSUM.pack(zlib.crc32(number)):
        raise DamagedError(f"no number has the bytes {data.hex()}")
    return int(_NUMBER.unpack(number)[0])


@attrs.define(eq=False)
class Echo:
    """A connection to an echo server."""

    stream: trio.SocketStream
    backend: qorb_trio.Backend
    wrong: list[str] = attrs.field(factory=list)
    """The replies to other requests that it was given."""

    async def ask(self) -> None:
        """Send a number that was never sent before, and wait for the reply.

        Raises:
          ConnectionError, trio.BrokenResourceError: if the reply is not complete.
          WrongReplyError: if it is the reply to another request.
        """
        number = next(_numbers)
        await self.stream.send_all(frame(number))
        reply = await self.stream.receive_some(FRAME)
        while 0 < len(reply) < FRAME:
            rest = await self.stream.receive_some(FRAME - len(reply))
            reply = reply + rest if rest else rest
        if not reply:
            raise ConnectionError("the server hung up")
        if number_of(reply) != number:
            self.wrong.append(f"{number_of(reply)} instead of {number} from {self.backend.name}")
            raise WrongReplyError(self.wrong[-1])


class EchoConnector(qorb_trio.Connector[Echo]):
    """Connects to echo servers, and checks them with an exchange."""

    tcp = qorb_trio.TcpConnector()

    def __init__(self, *, greets: bool = True) -> None:
        #: False if a server that accepts counts as connected, though it never says a word.
        self._greets = greets

    async def connect(self, backend: qorb_trio.Backend) -> Echo:
        """Connect, and see whether somebody is there."""
        conn = Echo(await self.tcp.connect(backend), backend)
        if not self._greets:
            return conn
        try:
            await conn.ask()
        except BaseException:  # a cancellation too: no other code has this stream yet
            await trio.aclose_forcefully(conn.stream)
            raise
        return conn

    async def is_valid(self, conn: Echo) -> bool:
        """Ask once more."""
        await conn.ask()
        return True

    async def on_recycle(self, conn: Echo) -> None:
        """An exchange that is complete leaves nothing to be cleaned."""

    async def disconnect(self, conn: Echo) -> None:
        """Close it."""
        await conn.stream.aclose()

    def fileno(self, conn: Echo) -> int | None:
        """Return the socket, so that the pool notices when the server closes it."""
        return self.tcp.fileno(conn.stream)

    def is_broken(self, conn: Echo) -> bool:
        """Return True if the stream is closed, or has unsolicited bytes to read."""
        return self.tcp.is_broken(conn.stream)
