"""`HttpConnector` and `HttpConnection`."""

from __future__ import annotations

import ssl
from typing import Any

import h11
import pytest
import trio
import trustme

from qorb_trio import Backend, StaleConnectionError, TlsConnector
from qorb_trio.http import HttpConnection, HttpConnector, HttpResponse

from .kit import BACKEND, Peer, Streams, as_any, hello


async def connected(
    nursery: trio.Nursery, serve: Any = hello, probe: Any = None
) -> tuple[HttpConnection, HttpConnector, Streams]:
    """Return a connection to a server in memory, and both connectors."""
    streams = Streams(nursery, serve)
    connector = HttpConnector(streams, probe=probe)
    return await connector.connect(BACKEND), connector, streams


async def test_a_request_without_httpx(nursery: trio.Nursery) -> None:
    """The connection itself can send requests, one after the other."""

    async def serve(peer: Peer) -> None:
        for _ in range(2):
            request = await peer.head()
            await peer.send(h11.InformationalResponse(status_code=103, headers=[]))
            fields = [b": ".join(field) for field in request.headers]
            await peer.answer(b"\n".join([*fields, await peer.body()]), 202, [("X-A", "1")])
        await peer.head()

    conn, connector, _ = await connected(nursery, serve)
    assert conn.is_idle
    response = await conn.request("POST", "/", body=b"body")
    assert response == HttpResponse(
        202,
        [(b"content-length", b"40"), (b"x-a", b"1")],
        b"host: web.test:80\ncontent-length: 4\nbody",
    )
    assert conn.has_served
    response = await conn.request("GET", "/", headers=[("host", "other"), (b"A", b"b")])
    assert response.body == b"host: other\na: b\n"
    assert connector.should_recycle(conn, ValueError())
    assert not connector.is_broken(conn)
    assert not connector.needs_recycle(conn)
    await connector.on_recycle(conn)


@pytest.mark.parametrize(
    ("backend", "host"),
    [
        (Backend(("10.0.0.1", 80)), "10.0.0.1:80"),
        (Backend(("::1", 80)), "[::1]:80"),
        (Backend(("10.0.0.1", 80), target="a.test"), "a.test:80"),
        (Backend("/run/web.sock"), "localhost"),
    ],
)
def test_the_host_of_a_backend(backend: Backend, host: str) -> None:
    """Requests that have no host of their own name the backend."""
    assert HttpConnection(as_any(None), backend, bool).host == host


async def test_a_connection_in_the_middle_of_an_exchange_is_not_lent(
    nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    """An exchange that was cancelled leaves a connection that is closed."""

    async def serve(peer: Peer) -> None:
        await peer.head()
        await trio.sleep_forever()

    conn, connector, streams = await connected(nursery, serve)
    with trio.move_on_after(1):
        await conn.request("GET", "/")
    assert not conn.is_idle
    with pytest.raises(StaleConnectionError, match="the last exchange has ended"):
        connector.is_broken(conn)
    assert not connector.should_recycle(conn, None)
    await connector.disconnect(conn)
    assert streams.closed == 1


async def test_a_lost_connection_is_a_failure(nursery: trio.Nursery) -> None:
    """A server that hangs up, or speaks another protocol, is to blame."""

    answers = [b"", b"nonsense\r\n\r\n"]

    async def serve(peer: Peer) -> None:
        await peer.head()
        await peer.stream.send_all(answers.pop(0))

    conn, connector, _ = await connected(nursery, serve)
    with pytest.raises(ConnectionError) as caught:
        await conn.request("GET", "/")
    assert connector.is_failure(conn, caught.value)
    conn = await connector.connect(BACKEND)
    with pytest.raises(h11.RemoteProtocolError) as other:
        await conn.request("GET", "/")
    assert connector.is_failure(conn, other.value)
    assert not connector.is_failure(conn, ValueError())


# --------------------------------------------------------------------------- probes


@pytest.mark.parametrize(
    ("status", "healthy"), [(200, True), (302, True), (404, False), (503, False)]
)
async def test_a_probe_by_path(nursery: trio.Nursery, status: int, healthy: bool) -> None:
    """The status of the response to GET says if a connection is healthy."""

    async def serve(peer: Peer) -> None:
        for answer in (200, status):  # the first one when the connection is new
            assert (await peer.head()).target == b"/health"
            await peer.body()
            await peer.answer(status=answer)

    conn, connector, _ = await connected(nursery, serve, "/health")
    assert await connector.is_valid(conn) is healthy
    assert conn.is_idle


async def test_a_probe_by_function(nursery: trio.Nursery) -> None:
    """A function decides with the connection in its hand."""

    async def probe(conn: HttpConnection) -> bool:
        return (await conn.request("GET", "/x")).body == b"/x"

    conn, connector, _ = await connected(nursery, hello, probe)
    assert await connector.is_valid(conn)


async def test_without_a_probe_all_is_well(nursery: trio.Nursery) -> None:
    """`is_valid` sends no request if no probe is configured."""
    conn, connector, streams = await connected(nursery)
    assert await connector.is_valid(conn)
    assert streams.targets == []


# ------------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("options", "error", "word"),
    [
        ({"streams": 1}, TypeError, "streams"),
        ({"streams": TlsConnector}, TypeError, "did you mean TlsConnector"),
        ({"probe": "health"}, ValueError, "probe must be a path"),
        ({"probe": 1}, TypeError, "probe"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], error: type[Exception], word: str) -> None:
    """A wrong argument is refused by name."""
    with pytest.raises(error, match=word):
        HttpConnector(**options)


async def test_unread_bytes_and_closed_streams_are_found(nursery: trio.Nursery) -> None:
    """The connector of the streams is asked about idle connections."""
    conn, connector, streams = await connected(nursery)
    streams.broken = True
    assert connector.is_broken(conn)


async def test_the_descriptor_is_that_of_the_stream(nursery: trio.Nursery) -> None:
    """`fileno` returns the descriptor that the connector of the streams returns."""
    conn, connector, streams = await connected(nursery)
    streams.descriptor = 4711
    assert connector.fileno(conn) == 4711


class Tls(Streams):
    """Streams of TLS, on which the server chooses a protocol."""

    def __init__(self, nursery: trio.Nursery, *offered: str) -> None:
        super().__init__(nursery, self.shake_hands)
        authority = trustme.CA()
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        authority.issue_cert("a.test").configure_cert(self.server)
        authority.configure_trust(self.client)
        if offered:
            self.server.set_alpn_protocols(offered)
            self.client.set_alpn_protocols(offered)

    async def shake_hands(self, peer: Peer) -> None:
        """Serve one connection until it is closed."""
        stream = trio.SSLStream(peer.stream, self.server, server_side=True)
        await stream.receive_some()

    async def connect(self, backend: Backend) -> Any:
        """Open a stream, and shake hands."""
        inner = await super().connect(backend)
        stream = trio.SSLStream(inner, self.client, server_hostname="a.test")
        await stream.do_handshake()
        return stream


async def test_http2_is_refused(nursery: trio.Nursery) -> None:
    """A server that has chosen HTTP/2 cannot be spoken to, and the error says what to do."""
    with pytest.raises(ConnectionError, match="do not offer 'h2'"):
        await HttpConnector(Tls(nursery, "h2")).connect(BACKEND)


@pytest.mark.parametrize("offered", [[], ["http/1.1"]])
async def test_tls_is_secure(nursery: trio.Nursery, offered: list[str]) -> None:
    """A connection over TLS says so."""
    connector = HttpConnector(Tls(nursery, *offered))
    conn = await connector.connect(BACKEND)
    assert conn.is_secure
    await trio.aclose_forcefully(conn.stream)
