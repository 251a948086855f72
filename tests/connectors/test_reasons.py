"""field-faults A: a connector says why a connection is broken, and which kind of fault it is."""

from __future__ import annotations

import errno
import os
import resource
import socket
from typing import TYPE_CHECKING, Any

import pytest
import trio

from qorb_trio import (
    Connector,
    MisusedConnectionError,
    QorbError,
    StaleConnectionError,
    TcpConnector,
    UnixConnector,
)
from qorb_trio.connectors import _sockets

from .kit import fault_of, peers, tcp_listener, unix_listener, until_readable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.real

#: Closing a socket with this option resets the connection.
RESET = b"\1\0\0\0\0\0\0\0"


class Ends:
    """A connector, one connection of it, and the peer's end."""

    def __init__(
        self, connector: Connector[Any], ours: trio.SocketStream, theirs: trio.SocketStream
    ) -> None:
        self.connector = connector
        self.ours = ours
        self.theirs = theirs

    def fault(self) -> Exception | None:
        return fault_of(self.connector, self.ours)


@pytest.fixture(params=["tcp", "unix"])
async def ends(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Ends]:
    connector: TcpConnector | UnixConnector
    if request.param == "tcp":
        connector = TcpConnector()
        listener, backend = await tcp_listener()
    else:
        connector = UnixConnector()
        listener, backend = await unix_listener(tmp_path / "s")
    async with peers(listener) as accepted:
        ours = await connector.connect(backend)
        async with ours, await accepted.receive() as theirs:
            yield Ends(connector, ours, theirs)


def test_the_kinds_are_connection_errors_of_this_package() -> None:
    """Both kinds are caught as `ConnectionError` and as `QorbError`."""
    for kind in (StaleConnectionError, MisusedConnectionError):
        assert issubclass(kind, QorbError)
        assert issubclass(kind, ConnectionError)
        assert str(kind("text")) == "text"
        assert kind.__module__ == "qorb_trio"


async def test_says_which_closed_by_the_peer(ends: Ends) -> None:
    """The peer's close is stale, and the text says so."""
    await ends.theirs.aclose()
    await until_readable(ends.ours)
    fault = ends.fault()
    assert type(fault) is StaleConnectionError
    assert str(fault) == "the connection was closed by the peer"


async def test_says_which_reset_by_the_peer() -> None:
    """A reset is the peer's way to close, and stale as well."""
    listener, backend = await tcp_listener()
    connector = TcpConnector()
    async with peers(listener) as accepted, await connector.connect(backend) as ours:
        theirs = await accepted.receive()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        await theirs.aclose()
        await until_readable(ours)
        fault = fault_of(connector, ours)
    assert type(fault) is StaleConnectionError
    assert str(fault) == "the connection was reset by the peer"


async def test_says_which_closed_by_the_peer_after_a_last_word(ends: Ends) -> None:
    """A goodbye before the end is no misuse: servers say why they close."""
    await ends.theirs.send_all(b"421 timeout")
    await ends.theirs.aclose()
    await until_readable(ends.ours)
    fault = ends.fault()
    assert type(fault) is StaleConnectionError
    assert str(fault) == "the connection was closed by the peer, after 11 unread bytes"


async def test_says_which_closed_by_this_program(ends: Ends) -> None:
    """A connection that its claimant has closed counts against no backend."""
    await ends.ours.aclose()
    fault = ends.fault()
    assert type(fault) is MisusedConnectionError
    assert str(fault) == "the connection was closed by this program"


async def test_says_which_half_closed_by_us(ends: Ends) -> None:
    """A half-close by this program counts as misuse, even after the peer has closed as well."""
    await ends.ours.send_eof()
    for _ in range(2):
        fault = ends.fault()
        assert type(fault) is MisusedConnectionError
        assert str(fault) == "the connection was half closed by this program"
        await ends.theirs.aclose()
        await until_readable(ends.ours)


@pytest.mark.parametrize(
    ("count", "text"),
    [(1, "1 unread byte"), (2, "2 unread bytes"), (70_000, "at least 65536 unread bytes")],
)
async def test_says_which_unread_data_and_how_many_bytes(ends: Ends, count: int, text: str) -> None:
    """Unread bytes are counted and left where they are."""
    await ends.theirs.send_all(bytes(count))
    await until_readable(ends.ours)
    await trio.sleep(0.01)
    for _ in range(2):
        fault = ends.fault()
        assert type(fault) is MisusedConnectionError
        assert str(fault) == f"the connection has {text}"


async def test_says_which_an_error_with_its_reason(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the system is the reason itself: neither stale nor misused."""

    def fail(fd: int) -> int:
        raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))

    monkeypatch.setattr(_sockets, "_peek", fail)
    await ends.theirs.aclose()
    await until_readable(ends.ours)
    fault = ends.fault()
    assert type(fault) is TimeoutError
    assert fault.errno == errno.ETIMEDOUT


async def test_readable_for_nothing_is_no_fault(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket that turns out to have nothing to read is whole."""

    def fail(fd: int) -> int:
        raise BlockingIOError

    monkeypatch.setattr(_sockets, "_peek", fail)
    await ends.theirs.send_all(b"x")
    await until_readable(ends.ours)
    assert ends.fault() is None


async def test_fileno_says_what_to_watch(ends: Ends) -> None:
    """The pool's idle watcher gets the socket's descriptor."""
    assert ends.connector.fileno(ends.ours) == ends.ours.socket.fileno() >= 0


async def test_looking_needs_no_descriptor(ends: Ends) -> None:
    """The reason is found even when the process has no descriptor left."""
    await ends.theirs.send_all(b"xyz")
    await until_readable(ends.ours)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        fault = ends.fault()
        with pytest.raises(OSError, match="Too many open files"):
            os.dup(0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "3 unread bytes" in str(fault)
    assert await ends.ours.receive_some() == b"xyz"
