"""One exchange with one nameserver, over UDP and, where it has to be, TCP.

There are no deadlines here but the caller's. Every socket lives inside a ``with``
block of one exchange, so that cancelling an exchange at any point closes it.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Iterator
from typing import Protocol, TypeAlias, final

import attrs
import trio

from .records import Answer, QueryError, Question
from .servers import Server
from .wire import JunkError, Query, Reply, check_header, make_query, read

# Parsing takes about 0.1 ms per record. Messages above this size, which is some 40
# records, are parsed in a worker thread, so that the event loop does not stall.
_LARGE = 2048

# When to send a UDP query again that has not been answered, in seconds after the last
# time. Packets get lost, and not every user has a second nameserver to race.
_RESEND = (1.0, 2.0)

_MAX_UDP = 65535

#: Where a socket is to be connected to, and of what family it has to be.
_Address: TypeAlias = "tuple[socket.AddressFamily, object]"

# How the network fails. A name that cannot be encoded is a `UnicodeError`, and what is an
# `OSError` of a socket is a `BrokenResourceError` of a Trio stream.
_NETWORK_ERRORS = (OSError, UnicodeError, trio.BrokenResourceError)


class Transport(Protocol):
    """Asks one nameserver one question. The seam at which tests replace the network."""

    async def exchange(self, server: Server, question: Question, *, timeout: float) -> Answer:
        """Return what `server` answers within `timeout` seconds.

        Raises:
          QueryError: the server gave no answer.
        """


@final
class NetworkTransport:
    """The transport over real sockets.

    A fresh connected UDP socket per query: its port is as hard to guess as its id, the
    kernel drops what comes from elsewhere, and a closed port is an error at once.

    Args:
      edns_payload: the largest UDP answer to ask for, in bytes.
    """

    def __init__(self, *, edns_payload: int) -> None:
        self._payload = edns_payload
        self._without_edns: set[Server] = set()

    async def exchange(self, server: Server, question: Question, *, timeout: float) -> Answer:
        """See `Transport.exchange`. Cancelled, it closes its socket and is gone."""
        junk = _Junk()
        with trio.move_on_after(timeout):
            try:
                return await self._exchange(server, question, junk)
            except _NETWORK_ERRORS as exc:
                raise QueryError(f"{str(exc) or type(exc).__name__}{junk}") from exc
        raise QueryError(f"no answer within {timeout:g} s{junk}")

    async def _exchange(self, server: Server, question: Question, junk: _Junk) -> Answer:
        *others, last = await _addresses(server)
        for address in others:  # such as ::1 of a "localhost" that listens on 127.0.0.1
            with contextlib.suppress(*_NETWORK_ERRORS):
                return await self._exchange_with(server, address, question, junk)
        return await self._exchange_with(server, last, question, junk)

    async def _exchange_with(
        self, server: Server, address: _Address, question: Question, junk: _Junk
    ) -> Answer:
        payload = None if server in self._without_edns else self._payload
        reply = await _ask(address, make_query(question, payload=payload), junk)
        if payload is not None and reply.not_understood:
            reply = await _ask(address, make_query(question, payload=None), junk)
            if not reply.not_understood:
                self._without_edns.add(server)
        if isinstance(reply.outcome, QueryError):
            raise reply.outcome
        return reply.outcome


@attrs.define
class _Junk:
    """Why the last message was ignored that was not our answer."""

    last: str | None = None

    @contextlib.contextmanager
    def ignored(self) -> Iterator[None]:
        """Ignore what is junk in the block, and remember why."""
        try:
            yield
        except JunkError as exc:
            self.last = str(exc)

    def __str__(self) -> str:
        return f" (ignored: {self.last})" if self.last else ""


async def _addresses(server: Server) -> list[_Address]:
    """Where a nameserver is: one address, or those that the system knows for its name."""
    family = _family(server.host)
    if family is not None:
        return [(family, (server.host, server.port))]
    found = await trio.socket.getaddrinfo(server.host, server.port, type=socket.SOCK_DGRAM)
    return [(family, address) for family, _, _, _, address in found]


async def _ask(address: _Address, query: Query, junk: _Junk) -> Reply:
    reply = await _ask_udp(address, query, junk)
    return await _ask_tcp(address, query, junk) if reply.truncated else reply


async def _open_socket(where: _Address, kind: socket.SocketKind) -> trio.socket.SocketType:
    family, address = where
    sock = trio.socket.socket(family, kind)
    try:
        await sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


def _family(host: str) -> socket.AddressFamily | None:
    try:
        version = ipaddress.ip_address(host).version
    except ValueError:
        return None
    return socket.AF_INET if version == 4 else socket.AF_INET6


async def _ask_udp(address: _Address, query: Query, junk: _Junk) -> Reply:
    with await _open_socket(address, socket.SOCK_DGRAM) as sock:
        await sock.send(query.wire)
        for delay in _RESEND:
            with trio.move_on_after(delay):
                return await _receive_udp(sock, query, junk)
            await sock.send(query.wire)
        return await _receive_udp(sock, query, junk)


async def _receive_udp(sock: trio.socket.SocketType, query: Query, junk: _Junk) -> Reply:
    """Wait for our reply, however much else comes in.

    Anyone who guesses the port may send us rubbish, which must not end the wait.
    """
    while True:
        wire = await sock.recv(_MAX_UDP)
        with junk.ignored():
            return await _read(wire, query)


async def _ask_tcp(address: _Address, query: Query, junk: _Junk) -> Reply:
    with await _open_socket(address, socket.SOCK_STREAM) as sock:
        stream = trio.SocketStream(sock)
        await stream.send_all(len(query.wire).to_bytes(2, "big") + query.wire)
        while True:
            size = int.from_bytes(await _receive_exactly(stream, 2), "big")
            wire = await _receive_exactly(stream, size)
            with junk.ignored():
                return await _read(wire, query)


async def _receive_exactly(stream: trio.SocketStream, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        chunk = await stream.receive_some(size - len(data))
        if not chunk:
            raise ConnectionError("the server closed the TCP connection")
        data += chunk
    return bytes(data)


async def _read(wire: bytes, query: Query) -> Reply:
    if len(wire) <= _LARGE:
        return read(wire, query)
    check_header(wire, query)
    return await trio.to_thread.run_sync(read, wire, query, abandon_on_cancel=True)
