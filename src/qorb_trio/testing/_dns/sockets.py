"""The sockets of the test DNS server: UDP and TCP on one port, and how each replies."""

from __future__ import annotations

import errno
import ipaddress
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import Any, Final, Literal, Protocol

import trio
from trio import socket

from .faults import Via

_BIND_ATTEMPTS: Final = 50
_MAX_UDP: Final = 65535


async def bind(hosts: Sequence[str], port: int) -> tuple[list[socket.SocketType], int]:
    """Return a UDP and a listening TCP socket per host, UDP first, and their common port.

    A port of 0 is any that is free on all of them.
    """
    attempts = 0
    while True:  # noqa: ASYNC913 - it ends after _BIND_ATTEMPTS
        attempts += 1
        # A port that is free for UDP may be in use for TCP: then another is tried.
        try:
            return await _bind(hosts, port)
        except OSError as exc:
            in_use = exc.errno == errno.EADDRINUSE
            if port != 0 or not in_use or attempts == _BIND_ATTEMPTS:
                raise


async def _bind(hosts: Sequence[str], port: int) -> tuple[list[socket.SocketType], int]:
    with ExitStack() as stack:
        sockets = []
        for host in hosts:
            for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                sock = stack.enter_context(socket.socket(_family(host), kind))
                if kind == socket.SOCK_STREAM:
                    # Connections of an earlier run, long closed, must not be in the way.
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                await sock.bind((host, port))
                port = sock.getsockname()[1]
                if kind == socket.SOCK_STREAM:
                    sock.listen(128)
                sockets.append(sock)
        stack.pop_all()
        return sockets, port


def _family(host: str) -> int:
    is_v6 = ipaddress.ip_address(host).version == 6
    return socket.AF_INET6 if is_v6 else socket.AF_INET


class Peer(Protocol):
    """The client of one query, and the way to reply to it."""

    @property
    def transport(self) -> Literal["udp", "tcp"]:
        """The protocol of the query."""

    @property
    def client(self) -> tuple[str, int]:
        """The client's address."""

    async def send(self, wire: bytes, via: Via) -> None:
        """Send one message; a client that has gone is no error."""


class UdpPeer:
    """The sender of one datagram."""

    transport: Final = "udp"

    def __init__(self, sock: socket.SocketType, address: Any) -> None:
        self.client: tuple[str, int] = address[:2]
        self._sock = sock
        self._address = address

    async def send(self, wire: bytes, via: Via) -> None:
        with suppress(OSError):
            if via is Via.REPLY:
                await self._sock.sendto(wire, self._address)
            elif via is Via.STRANGER:
                with socket.socket(self._sock.family, socket.SOCK_DGRAM) as other:
                    await other.bind((self._sock.getsockname()[0], 0))
                    await other.sendto(wire, self._address)


async def receive_udp(sock: socket.SocketType) -> tuple[bytes, UdpPeer]:
    """Return the next datagram, and its sender."""
    data, address = await sock.recvfrom(_MAX_UDP)
    return data, UdpPeer(sock, address)


class TcpPeer:
    """One connection; its messages may be answered in any order (RFC 7766)."""

    transport: Final = "tcp"

    def __init__(self, stream: trio.SocketStream, scope: trio.CancelScope) -> None:
        # The client may be gone before we have asked who it was.
        self.client: tuple[str, int] = ("?", 0)
        with suppress(OSError):
            self.client = stream.socket.getpeername()[:2]
        self._stream = stream
        self._scope = scope
        self._sending = trio.Lock()
        self._buffer = bytearray()

    async def receive(self) -> bytes | None:
        """Return the next message; `None` when there is no more."""
        prefix = await self._read(2)
        return None if prefix is None else await self._read(int.from_bytes(prefix, "big"))

    async def _read(self, size: int) -> bytes | None:
        while len(self._buffer) < size:
            try:
                data = await self._stream.receive_some()
            except trio.BrokenResourceError:
                return None
            if not data:
                return None
            self._buffer += data
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    async def send(self, wire: bytes, via: Via) -> None:
        if via is Via.CLOSE:
            self._scope.cancel()
        elif via is Via.REPLY:
            async with self._sending:
                with suppress(trio.BrokenResourceError):
                    await self._stream.send_all(len(wire).to_bytes(2, "big") + wire)
