"""Bytes to and from plain sockets."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator

import pytest
import trio

from qorb_trio.redis._wire import receive, send

pytestmark = pytest.mark.real

Pair = tuple[trio.SocketStream, trio.SocketStream]


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    """Open two ends of a TCP connection."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        ours = await trio.open_tcp_stream(*listener.socket.getsockname())
        theirs = await listener.accept()
        async with ours, theirs:
            yield ours, theirs


async def test_there_and_back(pair: Pair) -> None:
    """Bytes arrive, and so does the end."""
    ours, theirs = pair
    await send(ours, b"ping")
    await send(ours, b"")
    assert await receive(theirs) == b"ping"
    await theirs.send_eof()
    assert await receive(ours) == b""


async def test_more_than_a_socket_takes(pair: Pair) -> None:
    """Bytes that the socket does not take at once are sent as it makes room."""
    ours, theirs = pair
    received = bytearray()

    async def read() -> None:
        while len(received) < 9_000_000:
            received.extend(await receive(theirs))

    filled = 0
    try:
        while True:
            filled += os.write(ours.socket.fileno(), b"x" * 65536)
    except BlockingIOError:
        pass
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send, ours, b"y" * (9_000_000 - filled))
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(read)
    assert received == b"x" * filled + b"y" * (9_000_000 - filled)


async def test_a_reset_connection_is_broken(pair: Pair) -> None:
    """A peer that resets the connection breaks it for both directions."""
    ours, theirs = pair
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    theirs.socket.close()
    with pytest.raises(trio.BrokenResourceError, match="reset"):
        await receive(ours)
    with pytest.raises(trio.BrokenResourceError):
        await send(ours, b"x")


async def test_a_closed_stream(pair: Pair, nursery: trio.Nursery) -> None:
    """A stream that is closed, before or meanwhile, says so."""
    ours, _ = pair

    async def close() -> None:
        await trio.testing.wait_all_tasks_blocked()
        ours.socket.close()

    nursery.start_soon(close)
    with pytest.raises(trio.ClosedResourceError):
        await receive(ours)
    with pytest.raises(trio.ClosedResourceError):
        await receive(ours)
    with pytest.raises(trio.ClosedResourceError):
        await send(ours, b"x")


async def test_a_wake_up_for_nothing(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket that is not readable after all is waited for again."""
    ours, theirs = pair
    calls = 0
    wait = trio.lowlevel.wait_readable

    async def wake_early(fd: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            await trio.lowlevel.checkpoint()
            return
        await theirs.send_all(b"late")
        await wait(fd)

    monkeypatch.setattr(trio.lowlevel, "wait_readable", wake_early)
    assert await receive(ours) == b"late"
    assert calls == 2
