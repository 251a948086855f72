"""Dial TCP: look up the host, race its addresses, set the socket's options."""

from __future__ import annotations

import errno
import ipaddress
import itertools
import socket
from typing import TYPE_CHECKING, Any, Final

import trio

from ._lookup import lookup
from ._sockets import close_socket

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._model.backend import Backend
    from ._lookup import Target

# The system's defaults begin to probe after two hours. With these, a peer that vanished
# without closing is noticed within two minutes. That serves pools without health checks;
# health checks notice it first.
_KEEP_ALIVE: Final = {
    getattr(socket, option): value
    for option, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))
    if hasattr(socket, option)
}

#: Seconds after which the next address is tried too, while the one before has neither
#: connected nor failed ("Connection Attempt Delay", RFC 8305, section 5).
ATTEMPT_DELAY: Final = 0.25


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
    if is_ip_address(host):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        targets: list[Target] = [(family, socket.SOCK_STREAM, 0, (host, port))]
    else:
        targets = interleave(await lookup(host, port))
    return _with_options(await _race(backend, targets))


def is_ip_address(host: str) -> bool:
    """Return True if a host is an IP address, with a zone or without."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def interleave(targets: Sequence[Target]) -> list[Target]:
    """Let the families take turns, the first target's family first (RFC 8305, section 4)."""
    favourite = targets[0][0]
    first = [target for target in targets if target[0] == favourite]
    others = [target for target in targets if target[0] != favourite]
    pairs = itertools.zip_longest(first, others)
    return [target for pair in pairs for target in pair if target is not None]


async def _race(backend: Backend, targets: Sequence[Target]) -> trio.socket.SocketType:
    """Connect to the first target that answers; the others begin one after another.

    Raises:
      OSError: if all fail. With one target, it is that target's own error.
    """
    if len(targets) == 1:
        return await _connect(targets[0])
    connected: list[trio.socket.SocketType] = []
    errors: list[OSError] = []
    try:
        await _attempt_all(targets, connected, errors)
    except BaseException:
        for sock in connected:
            close_socket(sock)
        raise
    # Two attempts can succeed in one tick.
    for sock in connected[1:]:
        close_socket(sock)
    if not connected:
        raise _all_failed(backend, targets, errors)
    return connected[0]


async def _attempt_all(
    targets: Sequence[Target], connected: list[trio.socket.SocketType], errors: list[OSError]
) -> None:
    """Add to the sockets and errors until one attempt succeeds, or all have failed."""

    async def attempt(target: Target, failed: trio.Event) -> None:
        try:
            connected.append(await _connect(target))
        except OSError as exc:
            errors.append(exc)
            failed.set()
        else:
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for target in targets:
            failed = trio.Event()
            nursery.start_soon(attempt, target, failed)
            with trio.move_on_after(ATTEMPT_DELAY):
                await failed.wait()


def _all_failed(backend: Backend, targets: Sequence[Target], errors: list[OSError]) -> OSError:
    """Sum up why no address could be connected to: each reason once."""
    reasons = "; ".join(dict.fromkeys(str(exc) for exc in errors))
    addresses = ", ".join(str(address[0]) for *_, address in targets)
    text = f"no address of {backend.host} (port {backend.port}) accepts: {reasons} ({addresses})"
    # An OSError with a number becomes the subclass of that number.
    numbers = {exc.errno for exc in errors}
    number = numbers.pop() if len(numbers) == 1 else None
    return OSError(text) if number is None else OSError(number, text)


async def _connect(target: Target) -> trio.socket.SocketType:
    """Connect one socket, or leave none."""
    *kind, address = target
    sock = trio.socket.socket(*kind)
    try:
        await sock.connect(address)
        _refuse_itself(sock)
    except BaseException:
        sock.close()
        raise
    return sock


def _refuse_itself(sock: trio.socket.SocketType) -> None:
    """Raise if a socket is connected to itself.

    A port of the ephemeral range that nobody listens on can be dialled from that same port.
    By TCP's "simultaneous open" the socket is then its own peer, and echoes every byte.
    """
    peer: Any = sock.getpeername()
    if peer == sock.getsockname():
        raise ConnectionRefusedError(
            errno.ECONNREFUSED,
            f"nothing listens on port {peer[1]} of this host: the socket connected to itself",
        )


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
