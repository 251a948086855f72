"""Wrong arguments, and the parameters for libpq: nothing of this needs a server."""

from __future__ import annotations

import math
import socket
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
import trio
from psycopg import errors
from psycopg.pq import ConnStatus
from psycopg.waiting import Wait

import qorb_trio
from qorb_trio import Backend
from qorb_trio.postgres import PostgresConnector, _drain, _parameters, _verdicts, _waiting

ADDRESS = Backend(("10.0.0.1", 5433))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"conninfo": 5}, TypeError, "conninfo must be a str"),
        ({"conninfo": "no such thing"}, ValueError, "conninfo: missing"),
        ({"nonsense": 1}, ValueError, 'conninfo: invalid connection option "nonsense"'),
        ({"conninfo": "port=5432"}, ValueError, "port must be left out"),
        ({"hostaddr": "10.0.0.1"}, ValueError, "hostaddr must be left out"),
        ({"host": "a,b"}, ValueError, "host must be one name"),
        ({"target_session_attrs": "prefer-standby"}, ValueError, "target_session_attrs"),
        ({"connect_timeout": "soon"}, ValueError, "connect_timeout"),
        ({"connect_timeout": math.inf}, ValueError, "connect_timeout"),
        ({"autocommit": 1}, TypeError, "autocommit must be a bool"),
        ({"reset": 1}, TypeError, "reset must be"),
        ({"configure": "SET x"}, TypeError, "configure must be"),
        ({"reset": "discard all"}, ValueError, "prepare_threshold=None"),
        ({"reset": "DEALLOCATE PREPARE ALL"}, ValueError, "reset=True"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    """Each is refused at once, by an error that names it."""
    with pytest.raises(error, match=message):
        PostgresConnector(**arguments)


def test_an_old_libpq_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A libpq that cannot cancel a command without blocking the program is refused."""
    monkeypatch.setattr(psycopg.pq, "version", lambda: 150004)
    with pytest.raises(RuntimeError, match=r"psycopg\[binary\]"):
        PostgresConnector()


def test_discard_all_without_prepared_statements() -> None:
    """DISCARD ALL is allowed for a connector that prepares no statements."""
    PostgresConnector(reset="DISCARD ALL", prepare_threshold=None)


def params(backend: Backend, **given: str) -> dict[str, Any]:
    """The parameters that say where to connect."""
    found = _parameters.for_backend(given, backend)
    return {name: found[name] for name in ("host", "hostaddr", "port")}


def test_the_address_says_where_to_connect() -> None:
    """An address that is no name needs no look-up."""
    assert params(ADDRESS) == {"host": "10.0.0.1", "hostaddr": "10.0.0.1", "port": 5433}
    assert params(Backend(("::1", 5432)))["hostaddr"] == "::1"
    assert params(Backend(("db", 5432))) == {"host": "db", "hostaddr": None, "port": 5432}


def test_the_verified_name() -> None:
    """The verified name is the parameter, else the target without a final dot, else the address."""
    backend = Backend(("10.0.0.1", 5432), target="pg1.example.com.")
    assert params(backend)["host"] == "pg1.example.com"
    assert params(backend, host="db.example.com")["host"] == "db.example.com"
    assert params(Backend(("pg1.", 5432)))["host"] == "pg1"


def test_unix_sockets() -> None:
    """The path of the socket is taken apart as libpq wants it, and another is refused."""
    backend = Backend("/run/postgresql/.s.PGSQL.5434")
    assert params(backend) == {"host": "/run/postgresql", "hostaddr": "", "port": "5434"}
    with pytest.raises(ValueError, match=r"\.s\.PGSQL\.<port>"):
        params(Backend("/run/postgresql"))


@pytest.mark.parametrize(
    ("value", "seconds"), [(None, math.inf), (0, math.inf), ("-1", math.inf), (1, 2), ("7", 7)]
)
def test_connect_timeout(value: object, seconds: float) -> None:
    """By libpq's rules."""
    assert _parameters.connect_timeout({"connect_timeout": value}) == seconds


async def test_host_names_are_looked_up_by_threads_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Trio's default limiter is not used, and each address is one for libpq to try."""

    def getaddrinfo(host: str, port: object, *, type: object) -> list[Any]:  # noqa: A002
        if host == "nowhere":
            raise socket.gaierror("no such name")
        if host == "..":
            raise UnicodeError("label empty")
        return [(0, 0, 0, "", (address, 0)) for address in ("10.0.0.1", "10.0.0.2")]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(
        "trio.to_thread.current_default_thread_limiter", lambda: pytest.fail("the default")
    )
    found = await _parameters.look_up_backend({"user": "me"}, Backend(("db", 5), target="x."))
    assert found == {"user": "me", "host": "x,x", "hostaddr": "10.0.0.1,10.0.0.2", "port": 5}
    assert (await _parameters.look_up_backend({}, ADDRESS))["hostaddr"] == "10.0.0.1"
    with pytest.raises(psycopg.OperationalError, match="failed to resolve host 'nowhere'"):
        await _parameters.look_up("nowhere")
    with pytest.raises(psycopg.OperationalError, match="failed to resolve"):
        await _parameters.look_up("..")


async def test_several_hosts_in_a_connection_string(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names, addresses and folders may be mixed; ports are one for all, or one for each."""

    async def look_up(host: str) -> list[str]:
        return ["10.0.0.1", "10.0.0.2"]

    monkeypatch.setattr(_parameters, "look_up", look_up)
    monkeypatch.delenv("PGHOST", raising=False)
    found = await _parameters.look_up_hosts({"host": "db,::1,/run", "port": "5432"})
    assert found == {
        "host": "db,db,::1,/run",
        "hostaddr": "10.0.0.1,10.0.0.2,::1,",
        "port": "5432,5432,5432,5432",
    }
    found = await _parameters.look_up_hosts({"host": "db,/run", "port": "1,2"})
    assert found["port"] == "1,1,2"
    with pytest.raises(psycopg.OperationalError, match="3 ports do not match 2 hosts"):
        await _parameters.look_up_hosts({"host": "db,db", "port": "1,2,3"})
    unchanged: list[dict[str, Any]] = [{}, {"host": "/run"}, {"host": "db", "hostaddr": "::2"}]
    for nothing_to_do in unchanged:
        assert await _parameters.look_up_hosts(nothing_to_do) == nothing_to_do
    monkeypatch.setenv("PGHOST", "db")
    assert (await _parameters.look_up_hosts({}))["host"] == "db,db"


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (ConnStatus.STARTED, "the server's address does not answer"),
        (ConnStatus.AWAITING_RESPONSE, "it is no PostgreSQL server"),
        (ConnStatus.SSL_STARTUP, "it is no PostgreSQL server"),
        (ConnStatus.AUTH_OK, "not let us in yet"),
    ],
)
def test_a_dial_that_is_late_says_how_far_it_got(status: ConnStatus, words: str) -> None:
    """By the state in which libpq is when the time is up."""
    pgconn: Any = SimpleNamespace(status=status)
    assert words in _waiting._lateness(pgconn)


@pytest.mark.parametrize(
    ("error", "lost", "for_writing", "expected"),
    [
        (errors.AdminShutdown("x"), False, False, True),
        (errors.CannotConnectNow("x"), False, False, True),
        (errors.TooManyConnections("x"), False, False, True),
        (errors.InternalError_("x"), False, False, True),
        (errors.IoError("x"), False, False, True),
        (errors.UndefinedFile("x"), False, False, False),
        (errors.QueryCanceled("x"), False, False, False),
        (errors.UniqueViolation("x"), False, False, False),
        (errors.SerializationFailure("x"), False, False, False),
        (errors.ReadOnlySqlTransaction("x"), False, False, False),
        (errors.ReadOnlySqlTransaction("x"), False, True, True),
        (errors.CancellationTimeout("x"), False, False, True),
        (psycopg.OperationalError("server closed"), True, False, True),
        (psycopg.OperationalError("another command"), False, False, False),
    ],
)
def test_verdicts(error: psycopg.Error, lost: bool, for_writing: bool, expected: bool) -> None:
    """An error speaks against the server if it cannot serve, not if a statement is wrong."""
    assert _verdicts.blames_server(error, lost=lost, for_writing=for_writing) is expected


async def test_a_timeout_of_the_claimant_is_judged_as_by_other_connectors() -> None:
    """Other errors have the default verdict, and a cancellation in a group has none."""
    connector = PostgresConnector()
    conn: Any = None
    assert connector.is_failure(conn, trio.TooSlowError())
    assert not connector.is_failure(conn, KeyError())
    assert connector.is_failure(conn, ExceptionGroup("x", [KeyError(), trio.TooSlowError()]))
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as cancelled:
            group = BaseExceptionGroup("x", [cancelled, trio.TooSlowError()])
            assert not connector.is_failure(conn, group)
            raise


def test_the_rest_of_a_copy_is_read_as_it_arrives() -> None:
    """The reader waits for more until the server has sent the end."""
    answers = [(5, b"hello"), (0, b""), (3, b"you"), (-1, b"")]
    reads: list[str] = []
    pgconn: Any = SimpleNamespace(
        get_copy_data=lambda block: answers.pop(0), consume_input=lambda: reads.append("read")
    )
    assert list(_drain._skip_copy_out(pgconn)) == [Wait.R]
    assert (answers, reads) == ([], ["read"])


def test_the_names_are_public() -> None:
    """The `__module__` of each name is the public one."""
    assert PostgresConnector.__module__ == "qorb_trio.postgres"
    assert issubclass(PostgresConnector, qorb_trio.Connector)
