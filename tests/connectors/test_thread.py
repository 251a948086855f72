"""`ThreadConnector`: a blocking driver in threads, cancelled and closed at any moment."""

from __future__ import annotations

import gc
import logging
import sqlite3
import threading
from typing import TYPE_CHECKING, Any

import pytest
import trio

from qorb_trio import Backend, FixedResolver, Policy, ThreadConnection, ThreadConnector, open_pool

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.real

A = Backend(("a.test", 1), name="a")


class Driver:
    """A connection that blocks, as a driver's does; a test says until when."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.calls: list[str] = []
        self.interrupted = threading.Event()
        self.entered = threading.Event()
        self.users = 0

    def block(self) -> str:
        """Wait until somebody interrupts."""
        assert self.users == 0, "two threads use one connection"
        assert "close" not in self.calls
        self.users += 1
        try:
            self.calls.append("block")
            self.entered.set()
            assert self.interrupted.wait(10)
            self.interrupted.clear()
            return "done"
        finally:
            self.users -= 1

    def interrupt(self) -> None:
        """End what `block` waits for."""
        self.calls.append("interrupt")
        self.interrupted.set()

    def rollback(self) -> None:
        assert self.users == 0
        self.calls.append("rollback")

    def close(self) -> None:
        assert self.users == 0
        self.calls.append("close")


async def eventually(condition: Callable[[], object]) -> None:
    """Wait until something is true, which a thread does in its own time."""
    with trio.fail_after(5):
        while not condition():  # noqa: ASYNC110 - a thread sets no event of Trio's
            await trio.sleep(0.001)


async def abandon(conn: ThreadConnection[Driver]) -> None:
    """Cancel a call while its thread is in it."""
    driver = conn.driver_connection
    async with trio.open_nursery() as nursery:
        nursery.start_soon(conn.run, Driver.block)
        await eventually(driver.entered.is_set)
        driver.entered.clear()
        nursery.cancel_scope.cancel()


# ----------------------------------------------------------------------------- run


async def test_run_calls_a_function_with_the_drivers_connection() -> None:
    """Arguments go in, the result comes out, and the thread is not the program's own."""
    conn = await ThreadConnector(Driver).connect(A)

    def name(driver: Driver, *more: int) -> tuple[str, tuple[int, ...], bool]:
        here = threading.current_thread() is threading.main_thread()
        return driver.backend.name, more, here

    assert await conn.run(name, 1, 2) == ("a", (1, 2), False)
    assert isinstance(conn.driver_connection, Driver)


async def test_run_raises_what_the_function_raises() -> None:
    """An error is the caller's, and the connection can be used again."""
    conn = await ThreadConnector(Driver).connect(A)

    def fail(driver: Driver) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await conn.run(fail)
    assert await conn.run(lambda driver: 1) == 1


async def test_calls_of_one_connection_take_turns() -> None:
    """Two tasks that share a connection never use it at the same time."""
    conn = await ThreadConnector(Driver).connect(A)
    driver = conn.driver_connection
    results: list[str] = []

    async def call() -> None:
        results.append(await conn.run(Driver.block))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        nursery.start_soon(call)
        for _ in range(2):
            await eventually(driver.entered.is_set)
            driver.entered.clear()
            driver.interrupted.set()
    assert results == ["done", "done"]


async def test_many_connections_block_at_the_same_time() -> None:
    """Each connection has its thread: 60 blocked calls do not wait for each other."""
    connector = ThreadConnector(Driver)
    connections = [await connector.connect(A) for _ in range(60)]
    drivers = [conn.driver_connection for conn in connections]
    async with trio.open_nursery() as nursery:
        for conn in connections:
            nursery.start_soon(conn.run, Driver.block)
        await eventually(lambda: all(driver.entered.is_set() for driver in drivers))
        for driver in drivers:
            driver.interrupted.set()


async def test_no_thread_is_of_the_default_limiter() -> None:
    """A program that has used up Trio's default threads does not stop its connections."""
    default = trio.to_thread.current_default_thread_limiter()
    default.total_tokens = 1
    connector = ThreadConnector(Driver, cancel=Driver.interrupt)
    async with default:
        with trio.fail_after(5):
            conn = await connector.connect(A)
            await abandon(conn)
            await connector.on_recycle(conn)
            await connector.disconnect(conn)


async def test_a_cancelled_run_returns_at_once() -> None:
    """The thread goes on, and the next call waits for it."""
    conn = await ThreadConnector(Driver).connect(A)
    driver = conn.driver_connection
    await abandon(conn)
    assert driver.users == 1
    assert repr(conn) == "<ThreadConnection, busy>"
    with trio.move_on_after(0.02) as scope:
        await conn.run(lambda driver: None)
    assert scope.cancelled_caught
    driver.interrupted.set()
    assert await conn.run(lambda driver: driver.users) == 0
    assert repr(conn) == "<ThreadConnection, idle>"


async def test_a_run_that_is_cancelled_before_it_begins_calls_nothing() -> None:
    """`run` is a checkpoint: a scope that is cancelled already lets nothing happen."""
    conn = await ThreadConnector(Driver).connect(A)
    with trio.CancelScope() as scope:
        scope.cancel()
        await conn.run(Driver.block)
    assert scope.cancelled_caught
    assert conn.driver_connection.calls == []


# ------------------------------------------------------------------------ cleaning


async def test_a_connection_that_was_used_is_rolled_back() -> None:
    """Only a connection that the claimant has used needs cleaning."""
    connector = ThreadConnector(Driver)
    conn = await connector.connect(A)
    assert not connector.needs_recycle(conn)
    await conn.run(lambda driver: None)
    assert connector.needs_recycle(conn)
    assert connector.should_recycle(conn, None)
    await connector.on_recycle(conn)
    assert not connector.needs_recycle(conn)
    driver = conn.driver_connection
    assert driver.calls == ["rollback"]
    assert connector.needs_recycle(conn)  # the driver's connection was taken out


async def test_reset_and_close_can_be_overridden_or_missing() -> None:
    """A driver without ``rollback`` and ``close`` needs neither; a subclass does as it likes."""

    class Custom(ThreadConnector[Driver]):
        def reset_connection(self, connection: Driver) -> None:
            connection.calls.append("reset")

        def close_connection(self, connection: Driver) -> None:
            connection.calls.append("end")

    custom = Custom(Driver)
    conn = await custom.connect(A)
    driver = conn.driver_connection
    await custom.on_recycle(conn)
    await custom.disconnect(conn)
    assert driver.calls == ["reset", "end"]
    plain = ThreadConnector(lambda backend: object())
    other = await plain.connect(A)
    await plain.on_recycle(other)
    await plain.disconnect(other)


async def test_a_cancelled_call_is_cancelled_at_the_driver_and_the_connection_kept() -> None:
    """With `cancel`, cleaning ends the call that was abandoned, and rolls back after it."""
    connector = ThreadConnector(Driver, cancel=Driver.interrupt)
    conn = await connector.connect(A)
    await abandon(conn)
    assert connector.should_recycle(conn, None)
    await connector.on_recycle(conn)
    assert conn.driver_connection.calls == ["block", "interrupt", "rollback"]
    assert not conn._was_cancelled


async def test_a_cancelled_call_without_cancel_closes_the_connection() -> None:
    """Without `cancel`, a connection whose thread is still busy is not kept."""
    connector = ThreadConnector(Driver)
    conn = await connector.connect(A)
    driver = conn.driver_connection
    await abandon(conn)
    assert not connector.should_recycle(conn, None)
    with trio.move_on_after(0.02) as scope:
        await connector.disconnect(conn)
    assert scope.cancelled_caught
    assert driver.calls == ["block"]
    driver.interrupted.set()
    await eventually(lambda: driver.calls == ["block", "close"])


async def cancelled() -> trio.Cancelled:
    """A cancellation, as it ends a body."""
    caught: list[trio.Cancelled] = []
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as exc:
            caught.append(exc)
            raise
    return caught[0]


@pytest.mark.parametrize("cancels", [True, False])
async def test_how_a_claim_ended_decides_what_is_kept(cancels: bool) -> None:
    """An idle connection is kept after a good end, and with `cancel` after a cancellation."""
    connector = ThreadConnector(Driver, cancel=Driver.interrupt if cancels else None)
    conn = await connector.connect(A)
    assert connector.should_recycle(conn, None)
    assert connector.should_recycle(conn, await cancelled()) == cancels
    group = BaseExceptionGroup("two", [await cancelled(), await cancelled()])
    assert connector.should_recycle(conn, group) == cancels
    mixed = BaseExceptionGroup("two", [await cancelled(), ValueError()])
    assert not connector.should_recycle(conn, mixed)
    assert not connector.should_recycle(conn, trio.TooSlowError())
    await abandon(conn)
    conn.driver_connection.interrupted.set()
    await conn.run(lambda driver: None)
    assert connector.should_recycle(conn, trio.TooSlowError()) == cancels


# ------------------------------------------------------------------------- closing


async def test_disconnect_cancels_the_call_and_closes_once() -> None:
    """With `cancel`, a busy connection is closed without waiting for its call."""
    connector = ThreadConnector(Driver, cancel=Driver.interrupt)
    conn = await connector.connect(A)
    driver = conn.driver_connection
    await abandon(conn)
    await connector.disconnect(conn)
    assert driver.calls == ["block", "interrupt", "close"]
    await connector.disconnect(conn)
    assert driver.calls.count("close") == 1


async def test_a_closed_connection_says_so() -> None:
    """After the pool has closed it, a connection calls nothing."""
    connector = ThreadConnector(Driver)
    conn = await connector.connect(A)
    await connector.disconnect(conn)
    with pytest.raises(trio.ClosedResourceError, match="this connection is closed"):
        await conn.run(Driver.block)
    with pytest.raises(trio.ClosedResourceError):
        conn.driver_connection  # noqa: B018 - a property that raises


async def test_a_close_that_raises_is_the_disconnects_error() -> None:
    """The pool hears of a close that failed."""

    def fail(connection: object) -> None:
        raise ZeroDivisionError

    connector = ThreadConnector(lambda backend: backend)
    connector.close_connection = fail  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        await connector.disconnect(await connector.connect(A))


async def test_a_cancel_that_hangs_leaves_the_close_to_the_last_thread() -> None:
    """The driver's connection is closed by the thread that lets go of it last."""
    hang = threading.Event()
    hanging = threading.Event()

    def cancel(driver: Driver) -> None:
        hanging.set()
        assert hang.wait(10)

    connector = ThreadConnector(Driver, cancel=cancel)
    conn = await connector.connect(A)
    driver = conn.driver_connection
    await abandon(conn)
    with trio.move_on_after(0.02) as scope:
        await connector.disconnect(conn)
    assert scope.cancelled_caught
    assert hanging.is_set()
    driver.interrupted.set()
    await eventually(lambda: driver.users == 0)
    assert "close" not in driver.calls
    hang.set()
    await eventually(lambda: driver.calls == ["block", "close"])


async def test_a_close_that_no_task_waits_for_is_logged_if_it_fails(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An error in a thread that was abandoned is a WARNING, and ends nothing."""

    class Fails(ThreadConnector[Driver]):
        def close_connection(self, connection: Driver) -> None:
            super().close_connection(connection)
            raise ZeroDivisionError

    connector = Fails(Driver)
    conn = await connector.connect(A)
    driver = conn.driver_connection
    await abandon(conn)
    with trio.move_on_after(0.01):
        await connector.disconnect(conn)
    driver.interrupted.set()
    await eventually(lambda: caplog.records)
    [record] = caplog.records
    assert (record.name, record.levelno) == ("qorb_trio.connector", logging.WARNING)
    assert "could not close an abandoned connection" in record.getMessage()


# ------------------------------------------------------------------------- opening


async def test_an_open_that_fails_is_the_connects_error() -> None:
    """The driver's error comes out, and `None` is none of its connections."""
    with pytest.raises(ZeroDivisionError):
        await ThreadConnector(lambda backend: 1 // 0).connect(A)
    with pytest.raises(TypeError, match="open must return a connection, not None"):
        await ThreadConnector(lambda backend: None).connect(A)


async def test_a_connect_that_is_cancelled_closes_what_its_thread_opens_later() -> None:
    """The connect returns at once, and the connection is closed as soon as it exists."""
    go, opened = threading.Event(), list[Driver]()

    def slow(backend: Backend) -> Driver:
        assert go.wait(10)
        opened.append(Driver(backend))
        return opened[0]

    with trio.move_on_after(0.02) as scope:
        await ThreadConnector(slow).connect(A)
    assert scope.cancelled_caught
    go.set()
    await eventually(lambda: opened and opened[0].calls == ["close"])


async def test_a_connect_that_is_cancelled_as_it_has_opened_closes_it() -> None:
    """The thread has ended, the task is cancelled in the same instant: a thread closes it."""
    opened: list[Driver] = []
    opening, go = threading.Event(), threading.Event()

    def open_(backend: Backend) -> Driver:
        opening.set()
        assert go.wait(5)
        opened.append(Driver(backend))
        return opened[0]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ThreadConnector(open_).connect, A)
        await eventually(opening.is_set)
        # The loop stands still here, so it cannot hear that the thread has ended.
        go.set()
        threading.Event().wait(0.05)
        assert [driver.calls for driver in opened] == [[]]
        nursery.cancel_scope.cancel()
    await eventually(lambda: opened[0].calls == ["close"])


async def test_opens_that_hang_are_bounded_for_each_backend() -> None:
    """16 threads at most open connections to one backend, and another backend is not delayed."""
    hang = threading.Event()
    begun: list[Backend] = []

    def open_(backend: Backend) -> Driver:
        begun.append(backend)
        if backend == A:
            assert hang.wait(10)
        return Driver(backend)

    connector = ThreadConnector(open_)
    for _ in range(2):  # the threads of those that were cancelled count, too
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(connector.connect, A)
            await eventually(lambda: len(begun) >= 16)
            await trio.sleep(0.02)
            nursery.cancel_scope.cancel()
        assert begun.count(A) == 16
    await connector.connect(Backend(("b.test", 1)))
    hang.set()
    await eventually(lambda: not gc.collect() and not connector._opening)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a.db",), "open must be a function that blocks, not async, not 'a.db'"),
        ((Driver, 7), "cancel must be a function"),
    ],
)
def test_bad_arguments(arguments: tuple[Any, ...], message: str) -> None:
    """Wrong arguments are refused at construction, naming the field."""
    with pytest.raises(TypeError, match=message):
        ThreadConnector(arguments[0], **dict(zip(["cancel"], arguments[1:], strict=False)))


def test_async_functions_are_refused() -> None:
    """A driver that is async needs no threads."""

    async def open_(backend: Backend) -> Driver:
        raise AssertionError("nobody calls it")

    with pytest.raises(TypeError, match="open must be a function that blocks"):
        ThreadConnector(open_)


def test_connections_have_no_public_constructor() -> None:
    """Connections come from the connector."""
    with pytest.raises(TypeError, match=r"qorb_trio\.ThreadConnection has no public constr"):
        ThreadConnection(object())  # type: ignore[arg-type]


# ---------------------------------------------------------------- a driver in a pool

ENDLESS = """
    with recursive n(i) as (select 1 union all select i + 1 from n)
    select count(*) from n
"""


async def test_sqlite_in_a_pool(tmp_path: Path, nursery: trio.Nursery) -> None:
    """Transactions that were not committed are rolled back, endless queries are interrupted."""
    opened: list[sqlite3.Connection] = []

    def open_(backend: Backend) -> sqlite3.Connection:
        opened.append(sqlite3.connect(tmp_path / "a.db", check_same_thread=False))
        return opened[-1]

    def execute(db: sqlite3.Connection, text: str) -> list[Any]:
        return db.execute(text).fetchall()

    connector = ThreadConnector(open_, cancel=sqlite3.Connection.interrupt)
    policy = Policy(spares_wanted=1, max_slots=1)
    resolver = FixedResolver([("sqlite", 1)])
    async with open_pool(nursery, resolver, connector, policy=policy) as pool:
        async with pool.claim() as conn:
            await conn.run(execute, "create table t (x)")
            await conn.run(execute, "insert into t values (1)")
            await conn.run(sqlite3.Connection.commit)
        async with pool.claim() as conn:
            await conn.run(execute, "insert into t values (2)")
        async with pool.claim() as conn:
            assert await conn.run(execute, "select x from t") == [(1,)]
        for _ in range(5):
            with trio.move_on_after(0.02) as scope:
                async with pool.claim() as conn:
                    await conn.run(execute, ENDLESS)
            assert scope.cancelled_caught
            async with pool.claim(timeout=5) as conn:
                assert await conn.run(execute, "select x from t") == [(1,)]
        assert len(opened) == 1
    with pytest.raises(sqlite3.ProgrammingError, match="closed database"):
        opened[0].execute("select 1")
