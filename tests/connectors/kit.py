"""Aids for the tests of all connectors: servers, and a look at the process's sockets."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import trio

from qorb_trio import Backend, Connector


async def until_readable(stream: trio.SocketStream) -> None:
    """Wait until something has arrived; a test that waits for ever fails."""
    with trio.fail_after(5):
        await trio.lowlevel.wait_readable(stream.socket)


@asynccontextmanager
async def peers(
    listener: trio.SocketListener,
) -> AsyncIterator[trio.MemoryReceiveChannel[trio.SocketStream]]:
    """The other ends of the connections that are made to `listener`, as they come."""
    send, receive = trio.open_memory_channel[trio.SocketStream](100)

    async def accept() -> None:
        with ExitStack() as stack:
            while True:
                stream = await listener.accept()
                stack.enter_context(stream.socket)
                await send.send(stream)

    async with listener, trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        try:
            yield receive
        finally:
            nursery.cancel_scope.cancel()


async def tcp_listener() -> tuple[trio.SocketListener, Backend]:
    """A listener on a free port, and the backend to connect to."""
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    return listener, Backend(listener.socket.getsockname()[:2])


async def unix_listener(path: Path) -> tuple[trio.SocketListener, Backend]:
    """A listener on a path, and the backend to connect to."""
    sock = trio.socket.socket(trio.socket.AF_UNIX)
    await sock.bind(str(path))
    sock.listen()
    return trio.SocketListener(sock), Backend(path)


def is_broken(connector: Connector[Any], conn: Any) -> bool:
    """Ask a connector as the pool does: an exception is a way to say yes."""
    return fault_of(connector, conn) is not None


def fault_of(connector: Connector[Any], conn: Any) -> Exception | None:
    """Return the reason that a connector gives; it never returns True without one."""
    try:
        assert connector.is_broken(conn) is False
    except (OSError, ssl.SSLError) as exc:
        return exc
    return None


@contextmanager
def no_socket_left() -> Iterator[None]:
    """Check that the block leaves no socket behind."""
    before = _sockets()
    yield
    assert not _sockets() - before


def _sockets() -> set[str]:
    """The sockets of this process."""
    targets = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            targets.add(str(entry.readlink()))
        except FileNotFoundError:  # the descriptor by which the directory was read
            continue
    return {target for target in targets if target.startswith("socket:")}
