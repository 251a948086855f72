"""`PostgresConnector` in a pool, over real servers."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

import psycopg
import pytest
import trio
import trustme
from psycopg.rows import dict_row

import qorb_trio
from qorb_trio import Backend
from qorb_trio.postgres import PostgresConnection, PostgresConnector
from tests.harness.answering import answering_server
from tests.postgres.kit import (
    NEEDS_SERVERS,
    USER,
    PostgresServer,
    new_application,
    postgres_pool,
    postgres_server,
    process,
    until,
    value,
)

pytestmark = NEEDS_SERVERS


async def opened(
    server: PostgresServer, **kwargs: Any
) -> tuple[PostgresConnector[Any], PostgresConnection[Any]]:
    """A connector, and a connection by it."""
    connector = PostgresConnector(USER, **kwargs)
    return connector, await connector.connect(Backend(server.address))


async def closed(connector: PostgresConnector[Any], conn: PostgresConnection[Any]) -> None:
    """Close it as the pool would."""
    await connector.disconnect(conn)
    assert conn.closed


# Claims.


async def test_claims_keep_their_session(server: PostgresServer) -> None:
    """A clean connection is lent again, and needs no cleaning in between."""
    async with postgres_pool(server, slots=1) as pool:
        pids = set()
        for _ in range(5):
            async with pool.claim() as conn:
                pids.add(await process(conn))
                assert await value(conn, "SELECT 1") == 1
        assert len(pids) == 1


@pytest.mark.parametrize("autocommit", [True, False])
async def test_an_open_transaction_is_rolled_back(
    server: PostgresServer, autocommit: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The next claimant finds neither the transaction nor its rows, and a warning says so."""
    server.sql("CREATE TABLE IF NOT EXISTS left_open (n int)")
    async with postgres_pool(server, slots=1, autocommit=autocommit) as pool:
        pids = set()
        for _ in range(2):
            async with pool.claim() as conn:
                if autocommit:
                    await conn.execute("BEGIN")
                await conn.execute("INSERT INTO left_open VALUES (1)")
                pids.add(await process(conn))
        async with pool.claim() as conn:
            assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
            assert await value(conn, "SELECT count(*) FROM left_open") == 0
            pids.add(await process(conn))
        assert len(pids) == 1
    (record,) = [r for r in caplog.records if r.name == "qorb_trio.postgres"]
    assert "ended within a transaction" in record.getMessage()


async def test_an_error_in_the_body_costs_no_connection(server: PostgresServer) -> None:
    """A refused statement leaves a transaction that is rolled back, and the session stays."""
    async with postgres_pool(server, slots=1, autocommit=False) as pool:
        pids = set()
        for divisor in (1, 0, 1):
            with suppress(psycopg.errors.DivisionByZero):
                async with pool.claim() as conn:
                    pids.add(await process(conn))
                    await conn.execute("SELECT 1 / %s", [divisor])
                    await conn.commit()
        assert len(pids) == 1
        async with pool.claim() as conn:
            assert await value(conn, "SELECT 1") == 1


async def test_a_cancelled_claim_costs_no_connection(server: PostgresServer) -> None:
    """The claimant goes at once, the server stops the query, and the session stays."""
    application = new_application()
    async with postgres_pool(server, slots=1, application=application) as pool:
        async with pool.claim() as conn:
            pid = await process(conn)
        begin = trio.current_time()
        with trio.move_on_after(0.05):
            async with pool.claim() as conn, conn.transaction():
                await conn.execute("SELECT pg_sleep(60)")
        assert trio.current_time() - begin < 0.2
        async with pool.claim() as conn:
            assert await process(conn) == pid
            assert await value(conn, "SELECT 1") == 1
        assert server.busy(application) == []


async def _autocommit(conn: PostgresConnection[Any]) -> None:
    await conn.set_autocommit(False)


async def _isolation(conn: PostgresConnection[Any]) -> None:
    await conn.set_isolation_level(psycopg.IsolationLevel.SERIALIZABLE)
    await conn.set_read_only(True)
    await conn.set_deferrable(True)


async def _factories(conn: PostgresConnection[Any]) -> None:
    conn.row_factory = dict_row
    conn.cursor_factory = psycopg.AsyncClientCursor
    conn.prepare_threshold = None


async def _two_phase(conn: PostgresConnection[Any]) -> None:
    await conn.set_autocommit(False)
    await conn.tpc_begin("mine")
    await conn.tpc_rollback()


@pytest.mark.parametrize("change", [_autocommit, _isolation, _factories, _two_phase])
async def test_changed_settings_return_to_what_they_were(
    server: PostgresServer, change: Callable[[PostgresConnection[Any]], Awaitable[None]]
) -> None:
    """A claimant's settings of the connection object are undone, those of `configure` stay."""

    async def configure(conn: PostgresConnection[Any]) -> None:
        await conn.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)

    connector, conn = await opened(server, configure=configure)
    assert not connector.needs_recycle(conn)
    await change(conn)
    assert connector.needs_recycle(conn)
    await connector.on_recycle(conn)
    assert not connector.needs_recycle(conn)
    assert (conn.autocommit, conn.read_only, conn.deferrable) == (True, None, None)
    assert conn.isolation_level is psycopg.IsolationLevel.REPEATABLE_READ
    assert conn.prepare_threshold == 5
    assert await (await conn.execute("SELECT 1")).fetchone() == (1,)
    await closed(connector, conn)


async def test_needs_recycle_by_the_transaction_status(server: PostgresServer) -> None:
    """Idle needs none; in a transaction, in a failed one, or in an exchange it does."""
    connector, conn = await opened(server)
    assert not connector.needs_recycle(conn)
    await conn.execute("BEGIN")
    assert connector.needs_recycle(conn)
    with pytest.raises(psycopg.errors.DivisionByZero):
        await conn.execute("SELECT 1 / 0")
    assert connector.needs_recycle(conn)
    await conn.rollback()
    assert not connector.needs_recycle(conn)
    with trio.move_on_after(0.02):
        await conn.execute("SELECT pg_sleep(60)")
    assert connector.needs_recycle(conn)
    await connector.on_recycle(conn)
    assert not connector.needs_recycle(conn)
    await closed(connector, conn)


async def test_what_cannot_be_cleaned_is_refused(server: PostgresServer) -> None:
    """A block that was not left, or a prepared two-phase transaction: the pool closes it."""
    connector, conn = await opened(server)
    block = conn.transaction()
    await block.__aenter__()
    with pytest.raises(psycopg.ProgrammingError):
        await connector.on_recycle(conn)
    await closed(connector, conn)
    await block.__aexit__(None, None, None)
    connector, conn = await opened(server)
    conn.pgconn.enter_pipeline_mode()
    assert connector.needs_recycle(conn)
    with pytest.raises(psycopg.Error):
        await connector.on_recycle(conn)
    await closed(connector, conn)
    connector, conn = await opened(server, autocommit=False)
    await conn.tpc_begin("prepared")
    await conn.tpc_prepare()
    assert connector.needs_recycle(conn)
    with pytest.raises(psycopg.ProgrammingError):
        await connector.on_recycle(conn)
    await closed(connector, conn)
    server.sql("ROLLBACK PREPARED 'prepared'")


async def test_cancelled_first_executions_leave_no_prepared_statements(
    server: PostgresServer,
) -> None:
    """Prepared statements are dropped after a hundred cancellations, and psycopg knows it."""
    connector, conn = await opened(server, prepare_threshold=0)
    await conn.execute("SELECT 'kept', %s::int", [1])
    count = "SELECT count(*) FROM pg_prepared_statements"
    for n in range(100):
        with trio.move_on_after(0.01):
            await conn.execute(f"SELECT pg_sleep(60), {n}", prepare=True)
        await connector.on_recycle(conn)
        if n == 50:
            found = await (await conn.execute(count, prepare=False)).fetchone()
            assert found is not None
            assert found[0] > 1
    assert not connector.needs_recycle(conn)
    assert await (await conn.execute(count, prepare=False)).fetchone() == (0,)
    assert await value(conn, "SELECT 2") == 2
    await closed(connector, conn)


# Reset.


async def test_reset_true_discards_the_state_of_the_session(server: PostgresServer) -> None:
    """All that a claim can leave on the server is gone, but prepared statements work on."""
    connector, conn = await opened(server, reset=True, prepare_threshold=0)
    assert connector.needs_recycle(conn)
    for _ in range(2):
        await conn.execute("SET application_name = 'changed'")
        await conn.execute("CREATE TEMP TABLE mine (n int)")
        await conn.execute("LISTEN news")
        await conn.execute("SELECT pg_advisory_lock(1)")
        await connector.on_recycle(conn)
        assert await value(conn, "SHOW application_name") != "changed"
        assert await value(conn, "SELECT count(*) FROM pg_listening_channels()") == 0
        assert await value(conn, "SELECT count(*) FROM pg_locks WHERE locktype='advisory'") == 0
    await closed(connector, conn)


async def test_reset_by_a_function(server: PostgresServer) -> None:
    """A reset function runs after each claim, and must commit its changes."""
    calls = 0

    async def reset(conn: PostgresConnection[Any]) -> None:
        nonlocal calls
        calls += 1
        await conn.execute("RESET ALL")
        if calls < 3:
            await conn.commit()

    async with postgres_pool(server, slots=1, reset=reset, autocommit=False) as pool:
        pids = []
        for _ in range(4):
            async with pool.claim() as conn:
                pids.append(await process(conn))
                assert await value(conn, "SHOW work_mem") == "4MB"
                await conn.execute("SET work_mem = '5MB'")
                await conn.commit()
    # The third call has not committed what it did, so that connection was closed.
    assert len(set(pids[:3])) == 1
    assert pids[3] != pids[2]


async def test_a_reset_that_fails_closes_the_connection(server: PostgresServer) -> None:
    """SQL that the server refuses is the reason."""
    connector, conn = await opened(server, reset="RESET nonsense")
    with pytest.raises(psycopg.errors.Error):
        await connector.on_recycle(conn)
    await closed(connector, conn)


async def test_configure_must_not_leave_a_transaction(server: PostgresServer) -> None:
    """The error says what to do, and the connection is closed."""

    async def configure(conn: PostgresConnection[Any]) -> None:
        await conn.execute("SELECT 1")

    with pytest.raises(psycopg.ProgrammingError, match="commit it"):
        await opened(server, autocommit=False, configure=configure, application_name="conf")
    await until(lambda: server.clients("conf") == 0)


# Connections that die.


async def test_a_terminated_idle_connection_is_stale(server: PostgresServer) -> None:
    """The administrator's message is the reason, and it is no failure of the server."""
    connector, conn = await opened(server)
    assert connector.is_broken(conn) is False
    pid = await process(conn)
    server.sql(f"SELECT pg_terminate_backend({pid})")
    await trio.lowlevel.wait_readable(conn.fileno())
    with pytest.raises(qorb_trio.StaleConnectionError, match="administrator command") as caught:
        connector.is_broken(conn)
    assert isinstance(caught.value.__cause__, psycopg.errors.AdminShutdown)
    # The message comes before the end of the stream, with which libpq closes the connection.
    while not conn.closed:
        with pytest.raises(qorb_trio.StaleConnectionError, match="administrator command"):
            connector.is_broken(conn)
        await trio.sleep(0.01)
    with pytest.raises(psycopg.errors.AdminShutdown):
        connector.is_broken(conn)
    await closed(connector, conn)


async def test_an_idle_connection_that_is_cut_is_stale() -> None:
    """Without any message, libpq's own is the reason."""
    with postgres_server() as other:
        connector, conn = await opened(other)
        os.kill(await process(conn), signal.SIGKILL)
        await trio.lowlevel.wait_readable(conn.fileno())
        with pytest.raises(qorb_trio.StaleConnectionError, match="closed the connection"):
            connector.is_broken(conn)
        # libpq has noticed now, so that it is closed.
        with pytest.raises(psycopg.OperationalError, match="closed the connection"):
            connector.is_broken(conn)
        await closed(connector, conn)


async def test_a_connection_that_dies_in_a_claim(server: PostgresServer) -> None:
    """The reason of a connection that dies in a claim is the error that the claimant got."""
    connector, conn = await opened(server)
    pid = await process(conn)
    server.sql(f"SELECT pg_terminate_backend({pid})")
    with pytest.raises(psycopg.OperationalError) as caught:
        await conn.execute("SELECT 1")
    assert connector.is_failure(conn, caught.value)
    assert not connector.should_recycle(conn, caught.value)
    with pytest.raises(psycopg.Error, match="administrator command"):
        connector.is_broken(conn)
    assert connector.fileno(conn) is None
    await closed(connector, conn)


async def test_a_claimant_who_closes_the_connection(server: PostgresServer) -> None:
    """A close by the claimant counts as misuse, and not against the server."""
    connector, conn = await opened(server)
    await conn.close()
    with pytest.raises(psycopg.OperationalError) as caught:
        await conn.execute("SELECT 1")
    assert not connector.is_failure(conn, caught.value)
    with pytest.raises(qorb_trio.MisusedConnectionError, match="by this program"):
        connector.is_broken(conn)
    await closed(connector, conn)


async def test_is_broken_does_not_read_an_answer(server: PostgresServer) -> None:
    """A connection in the middle of an exchange has something to read, and is not broken."""
    connector, conn = await opened(server)
    with trio.CancelScope() as scope:
        scope.cancel()
        await conn.execute("SELECT 1")
    await trio.lowlevel.wait_readable(conn.fileno())
    assert connector.is_broken(conn) is False
    await connector.on_recycle(conn)
    assert await value(conn, "SELECT 2") == 2
    await closed(connector, conn)


async def test_notifications_do_not_break_an_idle_connection(server: PostgresServer) -> None:
    """An idle connection may have something to read, and keeps it."""
    connector, conn = await opened(server)
    await conn.execute("LISTEN news")
    server.sql("NOTIFY news, 'one'")
    await trio.lowlevel.wait_readable(conn.fileno())
    assert connector.is_broken(conn) is False
    server.sql("NOTIFY news, 'two'")
    notes = [note.payload async for note in conn.notifies(timeout=5, stop_after=2)]
    assert notes == ["one", "two"]
    await closed(connector, conn)


async def test_a_farewell_of_an_unknown_kind(server: PostgresServer) -> None:
    """A FATAL message whose code psycopg does not know is a reason like any other."""
    connector, conn = await opened(server)

    class Notice:
        severity_nonlocalized = "FATAL"
        sqlstate = "QQ000"
        message_primary = None

    notice: Any = Notice()
    conn.lock.farewell.hear(notice)
    assert type(conn.lock.farewell.error) is psycopg.OperationalError
    await closed(connector, conn)


async def test_idle_session_timeout_is_no_failure() -> None:
    """The server ends idle sessions again and again: stale, not failed, and claims go on."""
    with postgres_server(idle_session_timeout="150ms") as server:
        connector, conn = await opened(server)
        await trio.lowlevel.wait_readable(conn.fileno())
        with pytest.raises(qorb_trio.StaleConnectionError) as caught:
            connector.is_broken(conn)
        assert isinstance(caught.value.__cause__, psycopg.errors.IdleSessionTimeout)
        await closed(connector, conn)
        async with postgres_pool(server) as pool:
            for _ in range(4):
                async with pool.claim() as claimed:
                    assert await value(claimed, "SELECT 1") == 1
                await trio.sleep(0.3)


async def test_disconnecting_stops_the_query(server: PostgresServer) -> None:
    """The server would go on with it until it noticed."""
    application = new_application()
    connector, conn = await opened(server, application_name=application)
    with trio.move_on_after(0.05):
        await conn.execute("SELECT pg_sleep(60)")
    await connector.disconnect(conn)
    await until(lambda: not server.busy(application))


async def test_disconnecting_from_a_server_that_is_gone() -> None:
    """A connection is closed even if its server cannot be asked to cancel any more."""
    with postgres_server() as server:
        connector, conn = await opened(server)
        with trio.move_on_after(0.05):
            await conn.execute("SELECT pg_sleep(60)")
        server.stop(signal.SIGKILL)
        await closed(connector, conn)


async def test_disconnecting_under_a_task(server: PostgresServer) -> None:
    """A task that still uses the connection gets an error, and its query is cancelled."""
    application = new_application()
    connector, conn = await opened(server, application_name=application)

    async def query() -> None:
        with pytest.raises(psycopg.Error):
            await conn.execute("SELECT pg_sleep(60)")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(query)
        await until(lambda: server.busy(application))
        await connector.disconnect(conn)
    await until(lambda: not server.busy(application))


async def test_is_valid(server: PostgresServer) -> None:
    """A health check of an idle connection leaves no transaction behind."""
    for autocommit in (True, False):
        connector, conn = await opened(server, autocommit=autocommit)
        assert await connector.is_valid(conn)
        assert not connector.needs_recycle(conn)
        await closed(connector, conn)
    connector, conn = await opened(server, target_session_attrs="primary")
    assert await connector.is_valid(conn)
    await closed(connector, conn)


async def test_a_hanging_server_fails_its_health_check(server: PostgresServer) -> None:
    """The pool bounds the check; the connection it leaves is closed."""
    connector, conn = await opened(server)
    server.freeze()
    try:
        with trio.move_on_after(0.1) as scope:
            await connector.is_valid(conn)
        assert scope.cancelled_caught
        with trio.move_on_after(0.1) as scope:
            await connector.disconnect(conn)
        assert scope.cancelled_caught
        assert conn.closed
    finally:
        server.thaw()


# Bad input: one attempt says what is wrong.


async def refused(connector: PostgresConnector[Any], backend: Backend) -> str:
    """The error of one attempt to connect, in the time that the pool allows."""
    with trio.fail_after(5), pytest.raises(psycopg.OperationalError) as caught:
        await connector.connect(backend)
    return str(caught.value)


async def test_bad_input(server: PostgresServer) -> None:
    """A wrong password, database or user, TLS that is not there, a port where nobody is."""
    backend = Backend(server.address)
    hba = server.data / "pg_hba.conf"
    before = hba.read_text()
    server.sql("CREATE USER guarded PASSWORD 'right'")
    hba.write_text("host all guarded all scram-sha-256\n" + before)
    server.sql("SELECT pg_reload_conf()")
    guarded = PostgresConnector("user=guarded dbname=postgres password=wrong")
    assert "password authentication failed" in await refused(guarded, backend)
    guarded = PostgresConnector("user=guarded dbname=postgres", passfile="/nowhere")
    assert "no password supplied" in await refused(guarded, backend)
    conn = await PostgresConnector("user=guarded dbname=postgres", password="right").connect(
        backend
    )
    await conn.close()
    hba.write_text(before)
    server.sql("SELECT pg_reload_conf()")
    assert 'database "nope" does not exist' in await refused(
        PostgresConnector("user=qorb dbname=nope"), backend
    )
    assert 'role "nobody" does not exist' in await refused(
        PostgresConnector("user=nobody dbname=postgres"), backend
    )
    assert "does not support SSL" in await refused(
        PostgresConnector(USER, sslmode="require"), backend
    )
    assert "Connection refused" in await refused(PostgresConnector(USER), Backend(("127.0.0.1", 1)))
    assert "failed to resolve host 'no.invalid'" in await refused(
        PostgresConnector(USER), Backend(("no.invalid", 5432))
    )


@pytest.mark.parametrize("banner", [b"", b"SSH-2.0-OpenSSH\r\n", b"-ERR unknown command\r\n"])
async def test_a_server_that_is_no_postgresql(banner: bytes) -> None:
    """A server of another protocol fails the dial in time, even if it sends nothing."""

    async def serve(stream: trio.SocketStream) -> None:
        with trio.move_on_after(20):
            await stream.receive_some()
            if banner:
                await stream.send_all(banner)
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        listeners: list[trio.SocketListener] = await nursery.start(
            partial(trio.serve_tcp, serve, 0, host="127.0.0.1")
        )
        port = listeners[0].socket.getsockname()[1]
        with trio.fail_after(2), pytest.raises(psycopg.OperationalError) as caught:
            await PostgresConnector(USER).connect(Backend(("127.0.0.1", port)))
        # An S is how a server agrees to TLS, so that the handshake has begun.
        assert ("SSL negotiation" in str(caught.value)) is (banner[:1] == b"-")
        assert "is no PostgreSQL server" in str(caught.value)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("answer", [b"", b"N"], ids=["at once", "after the question for TLS"])
async def test_a_server_that_closes_instead_of_a_greeting(answer: bytes) -> None:
    """Redis does so where it expects TLS; the error names what is the likeliest mistake."""
    async with answering_server(answer, closes=True) as backend:
        said = await refused(PostgresConnector(USER), backend)
    assert "it was stopped, or it is no PostgreSQL server" in said


async def test_a_server_that_stops_in_the_middle_of_the_greeting() -> None:
    """The error says that it has answered so far."""

    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"N")  # no TLS
        await stream.receive_some()
        await stream.send_all(b"R\0\0\0\x08\0\0\0\0")  # no password
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        listeners: list[trio.SocketListener] = await nursery.start(
            partial(trio.serve_tcp, serve, 0, host="127.0.0.1")
        )
        address = listeners[0].socket.getsockname()
        with trio.fail_after(1), pytest.raises(psycopg.OperationalError, match="let us in yet"):
            await PostgresConnector(USER).connect(Backend(address))
        nursery.cancel_scope.cancel()


async def test_a_parameter_that_libpq_refuses(server: PostgresServer) -> None:
    """A parameter that libpq refuses is the reason of the error, without any dial."""
    assert 'invalid sslmode value: "maybe"' in await refused(
        PostgresConnector(USER, sslmode="maybe"), Backend(server.address)
    )


# Names, TLS, and other ways to a server.


async def test_host_names(server: PostgresServer) -> None:
    """A name is looked up, and its addresses are tried in turn."""
    conn = await PostgresConnector(USER).connect(Backend(("localhost", server.port)))
    assert conn.info.hostaddr == "127.0.0.1"
    assert conn.info.host == "localhost"
    await conn.close()


async def test_unix_sockets(server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable PGHOSTADDR does not lead elsewhere."""
    monkeypatch.setenv("PGHOSTADDR", "10.0.0.1")
    conn = await PostgresConnector(USER).connect(Backend(server.socket_path))
    assert conn.info.host == str(server.folder)
    await conn.close()


async def test_the_target_is_the_name_that_tls_verifies() -> None:
    """``sslmode=verify-full`` compares the certificate with the SRV target, not the address."""
    authority = trustme.CA()
    certificate = authority.issue_cert("pg1.example.com")
    server = PostgresServer(ssl="on")
    try:
        write_certificate(server, certificate)
        root = server.folder / "root.pem"
        authority.cert_pem.write_to_path(root)
        server.start()
        connector = PostgresConnector(USER, sslmode="verify-full", sslrootcert=str(root))
        backend = Backend(server.address, target="pg1.example.com.")
        conn = await connector.connect(backend)
        assert conn.pgconn.ssl_in_use
        assert connector.is_broken(conn) is False
        # The cancellation of a command is encrypted too.
        with trio.move_on_after(0.1):
            await conn.execute("SELECT pg_sleep(60)")
        await connector.on_recycle(conn)
        await conn.close()
        assert "does not match host name" in await refused(connector, Backend(server.address))
        other = Backend(server.address, target="other.example.com")
        assert "does not match host name" in await refused(connector, other)
        named = PostgresConnector(
            USER, host="pg1.example.com", sslmode="verify-full", sslrootcert=str(root)
        )
        await (await named.connect(other)).close()
    finally:
        server.remove()


def write_certificate(server: PostgresServer, certificate: trustme.LeafCert) -> None:
    """Give a server its certificate and key, which it insists on owning."""
    key, chain = server.data / "server.key", server.data / "server.crt"
    certificate.private_key_pem.write_to_path(key)
    chain.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    key.chmod(0o600)
    owner = server.data.stat()
    for file in (key, chain):
        os.chown(file, owner.st_uid, owner.st_gid)


async def test_a_pool_logs_nothing_of_psycopg(
    server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Claims that are cancelled in any state leave no warning."""
    caplog.set_level(logging.WARNING)
    async with postgres_pool(server) as pool:
        for n in range(30):
            with trio.move_on_after(n / 5000):
                async with pool.claim() as conn, conn.transaction(), conn.transaction():
                    await conn.execute("SELECT pg_sleep(0.001)")
    assert [record.getMessage() for record in caplog.records] == []
