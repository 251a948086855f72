"""`ContextConnector`: any asynchronous context manager as a connection, on the mock clock."""

from __future__ import annotations

import logging
import math
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio

from qorb_trio import (
    Backend,
    ContextConnector,
    FixedResolver,
    MisusedConnectionError,
    NoBackendsOnlineError,
    Policy,
    StaleConnectionError,
    open_pool,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

A = Backend(("a.test", 1), name="a")


class Client:
    """A client with a nursery of its own; its background task does what a test says."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.failure: Exception | None = None
        self.fail = trio.Event()
        self.hang_up = trio.Event()


class World:
    """The state of the context managers: their delays, their errors, and a log of events."""

    def __init__(self) -> None:
        self.entering = self.leaving = 0.0
        self.fails_to_enter: BaseException | None = None
        self.fails_to_leave: Exception | None = None
        self.log: list[str] = []
        self.clients: list[Client] = []

    @asynccontextmanager
    async def open(self, backend: Backend) -> AsyncIterator[Client]:
        number = len(self.clients) + 1
        task = trio.lowlevel.current_task()
        self.clients.append(Client(number))
        client = self.clients[-1]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.work, client, nursery.cancel_scope)
            await trio.sleep(self.entering)
            if self.fails_to_enter is not None:
                raise self.fails_to_enter
            self.log.append(f"{number} entered")
            try:
                yield client
                await trio.sleep(self.leaving)
                if self.fails_to_leave is not None:
                    raise self.fails_to_leave
                self.log.append(f"{number} left")
            except trio.Cancelled:
                self.log.append(f"{number} cancelled")
                raise
            finally:
                assert trio.lowlevel.current_task() is task
                nursery.cancel_scope.cancel()

    async def work(self, client: Client, scope: trio.CancelScope) -> None:
        """The background task of a client."""
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def hang_up() -> None:
                await client.hang_up.wait()
                scope.cancel()

            await client.fail.wait()
            assert client.failure is not None
            raise client.failure


@pytest.fixture
def world() -> World:
    return World()


# -------------------------------------------------------------------- one connection


async def test_one_task_enters_and_leaves(world: World, autojump_clock: MockClock) -> None:
    """The manager is entered by connect, left by disconnect, each in the same task of its own."""
    async with ContextConnector(world.open) as connector:
        client = await connector.connect(A)
        assert client is world.clients[0]
        assert connector.is_broken(client) is False
        assert connector.fileno(client) is None
        await connector.disconnect(client)
        assert world.log == ["1 entered", "1 left"]


async def test_managers_end_in_any_order(world: World, autojump_clock: MockClock) -> None:
    """Nurseries inside the managers do not get in each other's way."""
    async with ContextConnector(world.open) as connector:
        first, second, third = [await connector.connect(A) for _ in range(3)]
        for client in (second, third, first):
            await connector.disconnect(client)
    assert world.log[3:] == ["2 left", "3 left", "1 left"]


async def test_a_manager_that_cannot_be_entered_is_the_connects_error(
    world: World, autojump_clock: MockClock
) -> None:
    """The manager's exception comes out, without the groups of the nurseries inside."""
    world.fails_to_enter = ConnectionRefusedError("no")
    async with ContextConnector(world.open) as connector:
        with pytest.raises(ConnectionRefusedError, match="no"):
            await connector.connect(A)
        world.fails_to_enter = ExceptionGroup("two", [OSError(1), OSError(2)])
        with pytest.raises(ExceptionGroup, match="two"):
            await connector.connect(A)


async def test_a_manager_that_ends_with_an_error_while_idle_is_the_reason(
    world: World, autojump_clock: MockClock
) -> None:
    """The exception of the client's background task says why the connection is broken."""
    async with ContextConnector(world.open) as connector:
        client = await connector.connect(A)
        client.failure = ConnectionResetError("the keep-alive failed")
        client.fail.set()
        await trio.sleep(1)
        for _ in range(2):
            with pytest.raises(ConnectionResetError, match="the keep-alive failed"):
                connector.is_broken(client)
        await connector.disconnect(client)


async def test_a_manager_that_ends_without_an_error_while_idle_is_stale(
    world: World, autojump_clock: MockClock
) -> None:
    """A client that ends by itself is like a peer that closes."""
    async with ContextConnector(world.open) as connector:
        client = await connector.connect(A)
        client.hang_up.set()
        await trio.sleep(1)
        with pytest.raises(StaleConnectionError, match="context manager has ended"):
            connector.is_broken(client)
        await connector.disconnect(client)
        assert world.log == ["1 entered", "1 cancelled"]


async def test_an_error_that_nobody_asked_about_is_logged_once(
    world: World, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    """A manager that failed during a claim, whose connection is then discarded, is a WARNING."""
    async with ContextConnector(world.open) as connector:
        client = await connector.connect(A)
        client.failure = ValueError("unexpected")
        client.fail.set()
        await trio.sleep(1)
        await connector.disconnect(client)
    [record] = caplog.records
    assert (record.name, record.levelno) == ("qorb_trio.connector", logging.WARNING)
    assert record.getMessage() == "the context manager of a connection to a failed"
    assert record.exc_info is not None
    assert record.exc_info[1] is client.failure


async def test_a_manager_that_fails_as_it_is_left_is_the_disconnects_error(
    world: World, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    """The pool hears of it, and nothing is logged here."""
    world.fails_to_leave = ValueError("no goodbye")
    async with ContextConnector(world.open) as connector:
        client = await connector.connect(A)
        with pytest.raises(ValueError, match="no goodbye"):
            await connector.disconnect(client)
    assert not caplog.records


async def test_a_disconnect_that_is_cancelled_cancels_the_manager(
    world: World, autojump_clock: MockClock
) -> None:
    """A manager that does not end in time is cancelled, and disconnect returns at once."""
    world.leaving = math.inf
    async with ContextConnector(world.open) as connector:
        client = await connector.connect(A)
        with trio.move_on_after(1) as scope:
            await connector.disconnect(client)
        assert scope.cancelled_caught
        await trio.lowlevel.checkpoint()
    assert world.log == ["1 entered", "1 cancelled"]


async def test_an_error_after_a_cancelled_disconnect_is_logged(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    """No task waits for a manager that was cancelled, so its error is logged as a WARNING."""

    @asynccontextmanager
    async def open_(backend: Backend) -> AsyncIterator[Client]:
        try:
            yield Client(1)
            await trio.sleep_forever()
        finally:
            raise ValueError("while cancelled")

    async with ContextConnector(open_) as connector:
        client = await connector.connect(A)
        with trio.move_on_after(1):
            await connector.disconnect(client)
    [record] = caplog.records
    assert "context manager of a connection to a failed" in record.getMessage()


async def test_connections_of_others_are_refused(world: World, autojump_clock: MockClock) -> None:
    """A connection that is closed, or not this connector's, is a ValueError."""
    async with ContextConnector(world.open) as connector:
        client = await connector.connect(A)
        await connector.disconnect(client)
        for other in (client, Client(7)):
            with pytest.raises(ValueError, match="is no open connection of this connector"):
                connector.is_broken(other)
            with pytest.raises(ValueError, match="is no open connection"):
                await connector.disconnect(other)


@pytest.mark.parametrize(
    ("yielded", "message"), [(None, "must yield a connection, not None"), (7, "7, which is in use")]
)
async def test_a_manager_that_yields_no_connection_of_its_own(
    yielded: Any, message: str, autojump_clock: MockClock
) -> None:
    """`None`, and an object that is in use, are errors, and the manager is left."""
    ended = 0

    @asynccontextmanager
    async def open_(backend: Backend) -> AsyncIterator[Any]:
        nonlocal ended
        try:
            yield yielded
        finally:
            ended += 1

    async with ContextConnector(open_) as connector:
        if yielded is not None:
            await connector.connect(A)
        with pytest.raises((TypeError, RuntimeError), match=message):
            await connector.connect(A)
        assert ended == 1


# ------------------------------------------------------------------ cancelled connects


async def test_a_connect_that_is_cancelled_while_it_enters(
    world: World, autojump_clock: MockClock
) -> None:
    """The manager's own clean-up runs before connect returns."""
    world.entering = 5
    async with ContextConnector(world.open) as connector:
        with trio.move_on_after(1) as scope:
            await connector.connect(A)
        assert scope.cancelled_caught
        assert not connector._visits


async def test_a_connect_that_is_cancelled_in_the_instant_in_which_it_had_opened(
    autojump_clock: MockClock,
) -> None:
    """The manager is entered in the step in which connect is cancelled: it is left again."""
    log: list[str] = []
    scope = trio.CancelScope()

    @asynccontextmanager
    async def open_(backend: Backend) -> AsyncIterator[Client]:
        await trio.sleep(1)
        scope.cancel()
        try:
            log.append("entered")
            yield Client(1)
        finally:
            log.append("left")

    async with ContextConnector(open_) as connector:
        with scope:
            await connector.connect(A)
        assert scope.cancelled_caught
        assert log == ["entered", "left"]
        assert not connector._visits
        assert not connector._by_connection


async def test_a_connect_whose_manager_resists_returns_after_a_second(
    world: World, autojump_clock: MockClock
) -> None:
    """The clean-up of a manager that was cancelled delays the pool for a bounded time."""

    @asynccontextmanager
    async def open_(backend: Backend) -> AsyncIterator[Client]:
        try:
            await trio.sleep(100)
            yield Client(1)
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(5)

    began = trio.current_time()
    async with ContextConnector(open_) as connector:
        with trio.move_on_after(1):
            await connector.connect(A)
        assert trio.current_time() - began == pytest.approx(2)
    assert trio.current_time() - began == pytest.approx(6)


# ------------------------------------------------------------- entering and leaving


async def test_unentered_it_says_how_to_enter_it(world: World, autojump_clock: MockClock) -> None:
    """Before and after its block, the connector refuses to connect, and says why."""
    connector = ContextConnector(world.open)
    with pytest.raises(RuntimeError, match=r"not entered: write 'async with ContextConnector\(op"):
        await connector.connect(A)
    async with connector:
        with pytest.raises(RuntimeError, match="entered already"):
            await connector.__aenter__()
    with pytest.raises(RuntimeError, match="is not entered"):
        await connector.connect(A)
    async with connector:
        await connector.disconnect(await connector.connect(A))


async def test_unentered_in_a_pool_the_claim_says_so(
    world: World, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """The claimant's error names the mistake."""
    connector = ContextConnector(world.open)
    async with open_pool(nursery, FixedResolver([A]), connector) as pool:
        with pytest.raises(NoBackendsOnlineError) as caught:
            async with pool.claim(timeout=1):
                raise AssertionError("there is no connection")
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert "is not entered" in str(caught.value.__cause__)


async def test_leaving_exits_in_lifo_order(world: World, autojump_clock: MockClock) -> None:
    """Managers that are still open are left in order, the last one first."""
    world.leaving = 0.1
    async with ContextConnector(world.open) as connector:
        clients = [await connector.connect(A) for _ in range(3)]
    assert world.log[3:] == ["3 left", "2 left", "1 left"]
    with pytest.raises(MisusedConnectionError, match="was left before the pool"):
        connector.is_broken(clients[0])


async def test_leaving_is_bounded(world: World, autojump_clock: MockClock) -> None:
    """All of them together have a second; then they are cancelled."""
    world.leaving = 0.4
    async with ContextConnector(world.open) as connector:
        for _ in range(4):
            await connector.connect(A)
        began = trio.current_time()
    assert trio.current_time() - began == pytest.approx(1)
    assert world.log[4:6] == ["4 left", "3 left"]
    assert sorted(world.log[6:]) == ["1 cancelled", "2 cancelled"]


async def test_leaving_while_cancelled_leaves_in_order_too(
    world: World, autojump_clock: MockClock
) -> None:
    """A cancellation from outside does not tear the managers down before their time."""
    with trio.CancelScope() as scope:
        async with ContextConnector(world.open) as connector:
            client = await connector.connect(A)
            scope.cancel()
            assert connector.is_broken(client) is False
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert world.log == ["1 entered", "1 left"]


async def test_the_blocks_own_exception_comes_out_unchanged(
    world: World, autojump_clock: MockClock
) -> None:
    """The block's exception gets no group and no context; a cancellation takes nothing away."""
    error = ExceptionGroup("of the block", [ValueError()])
    with pytest.raises(ExceptionGroup) as caught:
        async with ContextConnector(world.open) as connector:
            await connector.connect(A)
            raise error
    assert caught.value is error
    assert error.__context__ is None


async def test_a_cancellation_takes_nothing_from_the_blocks_own_exception(
    autojump_clock: MockClock,
) -> None:
    """The nursery is cancelled while it waits for a slow manager; the exception still comes out."""

    @asynccontextmanager
    async def open_(backend: Backend) -> AsyncIterator[Client]:
        yield Client(1)
        with trio.CancelScope(shield=True):
            await trio.sleep(5)

    error = ValueError()
    with trio.CancelScope() as scope, pytest.raises(ValueError) as caught:  # noqa: PT011
        async with ContextConnector(open_) as connector:
            await connector.connect(A)
            scope.cancel()
            raise error
    assert caught.value is error


async def test_an_interrupt_in_a_manager_ends_the_block(
    world: World, autojump_clock: MockClock
) -> None:
    """An interrupt is not kept as a reason: it ends the program."""
    with pytest.raises(BaseExceptionGroup) as caught:
        async with ContextConnector(world.open) as connector:
            await connector.connect(A)
            world.fails_to_enter = KeyboardInterrupt()
            await connector.connect(A)
    assert caught.value.subgroup(KeyboardInterrupt) is not None
    assert world.log == ["1 entered", "1 left"]


# ----------------------------------------------------------------------- in a pool


async def test_in_a_pool(world: World, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Connections are lent, replaced when they end, and left when the pool ends."""
    policy = Policy(spares_wanted=1, max_slots=1)
    async with (
        ContextConnector(world.open) as connector,
        open_pool(nursery, FixedResolver([A]), connector, policy=policy) as pool,
    ):
        await pool.wait_ready()
        [client] = world.clients
        for _ in range(2):
            async with pool.claim() as lent:
                assert lent is client
        client.failure = ConnectionResetError("gone")
        client.fail.set()
        await trio.sleep(0.1)
        async with pool.claim() as lent:
            assert lent.number == 2
    assert world.log == ["1 entered", "1 cancelled", "2 entered", "2 left"]
    assert not connector._visits
    assert not connector._by_connection


async def test_a_cancelled_program_still_leaves_its_managers_in_order(
    world: World, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """The pool closes its connections shielded, and the managers wait for that."""
    with trio.move_on_after(1) as scope:
        async with trio.open_nursery() as inner:
            async with (
                ContextConnector(world.open) as connector,
                open_pool(inner, FixedResolver([A]), connector) as pool,
            ):
                async with pool.claim():
                    await trio.sleep_forever()
    assert scope.cancelled_caught
    entered = [line for line in world.log if "entered" in line]
    assert sorted(world.log) == sorted(entered + [line[:-7] + "left" for line in entered])


def test_bad_arguments() -> None:
    """Wrong functions are refused at construction, with a remedy."""

    async def open_(backend: Backend) -> None:
        raise AssertionError("nobody calls it")

    with pytest.raises(TypeError, match=r"decorate it with contextlib\.asynccontextmanager"):
        ContextConnector(open_)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="open must be a function that takes a Backend, not 7"):
        ContextConnector(7)  # type: ignore[arg-type]
