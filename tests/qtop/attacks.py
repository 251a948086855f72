"""Hostile clients of qtop: ``python attacks.py KIND PORT SECONDS``, in a process of its own.

It imports nothing of the project, and uses blocking sockets only.
"""

from __future__ import annotations

import contextlib
import random
import socket
import sys
import time
from collections.abc import Callable, Iterator

MASK = b"\x00\x00\x00\x00"
#: An empty text frame, an empty continuation frame and a ping, masked with zeros.
EMPTY, CONTINUATION, PING = (bytes([it, 0x80]) + MASK for it in (0x81, 0x00, 0x89))
#: The first part of a message: an empty text frame without the bit FIN.
BEGINNING = b"\x01\x80" + MASK
STACK = b'{"stack":{"pool":"p0","id":1,"since":0.0}}'
UPGRADE = (
    b"GET /qtop/stats?update_secs=0.1 HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Version: 13\r\n\r\n"
)


class Attacker:
    """Makes connections to one port until its time is up."""

    def __init__(self, port: int, seconds: float) -> None:
        self.port = port
        self.end = time.monotonic() + seconds

    def goes_on(self) -> bool:
        """Return True until the time is up."""
        return time.monotonic() < self.end

    def connect(self) -> socket.socket:
        """Return a new connection."""
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def watch(self, more: bytes = b"") -> socket.socket:
        """Return a new WebSocket, on which `more` was sent along with the request."""
        sock = self.connect()
        sock.sendall(UPGRADE + more)
        sock.recv(1 << 16)
        return sock

    def flood(self, data: bytes, *, first: bytes = b"", rate: float | None = None) -> None:
        """Send data on a WebSocket again and again, on a new one when it is closed."""
        while self.goes_on():
            with contextlib.suppress(OSError), self.watch() as sock:
                sock.sendall(first)
                while self.goes_on():
                    sock.sendall(data)
                    sock.setblocking(False)
                    with contextlib.suppress(BlockingIOError):
                        if not sock.recv(1 << 20):
                            break
                    sock.settimeout(1)
                    if rate is not None:
                        time.sleep(len(data) / rate)


def empty_frames(it: Attacker) -> None:
    """Send one piece of the maximum number of empty frames that fit into one read."""
    it.flood(EMPTY * 10_920)


def continuations(it: Attacker) -> None:
    """A message of empty fragments that never ends."""
    it.flood(CONTINUATION * 5000, first=BEGINNING)


def small_frames(it: Attacker) -> None:
    """0.7 MB/s of frames of one character."""
    it.flood((b"\x81\x81" + MASK + b"x") * 1000, rate=700_000)


def pings(it: Attacker) -> None:
    """Pings, the answers to which are read."""
    it.flood(PING * 5000)


def questions(it: Attacker) -> None:
    """Questions for the stack of a holder."""
    it.flood((bytes([0x81, 0x80 | len(STACK)]) + MASK + STACK) * 500)


def long_message(it: Attacker) -> None:
    """One frame of a gigabyte, in pieces."""
    it.flood(b"x" * 65536, first=b"\x81\xff" + (1 << 30).to_bytes(8, "big") + MASK)


def slow_readers(it: Attacker) -> None:
    """Forty clients that ask for ten messages a second and read none."""
    socks = []
    for _ in range(40):
        with contextlib.suppress(OSError):
            socks.append(it.watch())
    while it.goes_on():
        time.sleep(0.05)
    for sock in socks:
        sock.close()


def huge_headers(it: Attacker) -> None:
    """Heads of requests that are as long, or have as many lines, as can be."""
    many = b"GET / HTTP/1.1\r\n" + b"a:\r\n" * 16_000 + b"\r\n"
    dense = b"GET / HTTP/1.1\r\n" + b"".join(b"h%d: %b\r\n" % (i, b"v" * 150) for i in range(97))
    fields = b"GET /qtop/stats?" + b"&a=1" * 3900 + UPGRADE[UPGRADE.index(b" HTTP") :]
    tokens = UPGRADE[:-2] + b"Sec-WebSocket-Protocol: " + b"bearer.eA," * 1500 + b"\r\n\r\n"
    endless = b"GET / HTTP/1.1\r\nX: " + b"y" * 60_000
    while it.goes_on():
        socks = []
        for head in (many, dense + b"\r\n", fields, tokens, endless) * 10:
            with contextlib.suppress(OSError):
                socks.append(it.connect())
                socks[-1].sendall(head)
        for sock in socks:
            sock.close()


def many_connections(it: Attacker) -> None:
    """Hundreds of connections that send nothing, or half of a request."""
    socks: list[socket.socket] = []
    while it.goes_on():
        with contextlib.suppress(OSError):
            socks.append(it.connect())
            socks[-1].sendall(b"GET / HT" if len(socks) % 2 else b"")
        if len(socks) > 500:
            socks.pop(0).close()


def pages(it: Attacker) -> None:
    """Requests for the page, many at the same time."""
    while it.goes_on():
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            socks = [stack.enter_context(it.connect()) for _ in range(30)]
            for sock in socks:
                sock.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            for sock in socks:
                sock.recv(1 << 20)


def garbage() -> Iterator[bytes]:
    """Data of no protocol, or nearly of the right one."""
    rng = random.Random(1)
    while True:
        yield rng.randbytes(4000)
        yield b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(500)
        yield UPGRADE + rng.randbytes(4000)
        yield UPGRADE + b"\x81\x05hello"  # not masked
        yield UPGRADE + b"\x88\x80" + MASK + EMPTY * 100
        yield UPGRADE.replace(b"Sec-WebSocket-Key", b"X-Key")
        yield b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n" + b"x" * 9999


def malformed(it: Attacker) -> None:
    """Garbage, one connection after the other."""
    pieces = garbage()
    while it.goes_on():
        with contextlib.suppress(OSError), it.connect() as sock:
            sock.sendall(next(pieces))
            sock.recv(4096)


KINDS: dict[str, Callable[[Attacker], None]] = {
    it.__name__: it
    for it in (
        *(empty_frames, continuations, small_frames, pings, questions, long_message),
        *(slow_readers, huge_headers, many_connections, pages, malformed),
    )
}

if __name__ == "__main__":
    KINDS[sys.argv[1]](Attacker(int(sys.argv[2]), float(sys.argv[3])))
