"""One exchange with one nameserver, over UDP and, where it has to be, TCP.

Every socket lives inside a ``with`` block of one exchange, so that cancelling an exchange at
any point closes it. No exchange uses Trio's default threads.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Iterator
from functools import partial
from typing import Protocol, TypeAlias, final

import attrs
import trio

from ..._threads import Threads
from .records import Answer, QueryError, Question
from .servers import Server
from .socket_budget import socket_budget
from .wire import JunkError, Query, Reply, make_query, read

# The delays after which an unanswered UDP query is sent again, in seconds. Packets get lost,
# and not every user has a second nameserver to race.
_RESEND = (1.0, 2.0)

# More datagrams than these that are not the answer look like an attempt to guess the query's
# id, which is not possible over TCP.
_MAX_JUNK = 10

# A server that did not understand EDNS is asked with it again after this many seconds. One
# FORMERR may have been an accident, and without EDNS large answers need TCP.
_EDNS_PAUSE = 300.0

_MAX_UDP = 65535

#: The family and the address to connect to.
_Address: TypeAlias = "tuple[socket.AddressFamily, object]"

# Failures of the network. A name that cannot be encoded is a `UnicodeError`, and the
# `OSError` of a socket is a `BrokenResourceError` of a Trio stream.
_NETWORK_ERRORS = (OSError, UnicodeError, trio.BrokenResourceError)

_NAME_THREADS = Threads("qorb_trio names of nameservers", 4)


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
    kernel drops datagrams from other addresses, and a closed port is an error at once.

    Args:
      edns_payload: the largest UDP answer to ask for, in bytes.
    """

    def __init__(self, *, edns_payload: int) -> None:
        self._payload = edns_payload
        # The servers that do not understand EDNS, and the time at which to try it again.
        self._plain_until: dict[Server, float] = {}

    async def exchange(self, server: Server, question: Question, *, timeout: float) -> Answer:
        """Ask one server, as `Transport.exchange` says. Cancelled, it closes its socket at once.

        The time in which it waits for a socket does not count towards `timeout`.
        """
        return await socket_budget().run(partial(self._bounded, server, question, timeout))

    async def _bounded(self, server: Server, question: Question, timeout: float) -> Answer:
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
        payload = None if self._is_plain(server) else self._payload
        reply = await _ask(address, make_query(question, payload=payload), junk)
        if payload is not None and reply.not_understood:
            reply = await _ask(address, make_query(question, payload=None), junk)
            if not reply.not_understood:
                self._plain_until[server] = trio.current_time() + _EDNS_PAUSE
        if isinstance(reply.outcome, QueryError):
            raise reply.outcome
        return reply.outcome

    def _is_plain(self, server: Server) -> bool:
        """Return True if a server should be asked without EDNS now."""
        now = trio.current_time()
        if self._plain_until:
            # Nameservers come and go; those that are not asked any more must not pile up.
            self._plain_until = {s: end for s, end in self._plain_until.items() if end > now}
        return server in self._plain_until


@attrs.define
class _Junk:
    """The messages of one exchange that were not its answer."""

    count: int = 0
    last: str | None = None
    """The reason why the last one was ignored."""

    @contextlib.contextmanager
    def ignored(self) -> Iterator[None]:
        """Ignore junk in the block, and remember the reason."""
        try:
            yield
        except JunkError as exc:
            self.count += 1
            self.last = str(exc)

    def __str__(self) -> str:
        return f" (ignored: {self.last})" if self.last else ""


async def _addresses(server: Server) -> list[_Address]:
    """Return the address of a nameserver, or those that the system knows for its name."""
    family = _family(server.host)
    if family is not None:
        return [(family, (server.host, server.port))]
    found = await _NAME_THREADS.run(
        socket.getaddrinfo, server.host, server.port, 0, socket.SOCK_DGRAM
    )
    return [(family, address) for family, _, _, _, address in found]


async def _ask(address: _Address, query: Query, junk: _Junk) -> Reply:
    reply = await _ask_udp(address, query, junk)
    if reply is None or reply.truncated:
        return await _ask_tcp(address, query)
    return reply


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


async def _ask_udp(address: _Address, query: Query, junk: _Junk) -> Reply | None:
    """Return the reply; `None` if so much junk came instead that TCP is safer."""
    with await _open_socket(address, socket.SOCK_DGRAM) as sock:
        await sock.send(query.wire)
        for delay in _RESEND:
            with trio.move_on_after(delay):
                return await _receive_udp(sock, query, junk)
            await sock.send(query.wire)
        return await _receive_udp(sock, query, junk)


async def _receive_udp(sock: trio.socket.SocketType, query: Query, junk: _Junk) -> Reply | None:
    # Anyone who guesses the port may send rubbish, which must not end the wait at once.
    while junk.count < _MAX_JUNK:
        wire = await sock.recv(_MAX_UDP)
        with junk.ignored():
            return await _read(wire, query)
    return None


async def _ask_tcp(address: _Address, query: Query) -> Reply:
    """Ask over TCP, where the first message that is not the answer is a failure.

    Nobody but the server can send over the connection. If the resolver went on reading, a
    stream of wrong messages would keep it busy until the deadline.
    """
    with await _open_socket(address, socket.SOCK_STREAM) as sock:
        stream = trio.SocketStream(sock)
        await stream.send_all(len(query.wire).to_bytes(2, "big") + query.wire)
        size = int.from_bytes(await _receive_exactly(stream, 2), "big")
        wire = await _receive_exactly(stream, size)
        try:
            return await _read(wire, query)
        except JunkError as exc:
            raise QueryError(f"not an answer over TCP: {exc}") from exc


async def _receive_exactly(stream: trio.SocketStream, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        chunk = await stream.receive_some(size - len(data))
        if not chunk:
            raise ConnectionError("the server closed the TCP connection")
        data += chunk
    return bytes(data)


async def _read(wire: bytes, query: Query) -> Reply:
    """Read a message, and let other tasks run between pieces of a large one."""
    pieces = read(wire, query)
    while True:  # noqa: ASYNC913 - small messages are read without a pause
        try:
            next(pieces)
        except StopIteration as done:
            reply: Reply = done.value
            return reply
        await trio.lowlevel.checkpoint()
