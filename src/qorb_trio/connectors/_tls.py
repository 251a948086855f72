"""`TlsConnector`: TLS over TCP."""

from __future__ import annotations

import inspect
import logging
import os
import socket
import ssl
import weakref
from typing import TYPE_CHECKING, TypeAlias, cast

import trio

from .. import _validation as _check
from .._util import log_safely
from ..abc import Connector
from ._dial import open_tcp
from ._lateness import say_why_late
from ._sockets import close_socket
from ._tls_look import TlsParts, fault_of
from ._tls_name import ServerHostname, verified_name

if TYPE_CHECKING:
    from .._model.backend import Backend

TlsStream: TypeAlias = "trio.SSLStream[trio.SocketStream]"

logger = logging.getLogger("qorb_trio.connector")


class TlsConnector(Connector[TlsStream]):
    """A connector that yields a `trio.SSLStream` over TCP whose handshake is done.

    ``TCP_NODELAY`` and keep-alive are on. The certificate is verified as the context says,
    against one name per backend. The first of these that is given is that name:

    1. `server_hostname`, if it is a string: right if all backends have a certificate for the
       name of the service (``"db.example.com"``).
    2. `server_hostname`, if it is a function: the name that it returns for the backend.
    3. ``backend.target``, the host name behind the address. `DnsResolver` sets it to the
       target of the SRV record. Note that an SRV target comes from DNS: an attacker who can
       forge answers can choose the name that is checked. RFC 9525 therefore checks the name of the
       service, unless DNSSEC protects the answer: give it as `server_hostname`.
    4. The backend's host.

    A final dot and the zone of an IPv6 address are stripped. A connection without a name is
    refused. A context that does not check names or certificates is accepted, because the
    caller made it so; the connector says so in one WARNING (logger ``qorb_trio.connector``).

    Closing sends the peer a ``close_notify`` and does not wait for the peer's own. It is cut
    short after ``disconnect_timeout`` if the peer reads nothing.

    Args:
      ssl_context: `None` is `ssl.create_default_context`, which trusts the system's
        authorities.
      server_hostname: see above; sent to the server (SNI) and checked.
      https_compatible: passed to `trio.SSLStream`: neither send nor expect a
        ``close_notify``, as is the custom with HTTPS.

    Raises:
      TypeError, ValueError: naming the argument that is wrong.
    """

    def __init__(
        self,
        ssl_context: ssl.SSLContext | None = None,
        *,
        server_hostname: ServerHostname = None,
        https_compatible: bool = False,
    ) -> None:
        if ssl_context is None:
            ssl_context = ssl.create_default_context()
            # Python 3.11.2 sets this: a stream that was cut off would seem to be complete.
            ssl_context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
        _check.instance("ssl_context", ssl_context, ssl.SSLContext)
        _check_server_hostname(server_hostname)
        self._context = ssl_context
        self._server_hostname = server_hostname
        self._https_compatible = https_compatible
        self._parts: weakref.WeakKeyDictionary[TlsStream, TlsParts] = weakref.WeakKeyDictionary()
        self._has_warned = False
        self._warn_of_context()

    async def connect(self, backend: Backend) -> TlsStream:
        """Open a connection, and shake hands.

        Cancelled, or failing, it leaves nothing open.

        Raises:
          OSError: if the connection fails.
          ConnectionError: if the handshake fails; ``__cause__`` tells why, for example the
            `ssl.SSLCertVerificationError` of a certificate that is not trusted.
          TimeoutError: shortly before the time is up, if the server does not answer.
          ValueError: if the backend's address is the path of a Unix socket, or if there is no
            name to verify.
        """
        return await self.start_tls(await open_tcp(backend, type(self).__name__), backend)

    async def start_tls(self, transport: trio.SocketStream, backend: Backend) -> TlsStream:
        """Shake hands over a connection that is open.

        For a subclass whose protocol starts in clear, or whose transport is no TCP. Owns
        `transport`, and closes it when it fails or is cancelled. Raises as `connect` does.
        Over a Unix socket there is no host, so that `server_hostname` has to be given.
        """
        try:
            self._warn_of_context()
            parts = TlsParts(self._context)
            conn = trio.SSLStream(
                transport,
                cast("ssl.SSLContext", parts),
                server_hostname=verified_name(self._server_hostname, backend),
                https_compatible=self._https_compatible,
            )
            with say_why_late(
                f"TLS handshake with {backend.name}: the server has accepted the connection, but"
                " does not answer: it hangs, or does not speak TLS"
            ):
                await conn.do_handshake()
        except trio.BrokenResourceError as exc:
            close_socket(transport.socket)
            # Trio's error says no more than "broken"; its cause says why.
            reason = exc.__cause__ or exc
            raise ConnectionError(
                f"TLS handshake with {backend.name} failed: {reason}{_hint_at(reason)}"
            ) from reason
        except BaseException:
            # Without grace, and without a checkpoint: this may be a cancellation.
            close_socket(transport.socket)
            raise
        self._parts[conn] = parts
        return conn

    def _warn_of_context(self) -> None:
        """Say once that the context verifies less than it could; it may change meanwhile."""
        gap = _gap_of(self._context)
        if gap is not None and not self._has_warned:
            self._has_warned = True
            log_safely(
                logger,
                logging.WARNING,
                "%s: %s, so that anybody who controls the network can read and change what is sent",
                type(self).__name__,
                gap,
            )

    async def disconnect(self, conn: TlsStream) -> None:
        """Send a ``close_notify`` and close, for forked child processes too."""
        spare = _duplicate(conn)
        try:
            await conn.aclose()
        finally:
            if spare is not None:
                close_socket(spare)

    def is_broken(self, conn: TlsStream) -> bool:
        """Return False if `conn` is idle and whole, and raise the reason if it is not.

        Session tickets and other records without data are taken in and do not count. Data
        counts, even if it lies in a buffer because the last claimant left it unread, and so
        does a part of a record. Takes about 6 µs.

        Raises:
          StaleConnectionError: if the peer has closed or reset it.
          MisusedConnectionError: if this program has closed it, ended TLS on it, or left
            bytes unread.
          ConnectionError: for an alert of the peer, for example the refusal of the client's
            certificate, which under TLS 1.3 comes after the handshake.
          OSError: the system's error, for example after unanswered keep-alive probes.
          ValueError: if `conn` was not made by this connector.
        """
        parts = self._parts.get(conn)
        if parts is None:
            raise ValueError(f"{conn!r} was not made by this connector")
        fault = fault_of(conn.transport_stream, parts)
        if fault is not None:
            raise fault
        return False

    def fileno(self, conn: TlsStream) -> int:
        """Return the socket's descriptor."""
        return conn.transport_stream.socket.fileno()


def _check_server_hostname(given: object) -> None:
    if isinstance(given, str):
        if not given.strip().removesuffix("."):
            raise ValueError("server_hostname must not be empty")
    elif given is not None and (not callable(given) or inspect.iscoroutinefunction(given)):
        raise TypeError(
            "server_hostname must be a str, or a function that takes a Backend and is not"
            f" async, not {given!r}"
        )


def _gap_of(context: ssl.SSLContext) -> str | None:
    """Return what a context does not verify; `None` if it verifies all."""
    if context.verify_mode == ssl.CERT_NONE:
        return "the SSL context does not verify certificates (verify_mode is CERT_NONE)"
    if not context.check_hostname:
        return "the SSL context does not check the server's name (check_hostname is False)"
    return None


def _duplicate(conn: TlsStream) -> socket.socket | None:
    """Return another descriptor of the socket, because `trio.SSLStream.aclose` closes its own.

    `None` if the socket is closed, or if the process has no descriptor left.
    """
    # `unwrap` takes the transport away, which Trio's annotation does not say.
    transport = cast("trio.SocketStream | None", conn.transport_stream)
    if transport is None:
        return None
    try:
        return socket.socket(fileno=os.dup(transport.socket.fileno()))
    except OSError:
        return None


def _hint_at(reason: BaseException) -> str:
    """Return what the reason probably means, where its own words do not say so."""
    if isinstance(reason, ConnectionResetError | ssl.SSLEOFError):
        return ": the server was stopped, does not speak TLS at this port, or refuses this client"
    # What a plain answer gets.
    plain = isinstance(reason, ssl.SSLError) and reason.reason == "WRONG_VERSION_NUMBER"
    return ": the server does not speak TLS at this port" if plain else ""


TlsConnector.__module__ = "qorb_trio"  # where users import it from
