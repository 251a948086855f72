"""Look at an idle socket, say what is wrong with it, and close it."""

from __future__ import annotations

import select
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from .._model.errors import MisusedConnectionError, StaleConnectionError

if TYPE_CHECKING:
    import trio

#: Maximum number of unread bytes that are counted.
_MAX_COUNTED: Final = 65536

#: The peer has closed its end. Only Linux has a flag for it.
_PEER_CLOSED: Final = getattr(select, "POLLRDHUP", 0)

#: The kernel's words for "the peer closed without a goodbye".
_RESETS: Final = (ConnectionResetError, ConnectionAbortedError, BrokenPipeError)


def is_readable(sock: trio.socket.SocketType) -> bool:
    """Return True if an open socket has bytes, its end or an error to tell.

    ``poll`` takes 0.6 µs, where peeking with ``recv`` takes 1.1 µs, and ``select``, which
    cannot look at descriptors from 1024 up, 0.8 µs (CPython 3.11, Linux).
    """
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def fault_of(sock: trio.socket.SocketType) -> OSError | None:
    """Return the reason why an idle socket cannot be used again; `None` if it can."""
    # This is asked at every claim, so the calls below are spelled out.
    fd = sock.fileno()
    if fd >= 0 and not sock.did_shutdown_SHUT_WR:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        if not poll.poll(0):
            return None
    return misuse_of(sock) or _look_into(fd)


def misuse_of(sock: trio.socket.SocketType) -> MisusedConnectionError | None:
    """Return an error if this program has closed a socket, or half of it."""
    if sock.fileno() < 0:
        return MisusedConnectionError("the connection was closed by this program")
    if sock.did_shutdown_SHUT_WR:
        return MisusedConnectionError("the connection was half closed by this program")
    return None


def _look_into(fd: int) -> OSError | None:
    """Return the reason why a socket is readable."""
    try:
        count = _peek(fd)
    except BlockingIOError:  # it was not readable after all
        return None
    except OSError as exc:
        return error_of(exc)
    poll = select.poll()
    poll.register(fd, _PEER_CLOSED)
    return found_unread(count, closed=count == 0 or bool(poll.poll(0)))


def error_of(exc: OSError) -> OSError:
    """Return the reason for an error of the system: a reset is the peer's way to close."""
    if isinstance(exc, _RESETS):
        return StaleConnectionError("the connection was reset by the peer")
    return exc


def found_unread(count: int, *, closed: bool) -> OSError:
    """Return the reason for `count` unread bytes, of a peer that has closed or has not."""
    some = f"at least {_MAX_COUNTED}" if count >= _MAX_COUNTED else str(count)
    bytes_ = f"{some} unread byte{'s' * (count != 1)}"
    if closed:
        rest = f", after {bytes_}" if count else ""
        return StaleConnectionError(f"the connection was closed by the peer{rest}")
    return MisusedConnectionError(f"the connection has {bytes_}")


def _peek(fd: int) -> int:
    """Count the bytes in a socket, up to a maximum; 0 means that the stream has ended."""
    borrowed = socket.socket(fileno=fd)
    try:
        return len(borrowed.recv(_MAX_COUNTED, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    finally:
        borrowed.detach()


def shut_down(sock: trio.socket.SocketType | socket.socket) -> None:
    """End a connection for all processes that have it.

    To close a socket does not, while a child that was forked with it keeps it open: the
    server would hold the connection until that child ends.
    """
    with suppress(OSError):  # it is closed, or the peer has reset it
        sock.shutdown(socket.SHUT_RDWR)


def close_socket(sock: trio.socket.SocketType | socket.socket) -> None:
    """End a connection at once, without a checkpoint."""
    shut_down(sock)
    sock.close()
