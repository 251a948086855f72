"""field-faults E: a connection that was closed ends at the server, forked children or not."""

from __future__ import annotations

import os
import signal
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio

from qorb_trio import Connector, TcpConnector, TlsConnector, UnixConnector

from .kit import no_socket_left, peers, tcp_listener, unix_listener
from .test_tls import VERSIONS, Lab

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.real


@contextmanager
def forked_child() -> Iterator[None]:
    """A child process that shares all descriptors for the length of the block."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads, since Python 3.12
        pid = os.fork()
    if pid == 0:  # pragma: no cover - the child
        try:
            signal.pause()
        finally:
            os._exit(0)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_a_forked_child_does_not_keep_the_connection_open(kind: str, tmp_path: Path) -> None:
    """The server sees the end as soon as the parent disconnects."""
    connector: Connector[Any] = TcpConnector() if kind == "tcp" else UnixConnector()
    listener, backend = await (tcp_listener() if kind == "tcp" else unix_listener(tmp_path / "s"))
    async with peers(listener) as accepted:
        conn = await connector.connect(backend)
        theirs = await accepted.receive()
        with forked_child():
            await connector.disconnect(conn)
            with trio.fail_after(2):
                assert await theirs.receive_some() == b""


async def test_a_forked_child_does_not_keep_the_tls_connection_open() -> None:
    """Under TLS the server sees the goodbye, and then the end."""
    listener, backend = await tcp_listener()
    async with peers(listener) as accepted:
        lab = Lab(VERSIONS[1], "127.0.0.1")
        await lab.connect(accepted, backend)
        with forked_child(), no_socket_left(), trio.fail_after(2):
            await lab.connector.disconnect(lab.ours)
            assert await lab.theirs.receive() == b""
            assert await lab.theirs.stream.receive_some() == b""


async def test_a_handshake_that_fails_ends_the_connection_in_forked_children_too() -> None:
    """A cancelled handshake is over for the server, too."""
    listener, backend = await tcp_listener()
    async with peers(listener) as accepted, trio.open_nursery() as nursery:
        nursery.start_soon(TlsConnector().connect, backend)
        theirs = await accepted.receive()
        with trio.fail_after(2):
            assert await theirs.receive_some(1)
        with forked_child(), trio.fail_after(2):
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                while await theirs.receive_some():
                    pass
