"""Cancelling anything, at any point, on one connection."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import Any, TypeAlias

import psycopg
import pytest
import trio

from qorb_trio.postgres import PostgresConnection, _cleaning
from tests.postgres.kit import NEEDS_SERVERS, PostgresServer, process, value

pytestmark = NEEDS_SERVERS

Action: TypeAlias = Callable[[PostgresConnection[Any]], Awaitable[object]]


async def sleep(conn: PostgresConnection[Any]) -> None:
    """A query that would take a minute."""
    await conn.execute("SELECT pg_sleep(60)")


async def test_a_cancelled_query_costs_the_caller_nothing(conn: PostgresConnection) -> None:
    """A cancelled query returns at once, and the next one waits until the server has ended it."""
    begin = trio.current_time()
    with trio.move_on_after(0.05):
        await sleep(conn)
    assert trio.current_time() - begin < 0.1
    assert conn.lock.unsettled
    assert await value(conn, "SELECT 1") == 1
    assert trio.current_time() - begin < 1
    assert not conn.lock.unsettled


async def test_the_next_command_is_not_hit_by_the_cancellation(conn: PostgresConnection) -> None:
    """The server has been told before the next command is sent, so no other is cancelled."""
    for _ in range(50):
        with trio.move_on_after(0.001):
            await conn.execute("SELECT pg_sleep(0.0007)")
        assert await value(conn, "SELECT 1 FROM pg_sleep(0.001)") == 1


async def test_a_cancelled_transaction_is_rolled_back(conn: PostgresConnection) -> None:
    """The block that was cancelled has ended, and the same claimant goes on after it."""
    await conn.execute("CREATE TEMP TABLE t (n int)")
    with trio.move_on_after(0.05):
        async with conn.transaction():
            await conn.execute("INSERT INTO t VALUES (1)")
            await sleep(conn)
    async with conn.transaction():
        await conn.execute("INSERT INTO t VALUES (2)")
    assert await value(conn, "SELECT array_agg(n) FROM t") == [2]


async def test_a_cancelled_savepoint_leaves_the_transaction_whole(
    conn: PostgresConnection,
) -> None:
    """Only the inner block is undone."""
    await conn.execute("CREATE TEMP TABLE t (n int)")
    async with conn.transaction():
        await conn.execute("INSERT INTO t VALUES (1)")
        with trio.move_on_after(0.05):
            async with conn.transaction():
                await conn.execute("INSERT INTO t VALUES (2)")
                async with conn.transaction("deeper"):
                    await sleep(conn)
        await conn.execute("INSERT INTO t VALUES (3)")
    assert await value(conn, "SELECT array_agg(n ORDER BY n) FROM t") == [1, 3]


async def test_wait_begins_its_generator_before_it_is_cancelled(
    conn: PostgresConnection,
) -> None:
    """Otherwise psycopg loses count of nested transactions, and the next one fails."""
    for _ in range(3):
        with trio.CancelScope() as scope:
            scope.cancel()
            async with conn.transaction():
                raise AssertionError("it was cancelled before")
        assert scope.cancelled_caught
    with trio.CancelScope() as scope:
        async with conn.transaction():
            scope.cancel()
    begun: list[str] = []

    def generator() -> Any:
        begun.append("begun")
        yield psycopg.waiting.Wait.R

    with trio.CancelScope() as scope:
        scope.cancel()
        await conn.settle()  # the ROLLBACK of before cannot be sent in a cancelled scope
    await conn.settle()
    with trio.CancelScope() as scope:
        scope.cancel()
        await conn.wait(generator())
    assert begun == ["begun"]
    async with conn.transaction():
        assert await value(conn, "SELECT 1") == 1


async def test_a_commit_that_was_sent_is_awaited(
    conn: PostgresConnection, server: PostgresServer
) -> None:
    """Cancelled in its COMMIT, a block is not cancelled on the server any more."""
    server.sql("CREATE TABLE IF NOT EXISTS commits (n int)")
    server.sql("TRUNCATE commits")
    with trio.CancelScope() as scope:
        async with conn.transaction():
            await conn.execute("INSERT INTO commits VALUES (1)")
            scope.cancel()
    assert scope.cancelled_caught
    assert conn.lock.parked
    assert await value(conn, "SELECT count(*) FROM commits") == 1
    assert not conn.lock.parked


async def test_nothing_is_sent_for_a_cancelled_call_later(
    conn: PostgresConnection, server: PostgresServer
) -> None:
    """A statement that waited for its BEGIN when it was cancelled is never sent."""
    server.sql("CREATE TABLE IF NOT EXISTS later (n int)")
    server.sql("TRUNCATE later")
    await conn.set_autocommit(False)
    with trio.CancelScope() as scope:
        scope.cancel()
        await conn.execute("INSERT INTO later VALUES (1)")
    assert scope.cancelled_caught
    await conn.commit()
    assert await value(conn, "SELECT count(*) FROM later") == 0


async def test_a_cancelled_executemany_stops(conn: PostgresConnection) -> None:
    """A cancelled `executemany` reads no more parameters, and the connection can be used."""
    await conn.execute("CREATE TEMP TABLE t (n int)")
    taken = 0

    def numbers() -> Any:
        nonlocal taken
        while True:
            taken += 1
            yield (taken,)

    with trio.move_on_after(0.1):
        await conn.cursor().executemany("INSERT INTO t VALUES (%s)", numbers())
    before = taken
    assert await value(conn, "SELECT count(*) FROM t") <= before
    assert taken == before
    assert conn.info.pipeline_status == psycopg.pq.PipelineStatus.OFF


async def test_a_cancelled_pipeline(conn: PostgresConnection) -> None:
    """After its block, the connection is out of pipeline mode, and each answer is right."""
    for delay in (0.0, 0.001, 0.02):
        with trio.move_on_after(delay):
            async with conn.pipeline():
                for n in range(100):
                    await conn.execute("SELECT %s::int, pg_sleep(0.001)", [n])
        assert [await value(conn, f"SELECT {n}") for n in range(3)] == [0, 1, 2]


async def test_a_pipeline_does_not_go_on_after_a_cancelled_call(
    conn: PostgresConnection,
) -> None:
    """psycopg could not match answers and questions any more, so an error says to leave it."""
    with pytest.raises(psycopg.OperationalError, match="leave its block"):
        async with conn.pipeline():
            with trio.move_on_after(0.02):
                cursor = await conn.execute("SELECT pg_sleep(60)")
                await cursor.fetchone()
            await conn.execute("SELECT 1")
    assert await value(conn, "SELECT 2") == 2


async def test_a_cancelled_copy(conn: PostgresConnection) -> None:
    """In both directions, in the middle of the data."""
    await conn.execute("CREATE TEMP TABLE t (n int)")
    with trio.move_on_after(0.05):
        async with conn.cursor() as cursor, cursor.copy("COPY t FROM STDIN") as copy:
            while True:
                await copy.write("1\n" * 100_000)
    assert await value(conn, "SELECT count(*) FROM t") == 0
    with trio.move_on_after(0.05):
        async with (
            conn.cursor() as cursor,
            cursor.copy("COPY (SELECT generate_series(1, 100000000)) TO STDOUT") as copy,
        ):
            while True:
                await copy.read()
    assert await value(conn, "SELECT 2") == 2


async def test_a_cancelled_stream(conn: PostgresConnection) -> None:
    """In a row, or between two."""
    with trio.move_on_after(0.05):
        async for _ in conn.cursor().stream("SELECT pg_sleep(0.02) FROM generate_series(1, 99)"):
            pass
    assert await value(conn, "SELECT 1") == 1
    with trio.move_on_after(0.05):
        rows: Any = conn.cursor().stream("SELECT generate_series(1, 10000000)")
        async with aclosing(rows):
            await anext(rows)
            await trio.sleep_forever()
    assert await value(conn, "SELECT 2") == 2


@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_stream_that_is_left_without_closing_it(conn: PostgresConnection) -> None:
    """Python closes the generator a moment later, which lets the connection go."""
    async for row in conn.cursor().stream("SELECT generate_series(1, 10000000)"):
        assert row == (1,)
        break
    with trio.fail_after(5):
        assert await value(conn, "SELECT 2") == 2


async def test_psycopg_does_not_warn_of_cancellations(
    conn: PostgresConnection, caplog: pytest.LogCaptureFixture
) -> None:
    """Warnings of psycopg that follow from a cancellation are not logged."""
    with trio.move_on_after(0.02):
        async with conn.pipeline(), conn.transaction():
            cursor = await conn.execute("SELECT pg_sleep(60)")
            await cursor.fetchone()
    with trio.move_on_after(0.02):
        async with conn.transaction(), conn.transaction():
            await sleep(conn)
    await conn.settle()
    assert caplog.records == []
    logging.getLogger("psycopg").warning("error ignored in %s", "a test")
    assert len(caplog.records) == 1


def test_psycopg_warns_outside_of_trio(caplog: pytest.LogCaptureFixture) -> None:
    """A program that uses psycopg in threads too gets its warnings as before."""
    logging.getLogger("psycopg").warning("error ignored in %s", "a thread")
    assert len(caplog.records) == 1


async def test_cancelled_as_it_waits_for_its_turn(conn: PostgresConnection) -> None:
    """A task that shares a connection, and gives up, does not disturb the other."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(value, conn, "SELECT 1 FROM pg_sleep(0.2)")
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(0.02) as scope:
            await conn.execute("SELECT 2")
        assert scope.cancelled_caught
    assert not conn.lock.unsettled
    assert await value(conn, "SELECT 3") == 3


async def test_a_transaction_that_cannot_be_left_closes_the_connection(
    conn: PostgresConnection,
) -> None:
    """Cancelled while another task uses the connection, its end could not be noted."""

    async def query() -> None:
        with pytest.raises(psycopg.OperationalError):
            await sleep(conn)

    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            async with conn.transaction():
                nursery.start_soon(query)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
    assert conn.closed


async def test_a_pipeline_that_cannot_be_left_closes_the_connection(
    conn: PostgresConnection,
) -> None:
    """The same for a pipeline, which psycopg would otherwise believe to go on."""

    async def query() -> None:
        with pytest.raises(psycopg.OperationalError):
            cursor = await conn.execute("SELECT pg_sleep(60)")
            await cursor.fetchone()

    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            async with conn.pipeline():
                nursery.start_soon(query)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
    assert conn.closed


async def test_a_server_that_cannot_be_asked_to_cancel(
    conn: PostgresConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is the next call's, and a later call tries again."""

    async def refuse(request: object) -> None:
        raise psycopg.OperationalError("cancellation failed: refused")

    with trio.move_on_after(0.02):
        async with conn.transaction():
            await sleep(conn)
    with monkeypatch.context() as patch:
        patch.setattr("qorb_trio.postgres._connection.finish_cancelling", refuse)
        with pytest.raises(psycopg.OperationalError, match="refused"):
            await conn.execute("SELECT 1")
        with pytest.raises(psycopg.OperationalError, match="refused"):
            async with conn.transaction():
                pass
    assert await value(conn, "SELECT 2") == 2


async def test_cancelling_takes_too_long(server: PostgresServer) -> None:
    """A server that hangs is not waited for longer than asked."""
    conn = await PostgresConnection.connect(server.conninfo)
    server.freeze()
    try:
        with pytest.raises(psycopg.errors.CancellationTimeout):
            await conn.cancel_safe(timeout=0.05)
        with trio.move_on_after(0.05) as scope:
            await conn.cancel_safe()
        assert scope.cancelled_caught
    finally:
        server.thaw()
    await conn.close()


async def test_closing_under_a_cancellation(server: PostgresServer) -> None:
    """A task that waits for the server to cancel a command gets an error as well."""
    conn = await PostgresConnection.connect(server.conninfo)
    server.freeze()

    async def cancel() -> None:
        with pytest.raises(psycopg.OperationalError, match="cancellation failed"):
            await conn.cancel_safe()

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel)
            await trio.testing.wait_all_tasks_blocked()
            await conn.close()
    finally:
        server.thaw()


async def test_closing_with_work_left(conn: PostgresConnection) -> None:
    """The work that cancelled calls have left is forgotten with the connection."""
    with trio.move_on_after(0.02):
        async with conn.transaction():
            await sleep(conn)
    assert conn.lock.parked
    await conn.close()
    assert not conn.lock.parked
    await conn.settle()
    assert not conn.lock.unsettled


async def test_settling_a_connection_that_is_lost(
    conn: PostgresConnection, server: PostgresServer
) -> None:
    """There is nothing to be cancelled any more, and the next call says that it is closed."""
    pid = await process(conn)
    with trio.move_on_after(0.05):
        async with conn.transaction():
            await sleep(conn)
    server.sql(f"SELECT pg_terminate_backend({pid})")
    await trio.sleep(0.1)
    with pytest.raises(psycopg.OperationalError):
        await conn.execute("SELECT 1")
    assert conn.closed
    with pytest.raises(psycopg.OperationalError, match="closed"):
        await conn.execute("SELECT 1")


# Every public operation, cancelled at every checkpoint.


async def _transaction(conn: PostgresConnection[Any]) -> None:
    async with conn.transaction():
        await conn.execute("SELECT 1")
        async with conn.transaction():
            await conn.execute("SELECT 2")


async def _pipeline(conn: PostgresConnection[Any]) -> None:
    async with conn.pipeline() as pipeline:
        await conn.execute("SELECT 1")
        await pipeline.sync()
        cursor = await conn.execute("SELECT 2")
        await cursor.fetchone()


async def _both(conn: PostgresConnection[Any]) -> None:
    async with conn.pipeline(), conn.transaction():
        await conn.execute("SELECT 1")
        async with conn.transaction():
            await conn.execute("SELECT 2")


async def _executemany(conn: PostgresConnection[Any]) -> None:
    cursor = conn.cursor()
    await cursor.executemany("SELECT %s::int", [(1,), (2,)], returning=True)
    assert await cursor.fetchone() == (1,)


async def _copy_in(conn: PostgresConnection[Any]) -> None:
    async with conn.transaction():
        await conn.execute("CREATE TEMP TABLE c (n int) ON COMMIT DROP")
        async with conn.cursor() as cursor, cursor.copy("COPY c FROM STDIN") as copy:
            await copy.write("1\n" * 300_000)


async def _copy_out(conn: PostgresConnection[Any]) -> None:
    async with (
        conn.cursor() as cursor,
        cursor.copy("COPY (SELECT generate_series(1, 500)) TO STDOUT") as copy,
    ):
        async for _ in copy:
            pass


async def _stream(conn: PostgresConnection[Any]) -> None:
    rows: Any = conn.cursor().stream("SELECT generate_series(1, 20000)", size=5000)
    async with aclosing(rows):
        async for _ in rows:
            pass


async def _server_cursor(conn: PostgresConnection[Any]) -> None:
    async with conn.transaction(), conn.cursor("mine") as cursor:
        await cursor.execute("SELECT * FROM generate_series(1, 10)")
        await cursor.fetchmany(3)
        await cursor.scroll(2)


async def _two_phase(conn: PostgresConnection[Any]) -> None:
    await conn.set_autocommit(False)
    await conn.tpc_begin("sweep")
    await conn.execute("SELECT 1")
    await conn.tpc_rollback()
    await conn.set_autocommit(True)


async def _implicit(conn: PostgresConnection[Any]) -> None:
    await conn.set_autocommit(False)
    await conn.execute("SELECT 1")
    await conn.commit()
    await conn.execute("SELECT 2")
    await conn.rollback()


async def _notifies(conn: PostgresConnection[Any]) -> None:
    await conn.execute("LISTEN sweep")
    await conn.execute("NOTIFY sweep")
    async with aclosing(conn.notifies(timeout=0.01, stop_after=2)) as notes:
        async for _ in notes:
            pass


async def _cancel(conn: PostgresConnection[Any]) -> None:
    await conn.cancel_safe()


ACTIONS: list[Action] = [
    _transaction,
    _pipeline,
    _both,
    _executemany,
    _copy_in,
    _copy_out,
    _stream,
    _server_cursor,
    _two_phase,
    _implicit,
    _notifies,
    _cancel,
]


class CancelAt(trio.abc.Instrument):
    """Cancels a scope as its task is about to take its n-th step."""

    def __init__(self, scope: trio.CancelScope, step: int) -> None:
        self._task = trio.lowlevel.current_task()
        self._scope = scope
        self._left = step
        self.has_cancelled = False

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Count the steps of one task."""
        if task is self._task and not self.has_cancelled:
            self._left -= 1
            if self._left <= 0:
                self.has_cancelled = True
                self._scope.cancel()


async def cancelled_at(step: int, action: Callable[[], Awaitable[object]]) -> bool:
    """Run something and cancel it at a step; return False if it ended before that."""
    with trio.CancelScope() as scope:
        instrument = CancelAt(scope, step)
        if step == 0:
            scope.cancel()
        trio.lowlevel.add_instrument(instrument)
        try:
            await action()
        finally:
            trio.lowlevel.remove_instrument(instrument)
    return step == 0 or instrument.has_cancelled


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.__name__.strip("_"))
async def test_cancelled_at_every_step(action: Action, conn: PostgresConnection) -> None:
    """A connection is as good as new after the pool's cleaning, on the same server process."""
    conn.lock.settings = _cleaning.settings_of(conn)
    pid = await process(conn)
    # The server may answer before anybody waits: then there are fewer steps than at other times.
    step = quick = 0
    with trio.fail_after(60):
        while quick < 5:
            if await cancelled_at(step, partial(action, conn)):
                step += 1
            else:
                quick += 1
            if not conn.lock.two_phase:  # what psycopg knows of those cannot be undone
                await _cleaning.clean(conn)
                assert _cleaning.is_clean(conn)
            else:
                with pytest.raises(psycopg.ProgrammingError):
                    await _cleaning.clean(conn)
                return
            assert await value(conn, f"SELECT {step}") == step
            assert await process(conn) == pid
    assert step > 1


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.__name__.strip("_"))
async def test_the_same_claimant_goes_on_after_a_cancellation(
    action: Action, conn: PostgresConnection
) -> None:
    """Without any cleaning, the next statements get their own answers."""
    if action is _two_phase:
        return  # it stays in progress, as it should
    step = 0
    with trio.fail_after(60):
        while await cancelled_at(step, partial(action, conn)):
            if action is _implicit:
                await conn.rollback()
            assert await value(conn, f"SELECT {step}") == step
            if action is _implicit:
                await conn.rollback()
            async with conn.transaction():
                assert await value(conn, f"SELECT {step}") == step
            step += 1


async def test_settling_cancelled_at_every_step(conn: PostgresConnection) -> None:
    """`settle` continues where it was after any number of cancellations."""
    await conn.execute("CREATE TEMP TABLE t (n int)")
    for step in range(12):
        with trio.move_on_after(0.02):
            async with conn.transaction():
                await conn.execute("INSERT INTO t VALUES (1)")
                await sleep(conn)
        for again in range(step + 1):
            await cancelled_at(again, conn.settle)
        async with conn.transaction():
            assert await value(conn, "SELECT count(*) FROM t") == 0


async def test_connecting_cancelled_at_every_step(server: PostgresServer) -> None:
    """A connect that is cancelled at any step leaves no session behind."""
    step = 0
    name = "connecting"
    conninfo = f"host=localhost port={server.port} user=qorb dbname=postgres"
    connect = partial(PostgresConnection.connect, conninfo, application_name=name)

    async def connect_and_close() -> None:
        conn = await connect()
        await conn.close()

    while await cancelled_at(step, connect_and_close):
        step += 1
    assert step > 3
    with trio.fail_after(5):
        while server.clients(name):  # noqa: ASYNC110 - it is in another process
            await trio.sleep(0.01)
