"""`TcpConnector` and `UnixConnector`, on real sockets."""

from __future__ import annotations

import os
import resource
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from qorb_trio import Backend, Connector
from qorb_trio.connectors import TcpConnector, UnixConnector

from .kit import is_broken, no_socket_left, peers, tcp_listener, unix_listener, until_readable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.real


class Pair:
    """A connector with one connection, and the other end of that."""

    def __init__(
        self, connector: TcpConnector | UnixConnector, ours: trio.SocketStream, backend: Backend
    ) -> None:
        self.connector = connector
        self.backend = backend
        self.ours = ours
        self.theirs = ours

    @property
    def broken(self) -> bool:
        return is_broken(self.connector, self.ours)


@pytest.fixture(params=["tcp", "unix"])
async def pair(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Pair]:
    connector: TcpConnector | UnixConnector
    if request.param == "tcp":
        connector = TcpConnector()
        listener, backend = await tcp_listener()
    else:
        connector = UnixConnector()
        listener, backend = await unix_listener(tmp_path / "s")
    async with peers(listener) as accepted:
        pair = Pair(connector, await connector.connect(backend), backend)
        pair.theirs = await accepted.receive()
        async with pair.theirs, pair.ours:
            yield pair


async def test_a_connection_is_a_socket_stream(pair: Pair) -> None:
    """The stream that `connect` returns sends and receives."""
    assert isinstance(pair.ours, trio.SocketStream)
    await pair.ours.send_all(b"ping")
    assert await pair.theirs.receive_some() == b"ping"
    await pair.theirs.send_all(b"pong")
    assert await pair.ours.receive_some() == b"pong"


async def test_an_idle_connection_is_whole(pair: Pair) -> None:
    """Neither a fresh connection nor one after a complete exchange is broken."""
    assert not pair.broken
    await pair.ours.send_all(b"ping")
    await pair.theirs.send_all(b"pong")
    await pair.ours.receive_some()
    assert not pair.broken


async def test_a_peer_that_has_hung_up(pair: Pair) -> None:
    """The end of the stream is seen while the connection is idle."""
    await pair.theirs.aclose()
    await until_readable(pair.ours)
    assert pair.broken


async def test_a_peer_that_has_reset(pair: Pair) -> None:
    """A reset by the peer is noticed."""
    if pair.connector.__class__ is TcpConnector:
        linger = b"\1\0\0\0\0\0\0\0"
        pair.theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    await pair.theirs.aclose()
    await until_readable(pair.ours)
    assert pair.broken


async def test_stray_bytes(pair: Pair) -> None:
    """Bytes that nobody asked for, or that the claimant has left unread, are seen."""
    await pair.theirs.send_all(b"xx")
    await until_readable(pair.ours)
    assert pair.broken
    await pair.ours.receive_some(1)
    assert pair.broken
    await pair.ours.receive_some(1)
    assert not pair.broken


async def test_a_closed_connection_is_broken(pair: Pair) -> None:
    """A connection that the claimant closed is not lent again; closing it again is no error."""
    await pair.ours.aclose()
    assert pair.broken
    await pair.connector.disconnect(pair.ours)


async def test_disconnect_closes(pair: Pair) -> None:
    """The peer sees the end of the stream."""
    await pair.connector.disconnect(pair.ours)
    assert await pair.theirs.receive_some() == b""


async def test_descriptors_from_1024_up(pair: Pair) -> None:
    """A process with many descriptors can still look at its connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as stack:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for _ in range(1100):
            stack.callback(os.close, os.dup(pair.ours.socket.fileno()))
        high = await pair.connector.connect(pair.backend)
        async with high:
            assert high.socket.fileno() >= 1024
            assert not pair.connector.is_broken(high)


def test_only_is_broken_is_overridden() -> None:
    """The hooks that a pool can skip are left alone."""
    for kind in (TcpConnector, UnixConnector):
        for hook in ("is_valid", "on_acquire", "on_recycle", "should_recycle", "needs_recycle"):
            assert getattr(kind, hook) is getattr(Connector, hook)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_tcp_options(host: str) -> None:
    """No delay and keep-alive are on, for hosts that are addresses or names."""
    listener, backend = await tcp_listener()
    assert backend.port is not None
    async with peers(listener), await TcpConnector().connect(Backend((host, backend.port))) as conn:
        assert conn.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
        assert conn.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) != 0
        idle = getattr(socket, "TCP_KEEPIDLE", None)
        assert idle is None or conn.getsockopt(socket.IPPROTO_TCP, idle) == 60


async def test_tcp_over_ipv6() -> None:
    """An IPv6 address is connected to."""
    listeners = await trio.open_tcp_listeners(0, host="::1")
    address = listeners[0].socket.getsockname()[:2]
    async with peers(listeners[0]), await TcpConnector().connect(Backend(address)) as conn:
        assert conn.socket.family == socket.AF_INET6


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_refused_connection(host: str) -> None:
    """A closed port is an `OSError`, a telling one for an address; nothing stays open."""
    listener, backend = await tcp_listener()
    await listener.aclose()
    assert backend.port is not None
    expected = ConnectionRefusedError if host == "127.0.0.1" else OSError
    with no_socket_left(), pytest.raises(expected):
        await TcpConnector().connect(Backend((host, backend.port)))


async def test_options_that_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection whose options cannot be set is closed, and is a failure."""
    listener, backend = await tcp_listener()
    monkeypatch.setattr("qorb_trio.connectors._dial._KEEP_ALIVE", {-1: 1})
    async with listener:
        with no_socket_left(), pytest.raises(OSError, match="rotocol"):
            await TcpConnector().connect(backend)


@pytest.mark.parametrize("kind", ["tcp", "tcp by name", "unix"])
async def test_a_cancelled_connect_leaves_nothing(kind: str, tmp_path: Path) -> None:
    """Cancelled at any of its checkpoints, `connect` closes what it had opened."""
    connector: TcpConnector | UnixConnector = TcpConnector()
    if kind == "unix":
        connector = UnixConnector()
        listener, backend = await unix_listener(tmp_path / "s")
    else:
        listener, backend = await tcp_listener()
    if kind == "tcp by name":
        assert backend.port is not None
        backend = Backend(("localhost", backend.port))
    async with listener:
        with no_socket_left():
            with trio.CancelScope() as scope:
                scope.cancel()
                await connector.connect(backend)
            assert scope.cancelled_caught


async def test_a_connect_that_hangs_is_cancelled() -> None:
    """A dial without an answer is cancelled, and its socket closed."""
    with trio.socket.socket() as sock:
        await sock.bind(("127.0.0.1", 0))
        sock.listen(0)
        backend = Backend(sock.getsockname())
        # With the queue of a listener full that never accepts, Linux does not answer.
        waiting = [trio.socket.socket() for _ in range(3)]
        with ExitStack() as stack:
            for other in waiting:
                stack.enter_context(other)
                with trio.move_on_after(0.05):
                    await other.connect(sock.getsockname())
            with no_socket_left(), trio.move_on_after(0.05) as scope:
                await TcpConnector().connect(backend)
            assert scope.cancelled_caught


async def test_the_wrong_kind_of_address() -> None:
    """Each connector says what it connects to, and who can do the other."""
    with pytest.raises(ValueError, match=r"the path of a Unix socket, '/run/x': use UnixConn"):
        await TcpConnector().connect(Backend("/run/x", name="x"))
    with pytest.raises(ValueError, match=r"x has the address .*: use TcpConnector"):
        await UnixConnector().connect(Backend(("127.0.0.1", 1), name="x"))


@pytest.mark.parametrize("path", ["missing", "x" * 200])
async def test_a_unix_socket_that_is_not_there(path: str, tmp_path: Path) -> None:
    """A path without a server, or too long for one, is an `OSError`."""
    with no_socket_left(), pytest.raises(OSError, match=r"No such file|too long"):
        await UnixConnector().connect(Backend(tmp_path / path))
