"""A Redis server in memory, whose replies the test writes, and a connector that leads to it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeAlias, cast

import hiredis
import trio
import trio.testing

from qorb_trio import Backend, Connector
from qorb_trio.redis import RedisConnection, RedisConnector

BACKEND = Backend(("redis.test", 6379))

#: Returns what the server sends in reply to a command: bytes of the protocol, or nothing.
Answer: TypeAlias = "Callable[[list[bytes]], bytes]"


class MemoryStreams(Connector[trio.abc.Stream]):
    """Streams in memory, each to a server that answers as the test says."""

    def __init__(self, nursery: trio.Nursery, answer: Answer) -> None:
        self.answer = answer
        self.commands: list[list[bytes]] = []
        self.opened = 0
        self.closed = 0
        self.descriptor: int | None = None
        self.peers: list[Any] = []
        self._nursery = nursery

    async def connect(self, backend: Backend) -> trio.abc.Stream:
        """Open a stream."""
        await trio.lowlevel.checkpoint()
        ours, theirs = trio.testing.memory_stream_pair()
        self.opened += 1
        self.peers.append(theirs)
        self._nursery.start_soon(self._serve, theirs)
        return ours

    async def disconnect(self, conn: trio.abc.Stream) -> None:
        """Close it."""
        self.closed += 1
        await conn.aclose()

    def fileno(self, conn: trio.abc.Stream) -> int | None:
        """Return the number that a test has chosen, if one has."""
        return self.descriptor

    async def _serve(self, stream: trio.abc.Stream) -> None:
        reader = hiredis.Reader()
        with suppress(trio.ClosedResourceError, trio.BrokenResourceError):  # closed by the test
            while data := await stream.receive_some(65536):
                reader.feed(bytes(data))
                while (command := reader.gets()) is not False:
                    self.commands.append(command)
                    await stream.send_all(self.answer(command))
            await stream.aclose()


def ok(command: list[bytes]) -> bytes:
    """Answer as a healthy primary would."""
    name = command[0].upper()
    if name == b"PING":
        return b"+PONG\r\n"
    if name == b"RESET":
        return b"+RESET\r\n"
    if name == b"ROLE":
        return b"*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n"
    if name == b"ECHO":
        return b"$%d\r\n%s\r\n" % (len(command[1]), command[1])
    return b"+OK\r\n"


async def connected(
    nursery: trio.Nursery, answer: Answer = ok, **options: Any
) -> tuple[RedisConnection, MemoryStreams]:
    """Return a connection to a server in memory, and the connector of its streams."""
    streams = MemoryStreams(nursery, answer)
    connector = RedisConnector(tcp=streams, **options)
    conn = await connector.connect(BACKEND)
    streams.commands.clear()
    return conn, streams


def is_dirty(conn: RedisConnection) -> bool:
    """Return true if a connection needs cleaning, or has something unread."""
    return conn.needs_cleaning or conn.has_unread


def words(streams: MemoryStreams) -> list[str]:
    """Return the commands that were received, as text."""
    return [b" ".join(command).decode() for command in streams.commands]


def as_any(thing: object) -> Any:
    """Return a thing whose private parts a test looks at, or a value of a wrong type."""
    return cast("Any", thing)
