"""Everything that psycopg's asynchronous connections can do, on Trio."""

from __future__ import annotations

import random
from collections.abc import Generator
from contextlib import aclosing
from decimal import Decimal
from typing import Any

import psycopg
import pytest
import trio
from psycopg.abc import PQGen
from psycopg.adapt import AdaptersMap
from psycopg.rows import dict_row
from psycopg.types.numeric import FloatLoader
from psycopg.waiting import Ready, Wait

from qorb_trio.postgres import PostgresConnection
from qorb_trio.postgres._exchange import Rest
from tests.postgres.kit import NEEDS_SERVERS, PostgresServer, process, value

pytestmark = NEEDS_SERVERS


async def test_a_query_returns_its_rows(conn: PostgresConnection) -> None:
    """Parameters, rows, and iteration work as in psycopg."""
    cursor = await conn.execute("SELECT n, n * %s FROM generate_series(1, 3) AS n", [10])
    assert [row async for row in cursor] == [(1, 10), (2, 20), (3, 30)]
    assert cursor.rowcount == 3


async def test_another_task_runs_while_a_query_does(conn: PostgresConnection) -> None:
    """A query that sleeps on the server holds up nobody."""
    done: list[str] = []

    async def query() -> None:
        await conn.execute("SELECT pg_sleep(0.3)")
        done.append("query")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(query)
        await trio.sleep(0.05)
        done.append("other")
    assert done == ["other", "query"]


async def test_two_tasks_take_turns_on_one_connection(conn: PostgresConnection) -> None:
    """The lock serves them in order, and each gets its own answer."""
    answers: list[int] = []

    async def query(number: int) -> None:
        answers.append(await value(conn, f"SELECT {number} FROM pg_sleep(0.02)"))

    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(query, number)
            await trio.sleep(0.002)
    assert answers == [0, 1, 2, 3, 4]
    assert not conn.lock.locked()


async def test_transactions_commit_and_roll_back(conn: PostgresConnection) -> None:
    """A block commits at its end, and rolls back for an exception, which comes out."""
    await conn.execute("CREATE TEMP TABLE t (n int)")
    async with conn.transaction():
        await conn.execute("INSERT INTO t VALUES (1)")
    with pytest.raises(KeyError):
        async with conn.transaction():
            await conn.execute("INSERT INTO t VALUES (2)")
            raise KeyError("mine")
    async with conn.transaction(force_rollback=True):
        await conn.execute("INSERT INTO t VALUES (3)")
    async with conn.transaction() as block:
        await conn.execute("INSERT INTO t VALUES (4)")
        leave(block)
    assert await value(conn, "SELECT array_agg(n) FROM t") == [1]


def leave(block: psycopg.AsyncTransaction) -> None:
    """Roll a block back from within."""
    raise psycopg.Rollback(block)


async def test_savepoints(conn: PostgresConnection) -> None:
    """A block within a block is a savepoint, named or not."""
    await conn.execute("CREATE TEMP TABLE t (n int)")
    async with conn.transaction():
        await conn.execute("INSERT INTO t VALUES (1)")
        with pytest.raises(psycopg.errors.DivisionByZero):
            async with conn.transaction("mine"):
                await conn.execute("INSERT INTO t VALUES (2)")
                await conn.execute("SELECT 1 / 0")
        async with conn.transaction():
            await conn.execute("INSERT INTO t VALUES (3)")
    assert await value(conn, "SELECT array_agg(n ORDER BY n) FROM t") == [1, 3]


async def test_without_autocommit(server: PostgresServer) -> None:
    """psycopg begins a transaction at the first statement; commit and rollback end it."""
    conn = await PostgresConnection.connect(server.conninfo)
    await conn.execute("CREATE TEMP TABLE t (n int)")
    await conn.commit()
    await conn.execute("INSERT INTO t VALUES (1)")
    await conn.rollback()
    assert await value(conn, "SELECT count(*) FROM t") == 0
    await conn.rollback()
    await conn.set_isolation_level(psycopg.IsolationLevel.SERIALIZABLE)
    await conn.set_read_only(True)
    await conn.set_deferrable(True)
    assert await value(conn, "SHOW transaction_isolation") == "serializable"
    await conn.close()


async def test_the_connection_as_a_context_manager(server: PostgresServer) -> None:
    """The end of the block commits and closes the connection, as in psycopg."""
    async with await PostgresConnection.connect(server.conninfo) as conn:
        assert await value(conn, "SELECT 1") == 1
    assert (conn.closed, conn.broken) == (True, False)


async def test_pipeline(conn: PostgresConnection) -> None:
    """Commands are sent without waiting for the answers in between."""
    async with conn.pipeline() as pipeline:
        cursors = [await conn.execute("SELECT %s::int", [n]) for n in range(200)]
        await pipeline.sync()
        last = await conn.execute("SELECT 'last'")
    assert [await cursor.fetchone() for cursor in cursors] == [(n,) for n in range(200)]
    assert await last.fetchone() == ("last",)
    assert conn.info.pipeline_status == psycopg.pq.PipelineStatus.OFF


async def test_a_transaction_in_a_pipeline(conn: PostgresConnection) -> None:
    """Blocks nest in either way."""
    await conn.execute("CREATE TEMP TABLE t (n int)")
    async with conn.pipeline(), conn.transaction():
        await conn.execute("INSERT INTO t VALUES (1)")
        async with conn.transaction():
            await conn.execute("INSERT INTO t VALUES (2)")
    assert await value(conn, "SELECT count(*) FROM t") == 2


async def test_an_error_in_a_pipeline(conn: PostgresConnection) -> None:
    """The statement that fails raises, and the connection can be used after the block."""
    with pytest.raises(psycopg.errors.DivisionByZero):
        async with conn.pipeline():
            await conn.execute("SELECT 1 / 0")
            await conn.execute("SELECT 1")
    assert await value(conn, "SELECT 2") == 2


async def test_executemany(conn: PostgresConnection) -> None:
    """`executemany` uses a pipeline of its own, and can return rows."""
    await conn.execute("CREATE TEMP TABLE t (n int)")
    async with conn.cursor() as cursor:
        await cursor.executemany("INSERT INTO t VALUES (%s)", [(n,) for n in range(2000)])
        assert cursor.rowcount == 2000
        await cursor.executemany(
            "INSERT INTO t VALUES (%s) RETURNING n", [(-1,), (-2,)], returning=True
        )
        found = [await cursor.fetchone() async for _ in cursor.results()]
    assert found == [(-1,), (-2,)]
    assert await value(conn, "SELECT count(*) FROM t") == 2002


async def test_copy_both_ways(conn: PostgresConnection) -> None:
    """COPY of megabytes to the server and back, row by row."""
    await conn.execute("CREATE TEMP TABLE t (n int, text text)")
    rows = [(n, "x" * 500) for n in range(5000)]
    async with conn.cursor() as cursor, cursor.copy("COPY t FROM STDIN") as copy:
        for row in rows:
            await copy.write_row(row)
    found = []
    async with conn.cursor() as cursor, cursor.copy("COPY t TO STDOUT") as copy:
        copy.set_types(["int4", "text"])
        async for record in copy.rows():
            found.append(record)  # noqa: PERF401 - it is a generator with clean-up
    assert found == rows


async def test_a_timeout_covers_all_steps_of_an_operation(conn: PostgresConnection) -> None:
    """An operation that waits several times within its timeout goes on to its end."""

    def operation() -> PQGen[list[int]]:
        return [(yield Wait.W), (yield Wait.RW)]

    assert await conn.wait(operation(), timeout=5) == [Ready.W, Ready.W]


async def test_a_long_copy_lets_other_tasks_run(conn: PostgresConnection) -> None:
    """Rows that go into a buffer do not wait, and yet the other tasks get their turns."""
    await conn.execute("CREATE TEMP TABLE t (n int)")
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count_turns)
        async with conn.cursor() as cursor, cursor.copy("COPY t FROM STDIN") as copy:
            before = turns
            for n in range(6400):
                await copy.write(f"{n}\n")
            assert turns - before >= 99
        nursery.cancel_scope.cancel()


async def test_copy_can_be_broken_off(conn: PostgresConnection) -> None:
    """An exception in a COPY block undoes it, in both directions."""
    await conn.execute("CREATE TEMP TABLE t (n int)")
    with pytest.raises(KeyError):
        async with conn.cursor() as cursor, cursor.copy("COPY t FROM STDIN") as copy:
            await copy.write_row((1,))
            raise KeyError
    with pytest.raises(KeyError):
        async with (
            conn.cursor() as cursor,
            cursor.copy("COPY (SELECT generate_series(1, 1000000)) TO STDOUT") as copy,
        ):
            await copy.read()
            raise KeyError
    assert await value(conn, "SELECT count(*) FROM t") == 0


async def test_a_large_statement_fills_the_socket(conn: PostgresConnection) -> None:
    """The part that does not fit into the socket's buffer is sent as the server reads."""
    text = "".join(random.Random(1).choices("abcdef", k=8_000_000))
    cursor = await conn.execute("SELECT length(%s), repeat('y', 5000000)", [text])
    row = await cursor.fetchone()
    assert row is not None
    assert (row[0], len(row[1])) == (8_000_000, 5_000_000)


async def test_stream(conn: PostgresConnection) -> None:
    """Rows arrive one by one, and a stream that is left early does no harm."""
    cursor = conn.cursor()
    rows: Any = cursor.stream("SELECT * FROM generate_series(1, 100000)")
    async with aclosing(rows):
        assert [await anext(rows) for _ in range(3)] == [(1,), (2,), (3,)]
    total = 0
    async for row in cursor.stream("SELECT * FROM generate_series(1, 100000)", size=1000):
        total += row[0]
    assert total == 5000050000
    assert await value(conn, "SELECT 2") == 2


async def test_waiting_to_send(server: PostgresServer) -> None:
    """A statement that the server does not read is waited for, cancelled or closed under."""
    for ending in ("cancel", "close", "thaw"):
        conn = await PostgresConnection.connect(server.conninfo, autocommit=True)
        server.freeze()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send_megabytes, conn, ending)
                await trio.sleep(0.2)
                if ending == "cancel":
                    nursery.cancel_scope.cancel()
                elif ending == "close":
                    await conn.close()
                else:
                    server.thaw()
        finally:
            server.thaw()
        if ending != "close":
            assert await value(conn, "SELECT 1") == 1
        await conn.close()


async def test_a_server_that_reads_late_after_a_cancellation(server: PostgresServer) -> None:
    """The rest of a command is sent in several attempts, as long as the server does not read."""
    conn = await PostgresConnection.connect(server.conninfo, autocommit=True)
    server.freeze()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_megabytes, conn, "cancel")
            await trio.sleep(0.1)
            nursery.cancel_scope.cancel()
        for _ in range(2):
            with trio.move_on_after(0.1) as scope:
                await conn.settle()
            assert scope.cancelled_caught
    finally:
        server.thaw()
    assert await value(conn, "SELECT 1") == 1
    await conn.close()


async def send_megabytes(conn: PostgresConnection, ending: str) -> None:
    """Send more than fits into the buffers of a socket."""
    if ending == "close":
        with pytest.raises(psycopg.OperationalError, match="closed while it was in use"):
            await conn.execute("SELECT length(%s)", ["x" * 20_000_000])
    else:
        await conn.execute("SELECT length(%s)", ["x" * 20_000_000])


@pytest.mark.parametrize("size", [1, 10])
async def test_a_pipeline_after_a_stream(conn: PostgresConnection, size: int) -> None:
    """libpq stays in single-row mode after a stream, which a pipeline must not notice."""
    async for _ in conn.cursor().stream("SELECT generate_series(1, 20)", size=size):
        pass
    async with conn.pipeline():
        cursor = await conn.execute("SELECT 1")
        assert await cursor.fetchone() == (1,)
    async for _ in conn.cursor().stream("SELECT generate_series(1, 20)", size=size):
        pass
    cursor = conn.cursor()
    await cursor.executemany("SELECT %s::int", [(2,)], returning=True)
    assert await cursor.fetchone() == (2,)


async def test_a_server_cursor(conn: PostgresConnection) -> None:
    """A cursor with a name fetches in portions."""
    async with conn.transaction(), conn.cursor("mine") as cursor:
        await cursor.execute("SELECT * FROM generate_series(1, 1000)")
        assert await cursor.fetchone() == (1,)
        assert len(await cursor.fetchmany(10)) == 10
        await cursor.scroll(89)
        assert await cursor.fetchone() == (101,)
        assert len([row async for row in cursor]) == 899


async def test_listen_and_notify(conn: PostgresConnection, server: PostgresServer) -> None:
    """Notifications arrive, and the wait for them can be limited or cancelled."""
    await conn.execute("LISTEN news")
    assert [note async for note in conn.notifies(timeout=0)] == []
    server.sql("SELECT pg_notify('news', n::text) FROM generate_series(1, 2) AS n")
    found = [note async for note in conn.notifies(timeout=2, stop_after=2)]
    assert [(note.channel, note.payload) for note in found] == [("news", "1"), ("news", "2")]
    begin = trio.current_time()
    assert [note async for note in conn.notifies(timeout=0.1)] == []
    assert 0.09 < trio.current_time() - begin < 1
    with trio.move_on_after(0.05) as scope:
        async with aclosing(conn.notifies()) as notes:
            async for _ in notes:
                raise AssertionError
    assert scope.cancelled_caught
    # Nothing was in progress, so nothing is left to be settled.
    assert not conn.lock.unsettled
    assert await value(conn, "SELECT 1") == 1


async def test_many_notifications_that_have_arrived(
    conn: PostgresConnection, server: PostgresServer
) -> None:
    """Each is taken from the socket by a call that does not wait."""
    await conn.execute("LISTEN news")
    with psycopg.connect(server.conninfo, autocommit=True) as other:
        for number in range(80):
            other.execute("SELECT pg_notify('news', %s)", [str(number)])
            await trio.lowlevel.wait_readable(conn.fileno())
            found = [note.payload async for note in conn.notifies(timeout=5, stop_after=1)]
            assert found == [str(number)]


async def test_a_notification_wakes_the_waiting_task(
    conn: PostgresConnection, server: PostgresServer
) -> None:
    """A notification arrives while the task waits, with or without a timeout."""
    await conn.execute("LISTEN news")
    found: list[str] = []

    async def listen(timeout: float | None) -> None:
        async for note in conn.notifies(timeout=timeout, stop_after=1):
            found.append(note.payload)  # noqa: PERF401 - a generator with clean-up

    for timeout in (None, 5.0):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen, timeout)
            await trio.testing.wait_all_tasks_blocked()
            await trio.to_thread.run_sync(server.sql, "NOTIFY news, 'now'")
    assert found == ["now", "now"]


async def test_notices(conn: PostgresConnection) -> None:
    """A handler hears the server's notices."""
    heard: list[str | None] = []
    conn.add_notice_handler(lambda notice: heard.append(notice.message_primary))
    await conn.execute("DO $$ BEGIN RAISE NOTICE 'careful'; END $$")
    assert heard == ["careful"]
    assert conn.lock.farewell.error is None


async def test_row_factories(server: PostgresServer) -> None:
    """A row factory can be chosen for a connection or for a cursor."""
    conn = await PostgresConnection.connect(
        server.conninfo, row_factory=dict_row, cursor_factory=psycopg.AsyncClientCursor
    )
    cursor = await conn.execute("SELECT 1 AS one")
    assert await cursor.fetchone() == {"one": 1}
    assert isinstance(cursor, psycopg.AsyncClientCursor)
    async with conn.cursor(row_factory=psycopg.rows.tuple_row) as other:
        await other.execute("SELECT 2")
        assert await other.fetchone() == (2,)
    await conn.close()


async def test_adapters_of_a_context(server: PostgresServer, conn: PostgresConnection) -> None:
    """A context's adapters are copied; what the connection registers is its own."""
    context = AdaptersMap(psycopg.adapters)
    context.register_loader("numeric", FloatLoader)
    mine = await PostgresConnection.connect(server.conninfo, context=context)
    assert isinstance(await value(mine, "SELECT 1.5"), float)
    assert isinstance(await value(conn, "SELECT 1.5"), Decimal)
    assert mine.adapters is mine.adapters
    assert mine.adapters is not context
    await mine.close()


async def test_statements_are_prepared(server: PostgresServer) -> None:
    """``prepare_threshold`` says from which execution on."""
    conn = await PostgresConnection.connect(server.conninfo, autocommit=True, prepare_threshold=2)
    count = "SELECT count(*) FROM pg_prepared_statements"
    for _ in range(4):
        await conn.execute("SELECT %s::int", [1])
    assert await value(conn, count) == 1
    await conn.close()


async def test_two_phase_transactions(conn: PostgresConnection, server: PostgresServer) -> None:
    """A prepared transaction is committed later, by name."""
    await conn.set_autocommit(False)
    server.sql("CREATE TABLE IF NOT EXISTS two_phase (n int)")
    xid = conn.xid(1, "qorb", "test")
    await conn.tpc_begin(xid)
    await conn.execute("INSERT INTO two_phase VALUES (1)")
    await conn.tpc_prepare()
    await conn.tpc_commit()
    assert server.sql("SELECT n FROM two_phase") == [(1,)]


async def test_cancel_safe(conn: PostgresConnection) -> None:
    """Another task can cancel a query; without a query it does nothing."""
    await conn.cancel_safe()

    async def query() -> None:
        with pytest.raises(psycopg.errors.QueryCanceled):
            await conn.execute("SELECT pg_sleep(60)")

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(query)
            await trio.sleep(0.05)
            await conn.cancel_safe(timeout=0)
    assert await value(conn, "SELECT 1") == 1


async def test_closing_under_a_query(conn: PostgresConnection) -> None:
    """A task whose connection is closed under it gets an error at once."""

    async def query() -> None:
        with pytest.raises(psycopg.OperationalError, match="closed while it was in use"):
            await conn.execute("SELECT pg_sleep(60)")

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(query)
            await trio.testing.wait_all_tasks_blocked()
            await conn.close()
    assert conn.closed
    await conn.close()
    await conn.cancel_safe()
    with pytest.raises(psycopg.OperationalError, match="closed"):
        await conn.execute("SELECT 1")


async def test_a_server_that_ends_the_session(
    conn: PostgresConnection, server: PostgresServer
) -> None:
    """The command that runs fails with the server's reason."""
    pid = await process(conn)

    async def query() -> None:
        with pytest.raises(psycopg.errors.AdminShutdown, match="administrator"):
            await conn.execute("SELECT pg_sleep(60)")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(query)
        await trio.sleep(0.05)
        server.sql(f"SELECT pg_terminate_backend({pid})")
    assert conn.broken


def test_the_rest_of_an_operation_is_told_when_nothing_is_ready() -> None:
    """An operation that has begun is sent 0, not `None`, which psycopg's compiled ones refuse."""
    sent: list[object] = []

    def operation() -> Generator[int, int, None]:
        sent.append((yield 1))
        sent.append((yield 2))
        yield 3

    begun = operation()
    next(begun)
    rest = Rest(begun, has_begun=True)
    assert [rest.step(0), rest.step(1)] == [2, 3]
    assert sent == [0, 1]
    assert Rest(operation()).step(0) == 1
