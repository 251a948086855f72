"""`WebSocket`: what the server's tests do not come to."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from wsproto import ConnectionType, events
from wsproto.connection import Connection
from wsproto.utilities import RemoteProtocolError

from qorb_trio.qtop._websocket import WebSocket


def a_pair() -> tuple[WebSocket, trio.abc.Stream, Connection]:
    """One end as a `WebSocket`, the other as its parts; hands have been shaken."""
    ours, theirs = trio.testing.memory_stream_pair()
    protocol = Connection(ConnectionType.SERVER)
    client = WebSocket(ours, Connection(ConnectionType.CLIENT), longest=100, patience=1)
    return client, theirs, protocol


async def test_messages_of_bytes_and_of_parts() -> None:
    """A message may come in parts, with something else between them, and as bytes."""
    socket, stream, protocol = a_pair()
    for event in (
        events.Pong(),
        events.TextMessage(data="ab", message_finished=False),
        events.Ping(),
        events.TextMessage(data="c"),
        events.BytesMessage(data="d\xe9".encode()),
    ):
        await stream.send_all(protocol.send(event))
    assert await socket.receive() == "abc"
    assert await socket.receive() == "d\xe9"


async def test_saying_goodbye() -> None:
    """After a goodbye nothing can be sent, and a second goodbye does nothing."""
    socket, stream, protocol = a_pair()
    await socket.close()
    await socket.close()
    with pytest.raises(trio.BrokenResourceError, match="being closed"):
        await socket.send("more")
    protocol.receive_data(bytes(await stream.receive_some()))
    (event,) = protocol.events()
    assert isinstance(event, events.CloseConnection)
    await stream.send_all(protocol.send(event.response()))
    assert await socket.receive() is None


@pytest.mark.parametrize("said", [b"\x83\x01a", b"\xc1\x01a", b"\x81\x02\xff\xfe", b"\x88\x01a"])
async def test_what_is_no_websocket(said: bytes) -> None:
    """What breaks the protocol is not taken for a goodbye."""
    socket, stream, _ = a_pair()
    await stream.send_all(said)
    with pytest.raises(RemoteProtocolError, match=r"."):
        await socket.receive()
