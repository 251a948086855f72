"""The watcher of idle connections, with sockets of this process, and with code that misuses it."""

from __future__ import annotations

import socket

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from qorb_trio import (
    Backend,
    Connector,
    MisusedConnectionError,
    Policy,
    Pool,
    StaleConnectionError,
    open_pool,
)
from qorb_trio._connections.idle_watcher import IS_SUPPORTED
from qorb_trio.testing import ManualResolver, RecordingInstrument

pytestmark = pytest.mark.skipif(not IS_SUPPORTED, reason="Linux")

BACKEND = Backend(("a.test", 1))


class SocketConnector(Connector[socket.socket]):
    """Its connections are pairs of sockets. It overrides no `is_broken`."""

    def __init__(self) -> None:
        self.peers: dict[socket.socket, socket.socket] = {}

    async def connect(self, backend: Backend) -> socket.socket:
        await trio.lowlevel.checkpoint()
        ours, theirs = socket.socketpair()
        self.peers[ours] = theirs
        return ours

    async def disconnect(self, conn: socket.socket) -> None:
        await trio.lowlevel.checkpoint()
        self.peers.pop(conn).close()
        conn.close()

    def fileno(self, conn: socket.socket) -> int | None:
        return conn.fileno()


def one_slot(pool_size: int = 1) -> Policy:
    """A policy with one spare, and that maximum of connections."""
    return Policy(max_slots=pool_size, spares_wanted=1)


async def online(pool: Pool[socket.socket]) -> int:
    """The number of slots, when all that can happen now has happened."""
    await wait_all_tasks_blocked()
    return pool.stats().slots


async def test_a_fileno_that_raises(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A connection whose `fileno` raises is used, unwatched, and the error is kept."""

    class Raising(SocketConnector):
        def fileno(self, conn: socket.socket) -> int | None:
            raise OSError("no descriptor")

    resolver, connector = ManualResolver([BACKEND]), Raising()
    async with open_pool(nursery, resolver, connector, policy=one_slot()) as pool:
        async with pool.claim() as conn:
            pass
        connector.peers[conn].close()
        assert await online(pool) == 1
        async with pool.claim() as again:
            assert again is conn
        assert str(pool.stats().backends[BACKEND.name].last_error) == "no descriptor"


async def test_a_connection_that_the_peer_closes_while_it_is_lent(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """It is not lent again, though the connector cannot tell that it is broken."""
    connector, events = SocketConnector(), RecordingInstrument()
    async with open_pool(
        nursery, ManualResolver([BACKEND]), connector, policy=one_slot(), instruments=[events]
    ) as pool:
        async with pool.claim() as conn:
            connector.peers[conn].close()
            await wait_all_tasks_blocked()
        async with pool.claim() as other:
            assert other is not conn
        (event,) = events.of("connection_broken", "connection_stale")
        assert isinstance(event.error, StaleConnectionError)


async def test_a_peer_that_closes_after_its_backend_has_left(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """The watcher leaves a connection alone that will be closed when it comes back."""
    resolver, connector, events = (
        ManualResolver([BACKEND]),
        SocketConnector(),
        RecordingInstrument(),
    )
    async with open_pool(
        nursery, resolver, connector, policy=one_slot(), instruments=[events]
    ) as pool:
        async with pool.claim() as conn:
            resolver.set(["b.test:1"])
            await wait_all_tasks_blocked()
            connector.peers[conn].close()
            await wait_all_tasks_blocked()
        await wait_all_tasks_blocked()
        assert conn.fileno() == -1
        assert not events.of("connection_broken", "connection_stale")


async def test_a_program_that_closes_its_connection_itself(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """A descriptor that is gone when the pool closes its connection is forgotten."""
    connector = SocketConnector()
    async with open_pool(nursery, ManualResolver([BACKEND]), connector, policy=one_slot()) as pool:
        claim = await pool.acquire()
        claim.connection.close()
        claim.discard()
        assert await online(pool) == 1
        async with pool.claim() as conn:
            assert conn.fileno() >= 0


async def test_a_descriptor_that_is_used_again(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """A new connection with the descriptor of one that the program has closed is watched."""
    connector = SocketConnector()
    async with open_pool(nursery, ManualResolver([BACKEND]), connector, policy=one_slot(2)) as pool:
        first = await pool.acquire()
        number = first.connection.fileno()
        spare = await pool.acquire()
        spare.discard()
        first.connection.close()
        second = await pool.acquire()
        assert second.connection.fileno() == number
        first.discard()
        await wait_all_tasks_blocked()
        conn = second.connection
        second.release()
        connector.peers[conn].close()
        await wait_all_tasks_blocked()
        assert conn.fileno() == -1


async def test_instruments_hear_of_a_misused_connection(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """A connection that a task gives back in a wrong state is an event, with a reason."""

    class Misused(SocketConnector):
        def is_broken(self, conn: socket.socket) -> bool:
            if conn.fileno() < 0:
                raise MisusedConnectionError("closed by the program")
            return False

    events = RecordingInstrument()
    async with open_pool(
        nursery, ManualResolver([BACKEND]), Misused(), policy=one_slot(), instruments=[events]
    ) as pool:
        async with pool.claim() as conn:
            conn.close()
        (event,) = events.of("connection_broken")
        assert str(event.error) == "closed by the program"
