"""Servers that are none for HTTP, or expect TLS: the error and the log say so."""

from __future__ import annotations

import logging
import ssl
from functools import partial
from pathlib import Path

import httpx  # noqa: ASYNC127 - both are tested elsewhere
import pytest
import trio
import trio.testing
import trustme

import _postgres
import _services
from qorb_trio import (
    Backend,
    FixedResolver,
    NoBackendsOnlineError,
    Policy,
    SetConfig,
    TlsConnector,
    open_pool,
)
from qorb_trio.http import HttpConnection, HttpConnector, PoolTransport

from ..harness.answering import answering_server
from .kit import BACKEND, Peer, Streams, web

POLICY = Policy(
    max_slots=1,
    spares_wanted=1,
    set_config=SetConfig(connect_timeout=1, min_connection_backoff=5),
)


def needs(program: str) -> pytest.MarkDecorator:
    """Skip where a program is missing."""
    absent = _services.missing(program)
    return pytest.mark.skipif(absent is not None, reason=str(absent))


async def error_of(
    backend: Backend, connector: HttpConnector | None = None, url: str = "http://web.test/"
) -> str:
    """Return the error of a request, or the text of its response."""
    async with (
        trio.open_nursery() as nursery,
        open_pool(
            nursery, FixedResolver([backend]), connector or HttpConnector(), policy=POLICY
        ) as pool,
        httpx.AsyncClient(transport=PoolTransport(pool, retries=0), timeout=1) as client,
    ):
        try:
            said = (await client.get(url)).text
        except httpx.HTTPError as exc:
            said = f"{type(exc).__name__}: {exc}"
    return said


async def refused(backend: Backend) -> str:
    """Return the error of a claim that waits for one attempt to connect, with a probe."""
    connector = HttpConnector(probe="/health")
    async with (
        trio.open_nursery() as nursery,
        open_pool(nursery, FixedResolver([backend]), connector, policy=POLICY) as pool,
    ):
        with pytest.raises(NoBackendsOnlineError) as caught:
            await pool.acquire(timeout=2)
    return str(caught.value)


def write_certificate(file: str) -> None:
    """Write a certificate and its key."""
    trustme.CA().issue_cert("web.test").private_key_and_cert_chain_pem.write_to_path(file)


#: A server's answer, whether it closes, and the words that a request without a probe gets.
SERVERS = [
    (b"", False, "ReadTimeout: .*does not answer: it is slow, hangs, is no HTTP server, or exp"),
    (b"", True, "closed the connection before it answered: it was .*, or expects TLS"),
    (b"220 mail.test ESMTP\r\n", False, "is no HTTP server: it has answered with b'220 mail"),
    (b"\x15\x03\x03\x00\x02\x02\x46", True, "expects TLS: it has answered with a TLS alert"),
    (b"HTT", True, "ReadError: the server closed the connection before it answered"),
]
SERVER_IDS = ["silent", "closes", "smtp", "tls-alert", "cut-off"]


@pytest.mark.real
@pytest.mark.parametrize(("answer", "closes", "words"), SERVERS, ids=SERVER_IDS)
async def test_the_error_of_a_request(answer: bytes, closes: bool, words: str) -> None:
    """Without a probe nothing is sent before the first request, whose error says it."""
    async with answering_server(answer, closes=closes) as backend:
        said = await error_of(backend)
    assert pytest.raises(match=words).matches(ValueError(said)), said


@pytest.mark.real
@pytest.mark.parametrize(("answer", "closes", "words"), SERVERS, ids=SERVER_IDS)
async def test_the_error_of_an_attempt_to_connect(
    answer: bytes, closes: bool, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    """With a probe the claim's error says it after one attempt, and one line of the log."""
    words = words.partition(": .*")[2] or words.removeprefix("ReadError: ")
    async with answering_server(answer, closes=closes) as backend:
        said = await refused(backend)
    lines = [it.getMessage() for it in caplog.records if it.levelno >= logging.WARNING]
    assert len(lines) == 1
    for text in (said, *lines):
        assert pytest.raises(match=words).matches(ValueError(text)), text


@pytest.mark.real
async def test_a_server_that_resets_the_connection_before_it_answers() -> None:
    """A reset instead of the first answer means what a close means, and the error says it."""
    words = "closed the connection before it answered: it was stopped, is no HTTP server, or"
    async with answering_server(b"", resets=True) as backend:
        assert words in await error_of(backend)
        assert words in await refused(backend)


@pytest.mark.real
async def test_a_server_that_resets_the_connection_in_its_answer() -> None:
    """A reset after an answer has begun is told as the system tells it."""
    async with answering_server(b"HTTP/1.1 200 OK\r\n", resets=True) as backend:
        assert "connection broken" in await error_of(backend)


@pytest.mark.real
@needs("nginx")
async def test_plain_requests_to_a_server_that_expects_tls(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The server's answer says it to a request, and the error says it with a probe."""
    certificate = str(tmp_path / "pem")
    write_certificate(certificate)
    async with _services.nginx_servers(certificate=certificate) as [server]:
        assert "plain HTTP request was sent to HTTPS port" in await error_of(server.backend)
        assert "has answered GET /health with 400: it expects TLS" in await refused(server.backend)


@pytest.mark.real
@needs("nginx")
async def test_tls_to_a_server_without_it() -> None:
    """The error of the handshake says what the server probably is."""
    connector = HttpConnector(TlsConnector(ssl.create_default_context(), server_hostname="a.test"))
    async with _services.nginx_servers() as [server]:
        said = await error_of(server.backend, connector, "https://web.test/")
    assert "the server does not speak TLS at this port" in said


@pytest.mark.real
@needs("redis-server")
async def test_a_redis_server() -> None:
    """Redis closes the connection, for it takes the request for an attack."""
    async with _services.redis_servers() as [server]:
        assert "is no HTTP server" in await error_of(server.backend)


@pytest.mark.real
@pytest.mark.skipif(_postgres.binaries() is None, reason="postgresql is not installed")
async def test_a_postgresql_server() -> None:
    """PostgreSQL closes the connection."""
    with _postgres.postgres_server() as server:
        assert "is no HTTP server" in await error_of(Backend(server.address))


# ------------------------------------------------------------------ the probe of a new connection


async def answering(status: int, peer: Peer) -> None:
    """Answer one request with a status."""
    await peer.head()
    await peer.body()
    await peer.answer(status=status)


async def mute(peer: Peer) -> None:
    """Read one request, and say nothing."""
    await peer.head()
    await peer.body()
    await peer.stream.receive_some()


async def refuse(conn: HttpConnection) -> bool:
    """A probe that likes nothing."""
    await trio.lowlevel.checkpoint()
    return False


async def closing(conn: HttpConnection) -> bool:
    """A probe that breaks the connection."""
    await conn.stream.aclose()
    return (await conn.request("GET", "/x")).status == 200


async def test_a_new_connection_is_probed() -> None:
    """A backend that the probe does not like is not online, and its connections are closed."""
    async with trio.open_nursery() as nursery:
        streams = Streams(nursery, partial(answering, 503))
        with pytest.raises(ConnectionError, match="not healthy: it has answered GET /x with 503"):
            await HttpConnector(streams, probe="/x").connect(BACKEND)
        with pytest.raises(ConnectionError, match="the probe has returned false"):
            await HttpConnector(streams, probe=refuse).connect(BACKEND)
        with pytest.raises(trio.ClosedResourceError):
            await HttpConnector(streams, probe=closing).connect(BACKEND)
        await trio.testing.wait_all_tasks_blocked()
        assert not nursery.child_tasks


async def test_a_cancelled_probe_leaves_nothing_open() -> None:
    """The stream of a dial that is cancelled while it waits for the probe is closed."""
    async with trio.open_nursery() as servers:
        streams = Streams(servers, mute)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(HttpConnector(streams, probe="/x").connect, BACKEND)
            await trio.testing.wait_all_tasks_blocked()
            assert streams.targets == ["/x"]
            nursery.cancel_scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert not servers.child_tasks


async def test_a_silent_server_is_a_late_one(autojump_clock: trio.abc.Clock) -> None:
    """A probe without an answer ends shortly before the time that a dial may take."""
    async with trio.open_nursery() as servers:
        streams = Streams(servers, mute)
        with trio.fail_after(1), pytest.raises(TimeoutError, match="does not answer"):
            await HttpConnector(streams, probe="/x").connect(BACKEND)
        await trio.testing.wait_all_tasks_blocked()
        assert not servers.child_tasks


async def test_a_server_that_keeps_no_connection_can_be_probed() -> None:
    """The probe gets a connection of its own if the server closes after each response."""

    async def once(peer: Peer) -> None:
        target = (await peer.head()).target
        await peer.body()
        await peer.answer(target, headers=[("Connection", "close")], reuse=False)

    async with trio.open_nursery() as servers:
        streams = Streams(servers, once)
        conn = await HttpConnector(streams, probe="/health").connect(BACKEND)
        assert conn.is_idle
        assert (await conn.request("GET", "/x")).body == b"/x"
        assert streams.targets == ["/health", "/x"]
        servers.cancel_scope.cancel()


async def test_the_answer_may_come_in_small_pieces() -> None:
    """A response whose first bytes come one by one is taken for what it is."""

    async def slow(peer: Peer) -> None:
        await peer.head()
        for byte in b"HTTP/1.1 204 No Content\r\n\r\n":
            await peer.stream.send_all(bytes([byte]))
            await trio.testing.wait_all_tasks_blocked()
        await peer.stream.receive_some()

    async with web(slow) as it:
        assert (await it.client.get("http://web.test/x")).status_code == 204
