"""`WebSocket`: messages, goodbyes, and peers that send too much."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from wsproto import ConnectionType, events
from wsproto.connection import Connection
from wsproto.utilities import RemoteProtocolError

from qorb_trio.qtop._rate_limit import RateLimit
from qorb_trio.qtop._websocket import MAX_FRAGMENTS, PeerExcessError, WebSocket


def a_pair(
    *, cut: bool = False, limit: RateLimit | None = None
) -> tuple[WebSocket, trio.abc.Stream, Connection]:
    """One end as a `WebSocket`, the other as its parts, after the handshake."""
    ours, theirs = trio.testing.memory_stream_pair()
    protocol = Connection(ConnectionType.SERVER)
    connection = Connection(ConnectionType.CLIENT)
    client = WebSocket(ours, connection, longest=100, patience=1, cut=cut, limit=limit)
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
    """A breach of the protocol is not taken for a goodbye."""
    socket, stream, _ = a_pair()
    await stream.send_all(said)
    with pytest.raises(RemoteProtocolError, match=r"."):
        await socket.receive()


async def test_h_other_tasks_run_between_any_two_frames() -> None:
    """There is a checkpoint for each frame, however many of them came in one piece."""
    socket, stream, protocol = a_pair()
    await stream.send_all(protocol.send(events.TextMessage(data="")) * 50)
    steps = 0

    async def step() -> None:
        nonlocal steps
        while True:
            await trio.lowlevel.checkpoint()
            steps += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(step)
        for number in range(50):
            assert await socket.receive() == ""
            assert steps >= number
        nursery.cancel_scope.cancel()


async def test_h_empty_fragments_are_counted() -> None:
    """A message of ever more empty fragments ends in an error, and keeps no memory."""
    socket, stream, protocol = a_pair()
    part = events.TextMessage(data="", message_finished=False)
    await stream.send_all(b"".join(protocol.send(part) for _ in range(MAX_FRAGMENTS + 1)))
    await stream.send_eof()  # type: ignore[attr-defined]
    with pytest.raises(PeerExcessError, match=f"more than {MAX_FRAGMENTS} fragments"):
        await socket.receive()
    assert not socket._parts


async def test_h_frames_are_limited(autojump_clock: trio.testing.MockClock) -> None:
    """More frames than the limit allows are an error, control frames too."""
    socket, stream, protocol = a_pair(limit=RateLimit(rate=1, burst=3))
    text, pong = (protocol.send(it) for it in (events.TextMessage(data="a"), events.Pong()))
    await stream.send_all(text * 3)
    for _ in range(3):
        assert await socket.receive() == "a"
    await trio.sleep(2)
    await stream.send_all(text + pong + text)
    assert await socket.receive() == "a"
    with pytest.raises(PeerExcessError, match="too many frames per second"):
        await socket.receive()


async def test_a_long_frame_counts_once() -> None:
    """A frame that arrives in pieces is one frame."""
    socket, stream, protocol = a_pair(limit=RateLimit(rate=1, burst=1))

    async def trickle() -> None:
        for byte in protocol.send(events.TextMessage(data="abcdefgh")):
            await stream.send_all(bytes([byte]))
            await trio.testing.wait_all_tasks_blocked()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trickle)
        assert await socket.receive() == "abcdefgh"


async def test_h_a_long_message_is_an_error_or_cut() -> None:
    """A message beyond the limit is an error, or is cut off, and then the next one comes."""
    for message in (
        events.TextMessage(data="x" * 99 + "\xe9" + "y" * 900_000),
        events.BytesMessage(data=("x" * 99 + "\xe9" + "y" * 900_000).encode()),
    ):
        plain, stream, protocol = a_pair()
        await stream.send_all(protocol.send(message))
        with pytest.raises(PeerExcessError, match="longer than 100"):
            await plain.receive()
        cutting, stream, protocol = a_pair(cut=True)
        await stream.send_all(protocol.send(message))
        await stream.send_all(protocol.send(events.TextMessage(data="next")))
        text = await cutting.receive()
        assert text is not None
        assert text.startswith("x" * 99)
        assert 99 <= len(text) <= 100
        assert await cutting.receive() == "next"
