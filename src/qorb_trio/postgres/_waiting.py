"""Waiting for libpq's socket by Trio, for the generators that psycopg is made of.

A psycopg operation is a generator that yields what it waits for (`Wait`), and is sent what is
ready (`Ready`). This file turns that into Trio's terms; it knows no connection.
"""

from __future__ import annotations

import math
import select
from collections.abc import Awaitable, Callable

import psycopg
import trio
from psycopg import errors, pq
from psycopg.waiting import Ready, Wait

_READ = select.POLLIN | select.POLLHUP | select.POLLERR
_WRITE = select.POLLOUT | select.POLLHUP | select.POLLERR

# Plain numbers: a member of an enumeration is looked up far more slowly.
WAIT_READ, _WAIT_WRITE = int(Wait.R), int(Wait.W)
READABLE, _WRITABLE = int(Ready.R), int(Ready.W)

#: Number of steps without waiting after which other tasks get their turn. One step takes a few
#: microseconds, so that a long COPY holds up the other tasks for less than a millisecond.
_STEPS_PER_TURN = 64


class Turns:
    """Counts the steps of one connection that did not wait, so that other tasks are not starved."""

    __slots__ = ("_steps",)

    def __init__(self) -> None:
        self._steps = 0

    def is_due(self) -> bool:
        """Count one step, and return True if it is time to let the other tasks run."""
        self._steps += 1
        if self._steps < _STEPS_PER_TURN:
            return False
        self._steps = 0
        return True


def poll_now(fd: int, wait: int) -> int:
    """Return the part of `wait` that is ready at this moment; an error counts as ready."""
    poll = select.poll()
    poll.register(fd, (wait & Wait.R and _READ) | (wait & Wait.W and _WRITE))
    ready = 0
    for _, events in poll.poll(0):
        if events & _READ and wait & Wait.R:
            ready |= Ready.R
        if events & _WRITE and wait & Wait.W:
            ready |= Ready.W
    return ready


async def wait_ready(fd: int, wait: int, turns: Turns) -> int:
    """Wait until a part of `wait` is ready, and return that part.

    Raises:
      psycopg.OperationalError: if the socket is closed meanwhile, or was so before.
    """
    try:
        if wait == WAIT_READ:
            await trio.lowlevel.wait_readable(fd)
            return READABLE
        if wait == _WAIT_WRITE:
            await trio.lowlevel.wait_writable(fd)
            return _WRITABLE
        # The socket is nearly always writable, and a poll is far cheaper than a round trip
        # through the scheduler, which a pipeline would pay for each of its commands.
        if ready := poll_now(fd, wait):
            if turns.is_due():
                await trio.lowlevel.checkpoint()
            return ready
        return await _wait_for_either(fd)
    except BaseException as exc:
        raise_if_closed(exc)
        raise


def raise_if_closed(exc: BaseException) -> None:
    """Raise psycopg's error if a wait has ended because the socket is closed."""
    if isinstance(exc, trio.ClosedResourceError | OSError):
        raise psycopg.OperationalError("the connection was closed while it was in use") from exc


async def _wait_for_either(fd: int) -> int:
    """Wait until a socket is readable or writable. Trio has no single call for this."""
    ready = 0

    async def watch(wait: Wait, wait_for: Callable[[int], Awaitable[None]]) -> None:
        nonlocal ready
        await wait_for(fd)
        ready |= wait
        nursery.cancel_scope.cancel()

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, Wait.R, trio.lowlevel.wait_readable)
            nursery.start_soon(watch, Wait.W, trio.lowlevel.wait_writable)
    except BaseExceptionGroup as group:
        # Both have failed alike: the socket was closed, or this task was cancelled.
        raise group.exceptions[0] from None  # noqa: ASYNC123
    return ready


async def wait_ready_until(fd: int, wait: int, deadline: float, turns: Turns) -> int:
    """Do the same, but return 0 once `deadline` has passed with nothing ready."""
    if ready := poll_now(fd, wait):
        if turns.is_due():
            await trio.lowlevel.checkpoint()
        return ready
    with trio.move_on_at(deadline):
        return await wait_ready(fd, wait, turns)
    return poll_now(fd, wait)


#: The states of a dial in which the server has accepted the connection and is silent.
_SILENT = {
    pq.ConnStatus.MADE,
    pq.ConnStatus.AWAITING_RESPONSE,
    pq.ConnStatus.SSL_STARTUP,
    pq.ConnStatus.GSS_STARTUP,
}
#: What libpq says if a server closes, or says something that PostgreSQL never says.
_MISFIT = (
    "server closed the connection unexpectedly",
    "could not receive data from server",
    "received invalid response to SSL negotiation",
    "expected authentication request from server",
)
_UNREACHED = {pq.ConnStatus.STARTED, pq.ConnStatus.NEEDED}


async def open_pgconn(conninfo: str, deadline: float = math.inf) -> pq.abc.PGconn:
    """Open a connection by libpq, without blocking; failing or cancelled, it leaves nothing.

    Raises:
      psycopg.OperationalError: if that fails, with libpq's reason.
      psycopg.errors.ConnectionTimeout: at `deadline`, saying how far it got.
    """
    pgconn = pq.PGconn.connect_start(conninfo.encode())
    try:
        with trio.move_on_at(deadline):
            await _poll_until_open(pgconn)
            pgconn.nonblocking = 1
            return pgconn
        raise errors.ConnectionTimeout(_lateness(pgconn))
    except BaseException:
        pgconn.finish()
        raise


async def _poll_until_open(pgconn: pq.abc.PGconn) -> None:
    status = pgconn.status
    while pgconn.status != pq.ConnStatus.BAD:
        status = pgconn.status
        state = pgconn.connect_poll()
        if state == pq.PollingStatus.OK:
            await trio.lowlevel.checkpoint()
            return
        if state == pq.PollingStatus.FAILED:
            break
        # libpq may go on with another address, and another socket, at each poll.
        if state == pq.PollingStatus.READING:
            await trio.lowlevel.wait_readable(pgconn.socket)
        else:
            await trio.lowlevel.wait_writable(pgconn.socket)
    await trio.lowlevel.checkpoint()
    reason = pgconn.get_error_message()
    raise psycopg.OperationalError(f"connection failed: {reason}{_hint_at(reason, status)}")


def _hint_at(reason: str, status: int) -> str:
    """Return what libpq's words may mean if the server has not said anything of its own."""
    if status in _SILENT and any(words in reason for words in _MISFIT):
        return ": it was stopped, or it is no PostgreSQL server"
    return ""


def _lateness(pgconn: pq.abc.PGconn) -> str:
    """Return how far a dial got whose time is up."""
    if pgconn.status in _UNREACHED:
        return "connection timeout expired: the server's address does not answer"
    if pgconn.status in _SILENT:
        return (
            "connection timeout expired: the server has accepted the connection, but does not"
            " answer: it hangs, or it is no PostgreSQL server"
        )
    return "connection timeout expired: the server has answered, but not let us in yet"


async def finish_cancelling(request: pq.abc.PGcancelConn) -> None:
    """Wait until the server has acted on a request to cancel; it can be resumed if cancelled.

    The server's process has been signalled when this returns. A command that is sent after that
    is safe from the request (libpq 17, ``PQcancelPoll``).

    Raises:
      psycopg.OperationalError: if the server cannot be asked.
    """
    try:
        while (state := request.poll()) != pq.PollingStatus.OK:
            if state == pq.PollingStatus.FAILED:
                reason = request.get_error_message()
                raise psycopg.OperationalError(f"cancellation failed: {reason}")
            if state == pq.PollingStatus.READING:
                await trio.lowlevel.wait_readable(request.socket)
            else:
                await trio.lowlevel.wait_writable(request.socket)
    except (trio.ClosedResourceError, OSError) as exc:
        raise psycopg.OperationalError("cancellation failed: the connection was closed") from exc
