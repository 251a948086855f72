"""The memory connector: its streams behave like sockets, and a handler's errors come to light."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import check_half_closeable_stream

from qorb_trio import (
    Backend,
    FixedResolver,
    MisusedConnectionError,
    Policy,
    SetConfig,
    StaleConnectionError,
    TcpConnector,
    open_pool,
)
from qorb_trio.testing import ManualResolver, MemoryConnector, MemoryStream, RecordingInstrument

if TYPE_CHECKING:
    from trio.testing import MockClock

A = Backend(("a.test", 1), name="a")


async def echo(stream: MemoryStream, backend: Backend) -> None:
    """Send back all that comes."""
    async for data in stream:
        await stream.send_all(data)


async def until_blocked() -> None:
    """Let the handlers run until they wait."""
    await trio.testing.wait_all_tasks_blocked()


# ---------------------------------------------------------------------------- streams


async def test_a_handler_answers_in_memory(autojump_clock: MockClock) -> None:
    """The handler gets the backend and the other end, and its answers arrive in no time."""

    async def handler(stream: MemoryStream, backend: Backend) -> None:
        assert stream.backend is backend is A
        await trio.sleep(10)
        await stream.send_all((await stream.receive_some()).upper())

    connector = MemoryConnector(handler)
    conn = await connector.connect(A)
    assert connector.open == connector.connections == [conn]
    assert repr(conn) == "<MemoryStream to a, open>"
    began = trio.current_time()
    await conn.send_all(b"hello")
    assert await conn.receive_some() == b"HELLO"
    assert trio.current_time() == began + 10
    assert await conn.receive_some() == b""
    await connector.disconnect(conn)
    assert connector.open == []
    assert repr(conn) == "<MemoryStream to a, closed>"
    connector.assert_all_closed()


async def test_the_streams_obey_trios_rules() -> None:
    """Trio's own checker of half-closeable streams finds nothing."""
    others: list[MemoryStream] = []

    async def handler(stream: MemoryStream, backend: Backend) -> None:
        others.append(stream)
        await trio.sleep_forever()

    connector = MemoryConnector(handler)

    async def pair() -> tuple[MemoryStream, MemoryStream]:
        ours = await connector.connect(A)
        await until_blocked()
        return ours, others[-1]

    await check_half_closeable_stream(pair, None)


async def test_cancelled_receives_and_sends_lose_nothing(autojump_clock: MockClock) -> None:
    """The number of unread bytes is right after operations that were cancelled."""
    rng = random.Random(1)
    connector = MemoryConnector(echo)
    conn = await connector.connect(A)
    sent = received = 0
    for _ in range(200):
        with trio.move_on_after(rng.choice([0, 1])):
            await conn.send_all(b"xyz")
            sent += 3
        await until_blocked()
        assert conn.unread == sent - received
        with trio.move_on_after(rng.choice([0, 1])):
            received += len(await conn.receive_some(rng.randint(1, 5)))
        assert conn.unread == sent - received
    await conn.send_all(memoryview(b"xyz"))
    await conn.wait_send_all_might_not_block()
    await until_blocked()
    assert conn.unread == sent + 3 - received


async def test_a_connect_that_is_cancelled_makes_no_connection() -> None:
    """`connect` is a checkpoint, and nothing is left of it."""
    connector = MemoryConnector(echo)
    with trio.CancelScope() as scope:
        scope.cancel()
        await connector.connect(A)
    assert scope.cancelled_caught
    assert connector.connections == []


# --------------------------------------------------------------------------- reasons


async def test_the_peers_close_is_noticed() -> None:
    """A handler that returns has closed the connection, with or without a last word."""

    async def handler(stream: MemoryStream, backend: Backend) -> None:
        await stream.receive_some()
        await stream.send_all(b"bye")

    connector = MemoryConnector(handler)
    conn = await connector.connect(A)
    assert connector.is_broken(conn) is False
    assert connector.fileno(conn) is None
    await conn.send_all(b"x")
    await until_blocked()
    with pytest.raises(StaleConnectionError, match=r"closed by the peer, after 3 unread bytes$"):
        connector.is_broken(conn)
    await conn.receive_some()
    with pytest.raises(StaleConnectionError, match=r"closed by the peer$"):
        connector.is_broken(conn)
    with pytest.raises(trio.BrokenResourceError) as caught:
        await conn.send_all(b"x")
    assert "handler" not in str(caught.value)


async def test_the_peers_half_close_is_noticed() -> None:
    """The end of the peer's sending is noticed while the peer still receives."""

    async def handler(stream: MemoryStream, backend: Backend) -> None:
        await stream.send_eof()
        await stream.receive_some()

    connector = MemoryConnector(handler)
    conn = await connector.connect(A)
    await until_blocked()
    with pytest.raises(StaleConnectionError, match="closed by the peer"):
        connector.is_broken(conn)
    await conn.send_all(b"x")


async def test_misuse_is_noticed() -> None:
    """Unread bytes, a half-close and a close are the claimant's doing."""
    connector = MemoryConnector(echo)
    conn = await connector.connect(A)
    await conn.send_all(b"ab")
    await until_blocked()
    with pytest.raises(MisusedConnectionError, match="has 2 unread bytes"):
        connector.is_broken(conn)
    await conn.receive_some()
    await conn.send_eof()
    with pytest.raises(MisusedConnectionError, match="was half closed by this program"):
        connector.is_broken(conn)
    await conn.aclose()
    with pytest.raises(MisusedConnectionError, match="was closed by this program"):
        connector.is_broken(conn)


# -------------------------------------------------------------------- handlers that fail


async def failing(stream: MemoryStream, backend: Backend) -> None:
    """Fail in the middle of an exchange."""
    await stream.receive_some()
    raise ZeroDivisionError("in the handler")


async def test_a_handlers_error_comes_out_at_the_other_end() -> None:
    """Receiving, sending and `is_broken` name the error, and have it as their cause."""
    connector = MemoryConnector(failing)
    conn = await connector.connect(A)
    await conn.send_all(b"x")
    text = r"the handler of a raised ZeroDivisionError\('in the handler'\)"
    with pytest.raises(trio.BrokenResourceError, match=text) as received:
        await conn.receive_some()
    with pytest.raises(trio.BrokenResourceError, match=text) as sent:
        await conn.send_all(b"x")
    with pytest.raises(ConnectionError, match=text) as broken:
        connector.is_broken(conn)
    for caught in (received, sent, broken):
        assert caught.value.__cause__ is connector.failures[0]


async def test_assert_all_closed_raises_handlers_errors() -> None:
    """A test that ends with it fails for an error that nobody noticed."""
    connector = MemoryConnector(failing)
    conn = await connector.connect(A)
    await conn.send_all(b"x")
    await until_blocked()
    with pytest.raises(AssertionError, match=r"of a raised .*; <MemoryStream to a, open> was not"):
        connector.assert_all_closed()
    await connector.disconnect(conn)
    with pytest.raises(AssertionError, match="the handler of a raised") as caught:
        connector.assert_all_closed()
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("nested", [False, True])
async def test_a_client_that_hangs_up_is_no_failure_of_the_handler(nested: bool) -> None:
    """A handler may send to a client that has gone, as servers do."""

    async def handler(stream: MemoryStream, backend: Backend) -> None:
        await stream.receive_some()
        if nested:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.send_all, b"x")
        await stream.send_all(b"x")

    connector = MemoryConnector(handler)
    conn = await connector.connect(A)
    await conn.aclose()
    await until_blocked()
    connector.assert_all_closed()


async def test_pytest_fail_in_a_handler() -> None:
    """The exception that fails a test is kept like any other, and ends no program."""

    async def handler(stream: MemoryStream, backend: Backend) -> None:
        pytest.fail("an unexpected request")

    connector = MemoryConnector(handler)
    conn = await connector.connect(A)
    with pytest.raises(trio.BrokenResourceError, match="an unexpected request"):
        await conn.receive_some()


async def test_a_handler_that_is_not_async() -> None:
    """A plain function is an error that says so, at the first connection."""
    connector = MemoryConnector(lambda stream, backend: 7)  # type: ignore[arg-type, return-value]
    conn = await connector.connect(A)
    with pytest.raises(trio.BrokenResourceError, match="handler must be async; it returned 7"):
        await conn.receive_some()
    with pytest.raises(TypeError, match="handler must be an async function, not 7"):
        MemoryConnector(7)  # type: ignore[arg-type]


def test_handlers_that_are_left_end_with_the_run() -> None:
    """A handler that waits for ever is cancelled, and may clean up."""
    ended: list[str] = []

    async def handler(stream: MemoryStream, backend: Backend) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
        finally:
            ended.append(backend.name)

    async def main() -> None:
        await MemoryConnector(handler).connect(A)
        await until_blocked()

    trio.run(main)
    assert ended == ["a"]


# --------------------------------------------------------------------------- in a pool


async def test_in_a_pool(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A pool lends, checks and closes the streams, and replaces those that the peer closed."""
    hang_up = trio.Event()

    async def handler(stream: MemoryStream, backend: Backend) -> None:
        async with trio.open_nursery() as inner:

            @inner.start_soon
            async def talk() -> None:
                await echo(stream, backend)
                inner.cancel_scope.cancel()

            await hang_up.wait()
            inner.cancel_scope.cancel()

    connector = MemoryConnector(handler)
    policy = Policy(spares_wanted=1, max_slots=1)
    async with open_pool(nursery, FixedResolver([A]), connector, policy=policy) as pool:
        for _ in range(2):
            async with pool.claim() as conn:
                await conn.send_all(b"x")
                assert await conn.receive_some() == b"x"
        assert len(connector.connections) == 1
        hang_up.set()
        await until_blocked()
        hang_up = trio.Event()
        async with pool.claim() as conn:
            await conn.send_all(b"y")
            assert await conn.receive_some() == b"y"
        assert len(connector.connections) == 2
    connector.assert_all_closed()


class PingConnector(TcpConnector):
    """A user's connector: it says hello, and checks connections by a ping."""

    async def connect(self, backend: Backend) -> trio.SocketStream:
        conn = await super().connect(backend)
        await self.ask(conn, b"HELLO")
        return conn

    async def is_valid(self, conn: trio.SocketStream) -> bool:
        return await self.ask(conn, b"PING") == b"PONG"

    @staticmethod
    async def ask(conn: trio.SocketStream, request: bytes) -> bytes | bytearray:
        await conn.send_all(request)
        return await conn.receive_some()


class OwnInit(PingConnector):
    """A user's connector with a constructor that does not call its base's."""

    def __init__(self) -> None:
        self.name = "own"


async def test_a_subclass_of_TcpConnector_is_tested_in_memory(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """The user's own methods run as they are, on streams in memory, in virtual time."""
    silent = False
    requests: list[bytes] = []

    async def handler(stream: MemoryStream, backend: Backend) -> None:
        async for data in stream:
            requests.append(bytes(data))
            if not silent:
                await stream.send_all({b"HELLO": b"OK", b"PING": b"PONG"}[bytes(data)])

    memory = MemoryConnector(handler)
    connector = PingConnector(streams=memory)
    config = SetConfig(health_interval=10, health_check_timeout=1)
    policy = Policy(spares_wanted=1, max_slots=1, set_config=config)
    resolver, recording = ManualResolver([A]), RecordingInstrument()
    async with open_pool(
        nursery, resolver, connector, policy=policy, instruments=[recording]
    ) as pool:
        await pool.wait_ready()
        assert connector.fileno(memory.open[0]) is None  # type: ignore[arg-type]
        await trio.sleep(25)
        assert requests[:2] == [b"HELLO", b"PING"]
        silent = True
        await recording.wait_for("health_check_failed")
        silent = False
        await pool.wait_ready()
        assert len(memory.connections) == 2
    memory.assert_all_closed()


async def test_streams_must_be_a_connector() -> None:
    """A class, or anything else, in place of a connector is a TypeError."""
    wrong: Any
    for wrong in (MemoryConnector, "memory"):
        with pytest.raises(TypeError, match="streams must be a Connector"):
            TcpConnector(streams=wrong)


def test_a_subclass_with_its_own_constructor_uses_tcp() -> None:
    """A constructor that was written before there was `streams` still works."""
    assert OwnInit()._streams is None
