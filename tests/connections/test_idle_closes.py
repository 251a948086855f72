"""Peers that close idle connections, which is normal life (field faults, section A)."""

from __future__ import annotations

import logging
from contextlib import suppress

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from qorb_trio import (
    Backend,
    Connector,
    FixedResolver,
    MisusedConnectionError,
    TcpConnector,
    open_pool,
)
from qorb_trio.testing import RecordingInstrument

from .impatient import PRIMARY, Conn, Impatient, spend_a_day


@pytest.mark.parametrize("says_why", [False, True])
@pytest.mark.parametrize(("spares", "claims"), [(1, 1200), (8, 200)])
async def test_ff_a3_a_primary_that_closes_idle_connections_is_not_abandoned(
    autojump_clock: MockClock, spares: int, claims: int, says_why: bool
) -> None:
    """With a claim every six seconds for hours, the standby gets none, and the log is short.

    ``python -m tests.simulation --day`` is the same for a whole day.
    """
    day = await spend_a_day(claims=claims, spares=spares, says_why=says_why)
    assert day.served == {"primary": claims}
    assert day.failures == 0
    assert day.stale >= claims / 2
    assert len(day.lines) <= 10


@pytest.mark.parametrize("spares", [1, 8])
async def test_ff_a4_idle_closes_that_are_noticed_make_nobody_wait(
    autojump_clock: MockClock, spares: int
) -> None:
    """With descriptors to watch, a spare is replaced as it is closed, and found by each claim."""
    day = await spend_a_day(claims=300, spares=spares, watched=True)
    assert day.served == {"primary": 300}
    assert day.failures == 0
    assert day.stale >= 300 * spares
    assert day.longest_wait <= 0.005, "that is the first, which waits for its dial"
    assert len(day.lines) <= 10


async def test_a_burst_after_idle_closes_waits_as_for_plain_dials(
    autojump_clock: MockClock,
) -> None:
    """Eight claims that find all spares closed wait for one dial each, without any back-off."""
    connector = Impatient({"primary": 0.5}, says_why=True)
    recording = RecordingInstrument()
    async with trio.open_nursery() as nursery:
        async with open_pool(
            nursery, FixedResolver([PRIMARY]), connector, instruments=[recording]
        ) as pool:
            await pool.wait_ready(8)
            await trio.sleep(1)
            begin = trio.current_time()
            waits = []

            async def claim() -> None:
                async with pool.claim():
                    waits.append(trio.current_time() - begin)
                    await trio.sleep(0.01)

            async with trio.open_nursery() as claimants:
                for _ in range(8):
                    claimants.start_soon(claim)
            assert max(waits) <= 2 * 0.005
            assert pool.stats().backends["primary"].failures == 0
    assert len([it for it in recording.events if it.name == "connection_stale"]) >= 8


@pytest.mark.parametrize(
    ("reason", "stale", "failures"),
    [
        (ConnectionResetError, 8, 0),
        (BrokenPipeError, 8, 0),
        (ConnectionError, 8, 0),
        (trio.BrokenResourceError, 8, 0),
        (OSError, 0, 8),
        (ValueError, 0, 8),
    ],
)
async def test_an_idle_connection_that_was_reset_is_no_failure(
    autojump_clock: MockClock, reason: type[Exception], stale: int, failures: int
) -> None:
    """The errors of a reset mean an idle close, though the connector has no word for that."""
    connector = Impatient({"primary": 0.5}, says_why=True, reason=reason)
    recording = RecordingInstrument()
    async with trio.open_nursery() as nursery:
        async with open_pool(
            nursery, FixedResolver([PRIMARY]), connector, instruments=[recording]
        ) as pool:
            await pool.wait_ready(8)
            await trio.sleep(1)
            async with pool.claim(timeout=1):
                stats = pool.stats().backends["primary"]
            assert (stats.stale, stats.failures) == (stale, failures)
            assert isinstance(stats.last_error, reason) == bool(failures)
    names = {it.name for it in recording.events}
    assert ("connection_stale" in names) == bool(stale)
    assert ("connection_broken" in names) == bool(failures)


async def test_a_returned_connection_that_was_reset_is_a_failure(
    autojump_clock: MockClock,
) -> None:
    """A connection that breaks while it is claimed counts against its backend."""
    connector = Impatient({"primary": 0.5}, says_why=True, reason=ConnectionResetError)
    async with trio.open_nursery() as nursery:
        async with open_pool(nursery, FixedResolver([PRIMARY]), connector) as pool:
            async with pool.claim():
                await trio.sleep(1)
            stats = pool.stats().backends["primary"]
            assert stats.failures >= 1
            assert isinstance(stats.last_error, ConnectionResetError)


async def test_a_server_that_closes_at_once_is_a_failure(autojump_clock: MockClock) -> None:
    """A connection that never worked is no idle one: the backend goes into back-off."""
    connector = Impatient({"primary": 0.0}, says_why=True)
    async with trio.open_nursery() as nursery:
        async with open_pool(nursery, FixedResolver([PRIMARY]), connector) as pool:
            await trio.sleep(100)
            assert pool.stats().backends["primary"].failures > 0
            assert connector.dials < 60


class Misused(Connector[Conn]):
    """Connections that are always found misused when they come back."""

    async def connect(self, backend: Backend) -> Conn:
        """Return a connection at once."""
        await trio.lowlevel.checkpoint()
        return Conn(backend)

    def is_broken(self, conn: Conn) -> bool:
        """Complain of what has been used."""
        if conn.used_at < 0:
            raise MisusedConnectionError("3 bytes were left unread")
        return False


async def test_a_body_that_spoils_its_connection_counts_against_nobody(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The holder is named in one WARNING per pool, and the backend has no failure."""
    async with trio.open_nursery() as nursery:
        async with open_pool(nursery, FixedResolver([PRIMARY]), Misused()) as pool:
            for _ in range(3):
                async with pool.claim() as conn:
                    conn.used_at = -1
            await wait_all_tasks_blocked()
            assert pool.stats().backends["primary"].failures == 0
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "3 bytes were left unread" in record.getMessage()
    assert trio.lowlevel.current_task().name in record.getMessage()


@pytest.mark.parametrize("label", [None, "a report"])
async def test_a_reply_that_comes_after_the_return_names_the_holder(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, label: str | None
) -> None:
    """A reply that nobody read is found while the connection is idle; the WARNING says whose."""
    task = trio.lowlevel.current_task().name
    async with trio.open_nursery() as nursery:
        async with open_pool(nursery, FixedResolver([PRIMARY]), Misused()) as pool:
            await pool.wait_ready()
            async with pool.claim(label=label) as conn:
                pass
            conn.used_at = -1
            async with pool.claim(label="the next") as other:
                assert other is not conn
            assert pool.stats().backends["primary"].failures == 0
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert f"task {label or task} gave back" in record.getMessage()


class Server:
    """An echo server that can hang up on all its connections."""

    def __init__(self) -> None:
        self.streams: set[trio.SocketStream] = set()

    async def handle(self, stream: trio.SocketStream) -> None:
        """Echo."""
        self.streams.add(stream)
        with suppress(trio.ClosedResourceError):
            async for data in stream:
                await stream.send_all(data)

    async def hang_up(self, count: int) -> None:
        """Close all connections, when there are that many."""
        while len(self.streams) < count:  # noqa: ASYNC110
            await trio.sleep(0.001)
        for stream in list(self.streams):
            self.streams.discard(stream)
            await stream.aclose()


@pytest.mark.real
async def test_the_idle_watcher_replaces_what_the_server_closes() -> None:
    """A server that closes all idle connections is noticed within 0.1 s, without any claim."""
    server = Server()
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, server.handle, [listener])
            resolver = FixedResolver([listener.socket.getsockname()])
            async with open_pool(nursery, resolver, TcpConnector()) as pool:
                await pool.wait_ready(8)
                (name,) = pool.stats().backends
                # One is in use while all are closed: that one is not the watcher's business.
                async with pool.claim() as stream:
                    await pool.wait_ready(9)
                    await stream.send_all(b"x")
                    assert await stream.receive_some() == b"x"
                    await trio.sleep(0.2)  # so that they have worked
                    await server.hang_up(9)
                    begin = trio.current_time()
                    while pool.stats().backends[name].stale < 8:  # noqa: ASYNC110
                        await trio.sleep(0.001)
                    assert trio.current_time() - begin < 0.1
                    assert pool.stats().backends[name].claimed == 1
                    await pool.wait_ready(9)
                stats = pool.stats().backends[name]
                assert stats.failures == 0
                assert stats.stale == 9  # the one in use is found at its release
            nursery.cancel_scope.cancel()
