"""`TlsConnector`, on real sockets, against a server whose every record the test controls."""

from __future__ import annotations

import functools
import gc
import socket
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trustme

from qorb_trio import Backend, Connector
from qorb_trio.connectors import TcpConnector, TlsConnector
from qorb_trio.connectors._sockets import is_readable

from .kit import is_broken, no_socket_left, peers, tcp_listener, until_readable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

pytestmark = pytest.mark.real

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


class TlsPeer:
    """The server's end of one connection; a test controls every byte that it sends."""

    def __init__(self, stream: trio.SocketStream, context: ssl.SSLContext) -> None:
        self.stream = stream
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        # To be sent right after the handshake: under TLS 1.3, session tickets. Records
        # are numbered, so the next one must not be sent without them.
        self._tickets = b""

    async def _until_done(self, operation: Callable[[], Any]) -> Any:
        while True:
            try:
                return operation()
            except ssl.SSLWantReadError:
                await self.stream.send_all(self._outgoing.read())
                data = await self.stream.receive_some()
                self._incoming.write(data) if data else self._incoming.write_eof()

    async def handshake(self) -> None:
        await self._until_done(self._tls.do_handshake)
        self._tickets = self._outgoing.read()
        if self._tls.version() == "TLSv1.2":  # the end of the handshake itself
            await self.stream.send_all(self.tickets())

    def tickets(self) -> bytes:
        """Records without data."""
        tickets, self._tickets = self._tickets, b""
        return tickets

    async def receive(self) -> bytes:
        data = await self._until_done(lambda: self._tls.read(1000))
        assert isinstance(data, bytes)
        return data

    def encrypt(self, data: bytes) -> bytes:
        """A record with data, and the tickets before it if they have not been sent."""
        self._tls.write(data)
        return self.tickets() + self._outgoing.read()

    def close_notify(self) -> bytes:
        with pytest.raises(ssl.SSLWantReadError):
            self._tls.unwrap()
        return self.tickets() + self._outgoing.read()


@functools.cache
def authority() -> trustme.CA:
    """The certificate authority; to make one takes longer than most of the tests."""
    return trustme.CA()


class Lab:
    """A server with a certificate for some names, a client that trusts it, a connection."""

    def __init__(self, version: ssl.TLSVersion, *names: str) -> None:
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.server.minimum_version = self.server.maximum_version = version
        authority().issue_cert(*names).configure_cert(self.server)
        self.client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        for context in (self.server, self.client):  # Python 3.11.2 sets this option
            context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
        authority().configure_trust(self.client)
        self.connector = TlsConnector(self.client)
        self.ours: Any = None
        self.theirs: Any = None

    @property
    def broken(self) -> bool:
        return is_broken(self.connector, self.ours)

    async def connect(
        self, accepted: trio.MemoryReceiveChannel[trio.SocketStream], backend: Backend
    ) -> None:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def dial() -> None:
                self.ours = await self.connector.connect(backend)

            self.theirs = TlsPeer(await accepted.receive(), self.server)
            await self.theirs.handshake()

    async def deliver(self, wire: bytes) -> None:
        """Let these bytes arrive, all of them together."""
        await self.theirs.stream.send_all(wire)
        with trio.fail_after(5):
            peeked = b""
            while len(peeked) < len(wire):
                await until_readable(self.ours.transport_stream)
                peeked = await self.ours.transport_stream.socket.recv(len(wire), socket.MSG_PEEK)

    async def exchange(self) -> None:
        """A request and its response."""
        with trio.fail_after(5):
            await self.ours.send_all(b"ping")
            assert await self.theirs.receive() == b"ping"
            await self.theirs.stream.send_all(self.theirs.encrypt(b"pong"))
            assert await self.ours.receive_some() == b"pong"


async def labs(version: ssl.TLSVersion) -> AsyncIterator[Lab]:
    listener, backend = await tcp_listener()
    async with peers(listener) as accepted:
        lab = Lab(version, "127.0.0.1")
        await lab.connect(accepted, backend)
        yield lab
        await trio.aclose_forcefully(lab.ours)


@pytest.fixture(params=VERSIONS, ids=lambda version: version.name)
async def lab(request: pytest.FixtureRequest) -> AsyncIterator[Lab]:
    """One connection, under either version of TLS."""
    async for one in labs(request.param):
        yield one


@pytest.fixture
async def lab13() -> AsyncIterator[Lab]:
    """One connection, under TLS 1.3."""
    async for one in labs(ssl.TLSVersion.TLSv1_3):
        yield one


async def test_a_connection_is_an_ssl_stream(lab: Lab) -> None:
    """The stream that `connect` returns has shaken hands, and has the socket's options."""
    assert isinstance(lab.ours, trio.SSLStream)
    assert lab.ours.version() in {"TLSv1.2", "TLSv1.3"}
    assert lab.ours.server_hostname == "127.0.0.1"
    transport = lab.ours.transport_stream
    assert transport.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
    assert transport.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) != 0
    await lab.exchange()


async def test_an_idle_connection_is_whole(lab: Lab) -> None:
    """Before and after complete exchanges, however often it is asked."""
    for _ in range(3):
        assert not lab.broken
        assert not lab.broken
        await lab.exchange()
    assert not lab.broken


async def test_session_tickets_are_taken_in(lab13: Lab) -> None:
    """Tickets make the socket readable, and the connection is still whole."""
    tickets = lab13.theirs.tickets()
    assert len(tickets) > 100
    await lab13.deliver(tickets)
    assert is_readable(lab13.ours.transport_stream.socket)
    assert not lab13.broken
    assert not is_readable(lab13.ours.transport_stream.socket)
    assert lab13.ours.session.has_ticket
    assert not lab13.broken
    await lab13.exchange()
    assert not lab13.broken


async def test_tickets_that_come_with_a_response(lab13: Lab) -> None:
    """Tickets that the claimant's own reading has taken in leave nothing behind."""
    await lab13.deliver(lab13.theirs.encrypt(b"pong"))
    assert await lab13.ours.receive_some() == b"pong"
    assert lab13.ours.session.has_ticket
    assert not lab13.broken
    await lab13.exchange()


async def test_half_a_ticket_is_no_rest(lab13: Lab) -> None:
    """A part of a record may be the beginning of data, so the connection is not lent."""
    await lab13.deliver(lab13.theirs.tickets()[:-1])
    assert lab13.broken


@pytest.mark.parametrize("after", ["tickets", "nothing"])
async def test_a_peer_that_has_hung_up(lab13: Lab, after: str) -> None:
    """The end of the stream is seen, behind tickets too."""
    if after == "tickets":
        await lab13.deliver(lab13.theirs.tickets())
    await lab13.theirs.stream.aclose()
    await trio.sleep(0.01)
    await until_readable(lab13.ours.transport_stream)
    assert lab13.broken


async def test_a_peer_that_has_hung_up_under_both_versions(lab: Lab) -> None:
    """With and without tickets, the end is the end."""
    await lab.theirs.stream.aclose()
    await until_readable(lab.ours.transport_stream)
    assert lab.broken


async def test_a_peer_that_has_said_goodbye(lab: Lab) -> None:
    """A ``close_notify`` is the end, though the socket may stay open."""
    await lab.deliver(lab.theirs.close_notify())
    assert lab.broken


async def test_an_end_that_the_claimant_has_seen(lab: Lab) -> None:
    """A connection whose last claimant has read the ``close_notify`` is broken."""
    await lab.deliver(lab.theirs.close_notify())
    assert await lab.ours.receive_some() == b""
    assert not is_readable(lab.ours.transport_stream.socket)
    assert lab.broken


async def test_an_end_of_the_transport_that_the_claimant_has_seen(lab: Lab) -> None:
    """The same for the end of the stream without a ``close_notify``."""
    await lab.theirs.stream.aclose()
    with pytest.raises(trio.BrokenResourceError):
        await lab.ours.receive_some()
    assert lab.broken


async def test_a_peer_that_has_reset(lab: Lab) -> None:
    """A reset is seen while the connection is idle."""
    linger = b"\1\0\0\0\0\0\0\0"
    lab.theirs.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    await lab.theirs.stream.aclose()
    await until_readable(lab.ours.transport_stream)
    assert lab.broken


async def test_stray_bytes(lab: Lab) -> None:
    """Data that nobody asked for are seen, with tickets before them or not."""
    await lab.deliver(lab.theirs.encrypt(b"x"))
    assert lab.broken


async def test_stray_bytes_after_the_tickets_were_taken_in(lab13: Lab) -> None:
    """A connection that was whole is broken once data arrive."""
    await lab13.deliver(lab13.theirs.tickets())
    assert not lab13.broken
    await lab13.deliver(lab13.theirs.encrypt(b"x"))
    assert lab13.broken


async def test_a_response_that_was_read_in_part(lab: Lab) -> None:
    """Data that OpenSSL has decrypted, and the claimant has not fetched, are seen."""
    await lab.deliver(lab.theirs.encrypt(b"pong"))
    assert await lab.ours.receive_some(2) == b"po"
    assert not is_readable(lab.ours.transport_stream.socket)
    assert lab.broken


async def test_a_second_response_behind_the_first(lab: Lab) -> None:
    """Data that OpenSSL has received, and not yet decrypted, are seen."""
    await lab.deliver(lab.theirs.encrypt(b"pong") + lab.theirs.encrypt(b"stray"))
    assert await lab.ours.receive_some() == b"pong"
    assert not is_readable(lab.ours.transport_stream.socket)
    assert lab.broken


@pytest.mark.parametrize("size", [1, 4, 5, 6, -1])
async def test_half_a_response_behind_the_first(lab: Lab, size: int) -> None:
    """The beginning of a stray record is noticed, even if only a part of its header is there."""
    pong, stray = lab.theirs.encrypt(b"pong"), lab.theirs.encrypt(b"stray")
    await lab.deliver(pong + stray[:size])
    assert await lab.ours.receive_some() == b"pong"
    assert not is_readable(lab.ours.transport_stream.socket)
    assert lab.broken


async def test_bytes_that_are_not_tls(lab: Lab) -> None:
    """Noise between records is an error, and not read as anything."""
    await lab.deliver(b"\x00\x00\x00\x00\x01\x00")
    assert lab.broken


async def test_a_peer_that_babbles(lab: Lab) -> None:
    """More than an idle connection could receive is not even looked at."""
    await lab.theirs.stream.send_all(lab.theirs.encrypt(bytes(100_000)))
    await trio.sleep(0.02)
    assert lab.broken


async def test_a_closed_connection_is_broken(lab: Lab) -> None:
    """A connection that the claimant closed is not lent again; closing it again is no error."""
    await lab.ours.aclose()
    assert lab.broken
    await lab.connector.disconnect(lab.ours)


async def test_another_connectors_connection_is_refused(lab: Lab) -> None:
    """A connector knows its own connections only."""
    with pytest.raises(ValueError, match="was not made by this connector"):
        TlsConnector(lab.client).is_broken(lab.ours)


async def test_disconnect_says_goodbye(lab: Lab) -> None:
    """The peer gets a ``close_notify`` before the end of the stream."""
    await lab.connector.disconnect(lab.ours)
    assert await lab.theirs.receive() == b""


async def test_disconnect_with_unread_data(lab: Lab) -> None:
    """A connection that is discarded for stray bytes is closed without an error."""
    await lab.deliver(lab.theirs.encrypt(b"stray"))
    assert lab.broken
    await lab.connector.disconnect(lab.ours)


async def test_disconnect_from_a_peer_that_does_not_read(lab: Lab) -> None:
    """The goodbye cannot be sent: it takes a deadline to end it, and then all is closed."""
    transport = lab.ours.transport_stream

    async def send_all(data: bytes) -> None:
        """All buffers are full by decree; how much the system buffers is its own affair."""
        await trio.sleep_forever()

    transport.send_all = send_all
    with trio.move_on_after(0.05) as scope:
        await lab.connector.disconnect(lab.ours)
    assert scope.cancelled_caught
    assert transport.socket.fileno() == -1


async def test_closed_connections_are_forgotten(lab: Lab) -> None:
    """The connector keeps nothing of connections that are gone."""
    assert len(lab.connector._parts) == 1
    await lab.connector.disconnect(lab.ours)
    lab.ours = await trio.open_tcp_stream(*lab.theirs.stream.socket.getsockname())
    gc.collect()
    assert len(lab.connector._parts) == 0


async def dial(connector: TlsConnector, server: ssl.SSLContext, backend: Backend) -> Any:
    """Connect to a server that shakes hands with each client, and may fail at it."""
    listener, there = await tcp_listener()
    assert there.port is not None
    assert backend.host is not None
    backend = Backend((backend.host, there.port), name=backend.name, target=backend.target)
    async with peers(listener) as accepted, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def serve() -> None:
            peer = TlsPeer(await accepted.receive(), server)
            with suppress(ssl.SSLError):
                await peer.handshake()

        async with await connector.connect(backend) as conn:
            hostname = conn.server_hostname
    return hostname


@pytest.mark.parametrize(
    ("certified", "host", "hostname"),
    [
        ("127.0.0.1", "127.0.0.1", None),
        ("localhost", "localhost", None),
        ("db.test", "127.0.0.1", "db.test"),
        ("db.test", "127.0.0.1", lambda backend: backend.name.partition(":")[0]),
    ],
)
async def test_the_name_that_is_checked(certified: str, host: str, hostname: Any) -> None:
    """The checked name is the backend's host, or one name for all, or a function of each."""
    lab = Lab(VERSIONS[1], certified)
    connector = TlsConnector(lab.client, server_hostname=hostname)
    backend = Backend((host, 1), name="db.test:1@127.0.0.1")
    assert await dial(connector, lab.server, backend) == certified


@pytest.mark.parametrize("default", [True, False])
async def test_a_certificate_that_does_not_fit(default: bool) -> None:
    """An untrusted or misnamed certificate fails, says why, and leaves nothing open."""
    lab = Lab(VERSIONS[1], "db.test")
    connector = TlsConnector() if default else lab.connector
    fails = pytest.RaisesExc(
        ConnectionError,
        match=r"TLS handshake with db failed: .*certificate",
        check=lambda exc: isinstance(exc.__cause__, ssl.SSLCertVerificationError),
    )
    with no_socket_left(), pytest.RaisesGroup(fails, flatten_subgroups=True):
        await dial(connector, lab.server, Backend(("127.0.0.1", 1), name="db"))


async def test_a_peer_that_hangs_up_in_the_handshake() -> None:
    """A server that does not speak TLS is a failure, and nothing stays open."""
    listener, backend = await tcp_listener()
    async with peers(listener) as accepted, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def hang_up() -> None:
            await (await accepted.receive()).aclose()

        with pytest.raises(ConnectionError, match=r"TLS handshake with 127.*does not speak TLS"):
            await TlsConnector().connect(backend)


async def test_a_hostname_function_that_fails() -> None:
    """The function's error comes out of `connect`, and the transport is closed."""
    listener, backend = await tcp_listener()
    async with listener:
        with no_socket_left(), pytest.raises(ZeroDivisionError):
            await TlsConnector(server_hostname=lambda _: str(1 / 0)).connect(backend)


@pytest.mark.parametrize("seconds", [0, 0.02])
async def test_a_cancelled_connect_leaves_nothing(seconds: float) -> None:
    """Cancelled in the dial, or in a handshake that hangs, `connect` closes its socket."""
    listener, backend = await tcp_listener()
    async with listener:
        with no_socket_left(), trio.move_on_after(seconds) as scope:
            await TlsConnector().connect(backend)
        assert scope.cancelled_caught


async def test_https_compatible_closes_without_a_goodbye() -> None:
    """The peer sees the bare end of the stream."""
    listener, backend = await tcp_listener()
    async with peers(listener) as accepted:
        lab = Lab(VERSIONS[1], "127.0.0.1")
        lab.connector = TlsConnector(lab.client, https_compatible=True)
        await lab.connect(accepted, backend)
        await lab.exchange()
        assert not lab.broken
        await lab.connector.disconnect(lab.ours)
        with pytest.raises(ssl.SSLError, match=r"(?i)eof"):
            await lab.theirs.receive()


async def test_starting_tls_later() -> None:
    """A subclass says something in clear first, and starts TLS then."""

    class Polite(TlsConnector):
        async def connect(self, backend: Backend) -> trio.SSLStream[trio.SocketStream]:
            transport = await TcpConnector().connect(backend)
            await transport.send_all(b"STARTTLS")
            return await self.start_tls(transport, backend)

    lab = Lab(VERSIONS[1], "127.0.0.1")
    lab.connector = Polite(lab.client)
    listener, backend = await tcp_listener()
    async with peers(listener) as accepted:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def dial() -> None:
                lab.ours = await lab.connector.connect(backend)

            stream = await accepted.receive()
            assert await stream.receive_some(8) == b"STARTTLS"
            lab.theirs = TlsPeer(stream, lab.server)
            await lab.theirs.handshake()
        await lab.exchange()
        assert not lab.broken
        await lab.connector.disconnect(lab.ours)


async def test_the_wrong_kind_of_address() -> None:
    """A Unix path is refused under the connector's own name."""
    with pytest.raises(ValueError, match="TlsConnector connects to a"):
        await TlsConnector().connect(Backend("/run/x"))


def test_only_is_broken_is_overridden() -> None:
    """The hooks that a pool can skip are left alone."""
    for hook in ("is_valid", "on_acquire", "on_recycle", "should_recycle", "needs_recycle"):
        assert getattr(TlsConnector, hook) is getattr(Connector, hook)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"ssl_context": "default"}, TypeError, "ssl_context must be a SSLContext"),
        ({"server_hostname": ""}, ValueError, "server_hostname must not be empty"),
        ({"server_hostname": 7}, TypeError, "server_hostname must be a str, or a function"),
    ],
)
def test_bad_arguments(arguments: Any, kind: type[Exception], message: str) -> None:
    """Wrong arguments are refused at construction, naming the field."""
    with pytest.raises(kind, match=message):
        TlsConnector(**arguments)


def test_the_default_context_sees_a_stream_that_was_cut_off() -> None:
    """Without a context of the user's, the bare end of a stream is an error in every Python."""
    context = TlsConnector()._context
    assert not context.options & ssl.OP_IGNORE_UNEXPECTED_EOF
