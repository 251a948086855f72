"""What the connectors have in common: dialling TCP, and looking at an idle socket."""

from __future__ import annotations

import ipaddress
import select
import socket
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from .._model.backend import Backend

# The system's defaults begin to probe after two hours. A peer that has vanished without a
# word is noticed within two minutes here, which is for those who have switched the health
# checks off; with checks on, they notice first.
_KEEP_ALIVE: Final = {
    getattr(socket, option): value
    for option, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))
    if hasattr(socket, option)
}


async def open_tcp(backend: Backend, connector: str) -> trio.SocketStream:
    """Connect to ``(host, port)``, with ``TCP_NODELAY`` and keep-alive on.

    Closes what it has opened when it fails or is cancelled.
    """
    if isinstance(backend.address, str):
        raise ValueError(  # noqa: TRY004 - the type is right, its value is not for us
            f"{connector} connects to a (host, port) address, and {backend.name} has the path"
            f" of a Unix socket, {backend.address!r}: use UnixConnector"
        )
    host, port = backend.address
    if not _is_ip_address(host):
        stream = await trio.open_tcp_stream(host, port)
        return _with_options(stream.socket)
    # `open_tcp_stream` wraps every error in "all attempts to connect failed". With one
    # address there is one attempt, and why it failed is what people want to read.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        await sock.connect((host, port))
    except BaseException:
        sock.close()
        raise
    return _with_options(sock)


def _with_options(sock: trio.socket.SocketType) -> trio.SocketStream:
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEP_ALIVE.items():
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
        # Trio sets this one too, but ignores a failure.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return trio.SocketStream(sock)
    except BaseException:  # some systems refuse options once the peer has reset
        sock.close()
        raise


def _is_ip_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_readable(sock: trio.socket.SocketType) -> bool:
    """Whether a socket has something to tell: bytes, the end, or an error; or is closed.

    ``poll`` takes 0.6 µs, where peeking with ``recv`` takes 1.1 µs, and ``select``, which
    cannot look at descriptors from 1024 up, 0.8 µs. A `TcpConnector` takes 1 µs to tell that
    an idle connection is whole (CPython 3.11, Linux).
    """
    fd = sock.fileno()
    if fd < 0:
        return True
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))
