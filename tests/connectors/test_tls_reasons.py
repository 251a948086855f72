"""field-faults A and E: a TLS connection says why it is broken."""

from __future__ import annotations

import os
import socket
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import trio

from qorb_trio import MisusedConnectionError, StaleConnectionError

from . import test_tls
from .kit import fault_of, peers, tcp_listener, until_readable
from .test_tls import VERSIONS, Lab, TlsPeer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.real

RESET = b"\1\0\0\0\0\0\0\0"


@pytest.fixture(params=VERSIONS, ids=lambda version: version.name)
async def lab(request: pytest.FixtureRequest) -> AsyncIterator[Lab]:
    """One connection, under either version of TLS."""
    async for one in test_tls.labs(request.param):
        yield one


def check(lab: Lab, kind: type[Exception], text: str) -> None:
    """Check that the connector gives this reason."""
    fault = fault_of(lab.connector, lab.ours)
    assert type(fault) is kind
    assert str(fault) == f"the connection {text}"


async def test_tls_says_which_closed_by_the_peer(lab: Lab) -> None:
    """The bare end of the stream is the peer's close."""
    await lab.theirs.stream.aclose()
    await until_readable(lab.ours.transport_stream)
    check(lab, StaleConnectionError, "was closed by the peer")


async def test_tls_says_which_closed_by_the_peer_with_goodbye(lab: Lab) -> None:
    """A ``close_notify``, with or without the end of the stream, is a close by the peer."""
    await lab.deliver(lab.theirs.close_notify())
    check(lab, StaleConnectionError, "was closed by the peer")
    await lab.theirs.stream.aclose()
    await until_readable(lab.ours.transport_stream)
    check(lab, StaleConnectionError, "was closed by the peer")


async def test_tls_says_which_closed_by_the_peer_after_a_last_word(lab: Lab) -> None:
    """A last word before the goodbye is no misuse."""
    await lab.deliver(lab.theirs.encrypt(b"bye") + lab.theirs.close_notify())
    check(lab, StaleConnectionError, "was closed by the peer, after 3 unread bytes")


async def test_tls_says_which_end_that_the_claimant_has_seen(lab: Lab) -> None:
    """The reason is the same if the claimant has seen the end."""
    await lab.theirs.stream.aclose()
    with pytest.raises(trio.BrokenResourceError):
        await lab.ours.receive_some()
    check(lab, StaleConnectionError, "was closed by the peer")


async def test_tls_says_which_reset_by_the_peer(lab: Lab) -> None:
    """A reset is told from an orderly end."""
    lab.theirs.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    await lab.theirs.stream.aclose()
    await until_readable(lab.ours.transport_stream)
    check(lab, StaleConnectionError, "was reset by the peer")


async def test_tls_says_which_unread_data_and_how_many_bytes(lab: Lab) -> None:
    """Data of several records are counted, wherever they are buffered."""
    await lab.deliver(lab.theirs.encrypt(b"pong") + lab.theirs.encrypt(b"stray"))
    assert await lab.ours.receive_some(2) == b"po"
    check(lab, MisusedConnectionError, "has 7 unread bytes")


async def test_tls_says_which_part_of_a_record(lab: Lab) -> None:
    """A part of a record cannot be counted in bytes of data."""
    pong, stray = lab.theirs.encrypt(b"pong"), lab.theirs.encrypt(b"stray")
    await lab.deliver(pong + stray[:7])
    assert await lab.ours.receive_some() == b"pong"
    check(lab, MisusedConnectionError, "has a part of a TLS record, unread")


async def test_tls_says_which_a_babbling_peer(lab: Lab) -> None:
    """More bytes than an idle connection could receive are not even decrypted."""
    await lab.theirs.stream.send_all(lab.theirs.encrypt(bytes(100_000)))
    await trio.sleep(0.02)
    check(lab, MisusedConnectionError, "has at least 65536 unread bytes")


async def test_tls_says_which_closed_by_this_program(lab: Lab) -> None:
    """The claimant's own close counts against nobody."""
    await lab.ours.aclose()
    check(lab, MisusedConnectionError, "was closed by this program")


async def test_tls_says_which_half_closed_by_us(lab: Lab) -> None:
    """A half-close of the transport by this program counts as misuse."""
    await lab.ours.transport_stream.send_eof()
    check(lab, MisusedConnectionError, "was half closed by this program")


async def test_tls_says_which_ended_by_unwrap(lab: Lab) -> None:
    """A connection after `unwrap` counts as misused, and is closed without an error."""
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def answer() -> None:
            assert await lab.theirs.receive() == b""
            await lab.theirs.stream.send_all(lab.theirs.tickets() + lab.theirs._outgoing.read())
            with suppress(ssl.SSLWantReadError):
                lab.theirs._tls.unwrap()
            await lab.theirs.stream.send_all(lab.theirs._outgoing.read())

        transport, _ = await lab.ours.unwrap()
    fault = fault_of(lab.connector, lab.ours)
    assert type(fault) is MisusedConnectionError
    assert str(fault) == "TLS was ended by this program (unwrap)"
    await lab.connector.disconnect(lab.ours)
    await transport.aclose()
    lab.ours = transport  # for the fixture


async def test_tls_says_which_an_error_of_the_system(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that is no reset is the reason itself."""

    def fail(fd: int, size: int) -> bytes:
        raise TimeoutError(110, "timed out")

    await lab.theirs.stream.aclose()
    await until_readable(lab.ours.transport_stream)
    monkeypatch.setattr(os, "read", fail)
    fault = fault_of(lab.connector, lab.ours)
    monkeypatch.undo()
    assert type(fault) is TimeoutError


async def test_tls_says_which_noise(lab: Lab) -> None:
    """Bytes that are not TLS are an error of the protocol, and say so."""
    await lab.deliver(b"\x00\x00\x00\x00\x01\x00")
    fault = fault_of(lab.connector, lab.ours)
    assert type(fault) is ConnectionError
    assert str(fault).startswith("the connection failed: [SSL")


async def test_tls13_refused_client_certificate_gives_the_alert_as_the_reason() -> None:
    """The server refuses after the handshake, and closes; the reason is its alert."""
    listener, backend = await tcp_listener()
    async with peers(listener) as accepted:
        lab = Lab(ssl.TLSVersion.TLSv1_3, "127.0.0.1")
        lab.server.verify_mode = ssl.CERT_REQUIRED
        test_tls.authority().configure_trust(lab.server)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def refuse() -> None:
                peer = TlsPeer(await accepted.receive(), lab.server)
                with pytest.raises(ssl.SSLError, match=r"(?i)certificate"):
                    await peer.handshake()
                await peer.stream.send_all(peer._outgoing.read())
                await peer.stream.aclose()

            lab.ours = await lab.connector.connect(backend)
        await until_readable(lab.ours.transport_stream)
        fault = fault_of(lab.connector, lab.ours)
        await trio.aclose_forcefully(lab.ours)
    assert type(fault) is ConnectionError
    assert "certificate required" in str(fault)


async def test_tls_fileno_says_what_to_watch(lab: Lab) -> None:
    """The pool's idle watcher gets the descriptor of the socket below."""
    assert lab.connector.fileno(lab.ours) == lab.ours.transport_stream.socket.fileno()


async def test_disconnect_without_a_spare_descriptor(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that has no descriptor left can still close its connections."""

    def fail(fd: int) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "dup", fail)
    await lab.connector.disconnect(lab.ours)
    monkeypatch.undo()
    assert await lab.theirs.receive() == b""
    closed: Any = fault_of(lab.connector, lab.ours)
    assert type(closed) is MisusedConnectionError
