"""A nameserver on real sockets that sends exactly the bytes that a test gives."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import attrs
import dns.flags
import dns.message
import dns.rrset
import trio

from qorb_trio.resolvers._dns.servers import Server


@attrs.define
class Asked:
    """One query as it came in, and how to reply to it."""

    wire: bytes
    tcp: bool
    peer: tuple[str, int]
    _send: Callable[[bytes], Awaitable[None]]
    _stream: trio.SocketStream | None = None

    @property
    def query(self) -> dns.message.Message:
        return dns.message.from_wire(self.wire)

    def answer(self, *texts: str, ttl: int = 60) -> dns.message.Message:
        """The right response, with these records for the name that was asked for."""
        response = dns.message.make_response(self.query)
        question = response.question[0]
        if texts:
            rdtype = dns.rdatatype.to_text(question.rdtype)
            response.answer.append(
                dns.rrset.from_text_list(question.name, ttl, "IN", rdtype, texts)
            )
        return response

    async def send(self, message: dns.message.Message | bytes) -> None:
        """Send a message, over whatever the query came."""
        wire = message if isinstance(message, bytes) else message.to_wire(max_size=65535)
        await self._send(len(wire).to_bytes(2, "big") + wire if self.tcp else wire)

    def reset(self) -> None:
        """Have the TCP connection end with a reset, as of a server that has crashed."""
        assert self._stream is not None
        self._stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async def send_raw(self, data: bytes) -> None:
        """Send bytes without a length in front."""
        await self._send(data)


class WireServer:
    """UDP and TCP on one port of this host; `handler` does the rest."""

    def __init__(self, handler: Callable[[Asked], Awaitable[None]], port: int) -> None:
        self.server = Server("127.0.0.1", port)
        self.asked: list[Asked] = []
        self._handler = handler

    async def _serve_udp(self, sock: trio.socket.SocketType) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                wire, peer = await sock.recvfrom(65535)

                async def send(data: bytes, peer: tuple[str, int] = peer) -> None:
                    await sock.sendto(data, peer)

                nursery.start_soon(self._handle, Asked(wire, False, peer, send))

    async def _serve_tcp(self, stream: trio.SocketStream) -> None:
        async with stream:
            data = b""
            while len(data) < 2 or len(data) < 2 + int.from_bytes(data[:2], "big"):
                chunk = await stream.receive_some()
                if not chunk:
                    return
                data += chunk
            peer = stream.socket.getpeername()
            await self._handle(Asked(data[2:], True, peer, stream.send_all, stream))

    async def _handle(self, asked: Asked) -> None:
        self.asked.append(asked)
        await self._handler(asked)


@asynccontextmanager
async def wire_server(
    handler: Callable[[Asked], Awaitable[None]],
) -> AsyncIterator[WireServer]:
    """Serve while the block runs."""
    async with trio.open_nursery() as nursery:
        udp, listeners = await _bind()
        with udp:
            server = WireServer(handler, udp.getsockname()[1])
            nursery.start_soon(server._serve_udp, udp)
            nursery.start_soon(trio.serve_listeners, server._serve_tcp, listeners)
            yield server
            nursery.cancel_scope.cancel()


async def _bind() -> tuple[trio.socket.SocketType, list[trio.SocketListener]]:
    while True:
        udp = trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM)
        await udp.bind(("127.0.0.1", 0))
        try:
            port = udp.getsockname()[1]
            return udp, await trio.open_tcp_listeners(port, host="127.0.0.1")
        except OSError as exc:
            udp.close()
            if exc.errno != errno.EADDRINUSE:
                raise
