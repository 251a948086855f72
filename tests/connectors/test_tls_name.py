"""field-faults E: the name that a certificate is checked against, and verification without gaps."""

from __future__ import annotations

import logging
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import trio

from qorb_trio import Backend, TlsConnector, UnixConnector
from qorb_trio.connectors._tls_name import verified_name

from .kit import no_socket_left, peers, tcp_listener, unix_listener
from .test_tls import VERSIONS, Lab, TlsPeer, dial

if TYPE_CHECKING:
    from pathlib import Path

NAMED = Backend(("10.0.0.1", 1), name="n", target="target.test")


@pytest.mark.parametrize(
    ("given", "backend", "name"),
    [
        ("given.test", NAMED, "given.test"),
        (lambda backend: f"of-{backend.name}", NAMED, "of-n"),
        (None, NAMED, "target.test"),
        (None, Backend(("10.0.0.1", 1)), "10.0.0.1"),
        (None, Backend(("host.test", 1)), "host.test"),
        (None, Backend("/run/x", target="target.test"), "target.test"),
    ],
)
def test_server_hostname_before_target_before_host(given: Any, backend: Backend, name: str) -> None:
    """The first that is given is the name that is sent and checked."""
    assert verified_name(given, backend) == name


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("db.test.", "db.test"),
        (lambda _: "db.test.", "db.test"),
        ("::1%1", "::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("100%", "100%"),
    ],
)
def test_final_dot_and_zone_are_stripped(given: Any, name: str) -> None:
    """No certificate has the root's dot, nor the zone of an address."""
    assert verified_name(given, NAMED) == name


def test_final_dot_and_zone_are_stripped_from_backends() -> None:
    """The same holds for the target, and for the host."""
    assert verified_name(None, Backend(("10.0.0.1", 1), target="db.test.")) == "db.test"
    assert verified_name(None, Backend(("::1%1", 1))) == "::1"
    assert verified_name(None, Backend(("db.test.", 1))) == "db.test"


@pytest.mark.parametrize("returned", [None, "", ".", " ", 7, b"db.test"])
def test_server_hostname_that_returns_no_name_is_a_value_error(returned: Any) -> None:
    """A function such as `dict.get` that returns `None` must not switch the check off."""
    with pytest.raises(ValueError, match=r"server_hostname returned .* for n: it must be a non-e"):
        verified_name(lambda _: returned, NAMED)


@pytest.mark.real
@pytest.mark.parametrize("returned", [None, "", 7])
async def test_server_hostname_that_returns_no_name_connects_nowhere(returned: Any) -> None:
    """The connect fails, although the certificate is of a trusted authority."""
    lab = Lab(VERSIONS[1], "127.0.0.1")
    connector = TlsConnector(lab.client, server_hostname=lambda _: returned)
    listener, backend = await tcp_listener()
    async with listener:
        with no_socket_left(), pytest.raises(ValueError, match="server_hostname returned"):
            await connector.connect(backend)


def test_a_path_without_a_name_is_a_value_error() -> None:
    """A Unix socket has no host to fall back on."""
    with pytest.raises(ValueError, match=r"/run/x has no host name .*: give TlsConn"):
        verified_name(None, Backend("/run/x"))


class TlsOverUnix(TlsConnector):
    """TLS on a Unix socket, by `start_tls`."""

    async def connect(self, backend: Backend) -> trio.SSLStream[trio.SocketStream]:
        return await self.start_tls(await UnixConnector().connect(backend), backend)


@pytest.mark.real
async def test_start_tls_over_a_unix_socket_needs_a_name(tmp_path: Path) -> None:
    """Without a name it is a ValueError, and nothing is left open; with one it is checked."""
    lab = Lab(VERSIONS[1], "db.test")
    listener, backend = await unix_listener(tmp_path / "s")
    async with peers(listener) as accepted:
        with pytest.raises(ValueError, match="has no host name"):
            await TlsOverUnix(lab.client).connect(backend)
        assert await (await accepted.receive()).receive_some() == b""
        for name in ("db.test", "other.test"):
            lab.connector = TlsOverUnix(lab.client, server_hostname=name)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(shake_hands, lab, accepted)
                if name == "db.test":
                    lab.ours = await lab.connector.connect(backend)
                    assert not lab.broken
                    assert lab.connector.fileno(lab.ours) >= 0
                    await lab.connector.disconnect(lab.ours)
                else:
                    with pytest.raises(ConnectionError, match="certificate"):
                        await lab.connector.connect(backend)


async def shake_hands(lab: Lab, accepted: trio.MemoryReceiveChannel[trio.SocketStream]) -> None:
    """Be the server in one handshake, which may fail."""
    with suppress(ssl.SSLError):
        await TlsPeer(await accepted.receive(), lab.server).handshake()


@pytest.mark.real
async def test_the_target_is_verified_by_default() -> None:
    """A certificate for the target is accepted, and one for the address alone is not."""
    backend = Backend(("127.0.0.1", 1), name="db", target="db.test.")
    lab = Lab(VERSIONS[1], "db.test")
    assert await dial(lab.connector, lab.server, backend) == "db.test"
    lab = Lab(VERSIONS[1], "127.0.0.1")
    fails = pytest.RaisesExc(ConnectionError, match="certificate")
    with pytest.RaisesGroup(fails, flatten_subgroups=True):
        await dial(lab.connector, lab.server, backend)


def test_server_hostname_must_not_be_async() -> None:
    """A coroutine is no name."""

    async def name(backend: Backend) -> str:
        return "db.test"

    with pytest.raises(TypeError, match="server_hostname must be a str, or a function"):
        TlsConnector(server_hostname=name)  # type: ignore[arg-type]


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "qorb_trio.connector" and record.levelno == logging.WARNING
    ]


@pytest.mark.real
@pytest.mark.parametrize(
    ("verify", "text"),
    [(ssl.CERT_NONE, "verify_mode is CERT_NONE"), (ssl.CERT_REQUIRED, "check_hostname is False")],
)
async def test_a_context_without_checks_is_accepted_with_one_warning(
    verify: ssl.VerifyMode, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The user made it so: one WARNING for each connector, and connections to any name."""
    lab = Lab(VERSIONS[1], "other.test")
    lab.client.check_hostname = False
    lab.client.verify_mode = verify
    connector = TlsConnector(lab.client)
    [message] = warnings_of(caplog)
    assert text in message
    for _ in range(2):
        assert await dial(connector, lab.server, Backend(("127.0.0.1", 1))) == "127.0.0.1"
    assert len(warnings_of(caplog)) == 1
    TlsConnector(lab.client)
    assert len(warnings_of(caplog)) == 2


@pytest.mark.real
async def test_a_context_that_loses_its_checks_later_is_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A context that is changed after the connector was made is noticed at the next connect."""
    lab = Lab(VERSIONS[1], "127.0.0.1")
    await dial(lab.connector, lab.server, Backend(("127.0.0.1", 1)))
    assert not warnings_of(caplog)
    lab.client.check_hostname = False
    await dial(lab.connector, lab.server, Backend(("127.0.0.1", 1)))
    [message] = warnings_of(caplog)
    assert message.startswith("TlsConnector: the SSL context does not check the server's name")
