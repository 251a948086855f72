"""`TlsConnector`: TLS over TCP.

The difficult part is to look at an idle connection. A readable socket means nothing here:
a TLS 1.3 server sends session tickets after the handshake, whenever it likes, and they are
no business of the user's. And a socket that is not readable means little: what the last
claimant has left unread can be in one of two buffers above it.

So everything that there is goes through OpenSSL, which drops tickets and the like, and is
then asked for one byte of data. If it has one, the connection is discarded, and it is no
loss that the byte is gone.
"""

from __future__ import annotations

import os
import ssl
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias, cast, final

import trio

from .. import _validation as _check
from ..abc import Connector
from ._sockets import is_readable, open_tcp

if TYPE_CHECKING:
    from .._model.backend import Backend

TlsStream: TypeAlias = "trio.SSLStream[trio.SocketStream]"

_RECORD_HEADER: Final = 5
_READ_SIZE: Final = 65536

#: More than this an idle connection does not receive, unless something is wrong. Two
#: session tickets are about 500 bytes; with client certificates in them, some thousands.
_MOST_WHILE_IDLE: Final = 65536


@final
class _Inside:
    """Stands in for the `ssl.SSLContext` of one stream, and keeps what it makes.

    `trio.SSLStream` asks its context for an `ssl.SSLObject` between two buffers, and
    keeps all three to itself.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self.incoming: ssl.MemoryBIO
        self.tls: ssl.SSLObject

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        *,
        server_side: bool,
        server_hostname: str | None,
    ) -> ssl.SSLObject:
        self.incoming = incoming
        self.tls = self._context.wrap_bio(
            incoming, outgoing, server_side=server_side, server_hostname=server_hostname
        )
        return self.tls


class TlsConnector(Connector[TlsStream]):
    """Connects by TLS over TCP, and yields a `trio.SSLStream` whose handshake is done.

    ``TCP_NODELAY`` and keep-alive are on. Certificates are verified, as the context
    says, against one name per backend, the `server_hostname`:

    * `None`, the default, is the backend's host: right for hosts that are names. With a
      DNS resolver, the host is an IP address, which few certificates are made for.
    * A string is used for every backend: right where all of them have a certificate for
      the name of the service (``"db.example.com"``).
    * A function of the backend returns the name. `DnsResolver` names its backends
      ``target:port@address``, so ``lambda backend: backend.name.partition(":")[0]`` is
      the target of the SRV record. Mind that the target comes from DNS: who can forge
      answers can choose the name that is checked. RFC 9525 has the name of the service
      checked instead, unless DNSSEC protects the answer.

    Closing sends the peer a ``close_notify``, does not wait for its own, and is given up
    on after ``disconnect_timeout`` if the peer reads nothing.

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
        server_hostname: str | Callable[[Backend], str] | None = None,
        https_compatible: bool = False,
    ) -> None:
        if ssl_context is None:
            ssl_context = ssl.create_default_context()
        _check.instance("ssl_context", ssl_context, ssl.SSLContext)
        if isinstance(server_hostname, str):
            if not server_hostname:
                raise ValueError("server_hostname must not be empty")
        elif server_hostname is not None and not callable(server_hostname):
            raise TypeError(
                "server_hostname must be a str, or a function that takes a Backend,"
                f" not {server_hostname!r}"
            )
        self._context = ssl_context
        self._server_hostname = server_hostname
        self._https_compatible = https_compatible
        self._insides: weakref.WeakKeyDictionary[TlsStream, _Inside] = weakref.WeakKeyDictionary()

    async def connect(self, backend: Backend) -> TlsStream:
        """Open a connection, and shake hands.

        Cancelled, or failing, it leaves nothing open.

        Raises:
          OSError: if the connection fails.
          ConnectionError: if the handshake fails; ``__cause__`` tells why, as the
            `ssl.SSLCertVerificationError` of a certificate that is not trusted.
          ValueError: if the backend's address is the path of a Unix socket.
        """
        return await self.start_tls(await open_tcp(backend, type(self).__name__), backend)

    async def start_tls(self, transport: trio.SocketStream, backend: Backend) -> TlsStream:
        """Shake hands over a connection that is open: for a subclass whose protocol
        starts in clear, and whose `connect` does too.

        Owns `transport`: when it fails or is cancelled, that is closed. Raises as
        `connect` does.
        """
        try:
            inside = _Inside(self._context)
            conn = trio.SSLStream(
                transport,
                cast("ssl.SSLContext", inside),
                server_hostname=self._hostname(backend),
                https_compatible=self._https_compatible,
            )
            await conn.do_handshake()
        except trio.BrokenResourceError as exc:
            transport.socket.close()
            # Trio's error says no more than "broken"; its cause says why.
            reason = exc.__cause__ or exc
            raise ConnectionError(f"TLS handshake with {backend.name} failed: {reason}") from reason
        except BaseException:
            # Without grace, and without a checkpoint: this may be a cancellation.
            transport.socket.close()
            raise
        self._insides[conn] = inside
        return conn

    def _hostname(self, backend: Backend) -> str | None:
        if callable(self._server_hostname):
            return self._server_hostname(backend)
        return self._server_hostname or backend.host

    def is_broken(self, conn: TlsStream) -> bool:
        """Whether `conn`, which should be idle, is closed or has data to be read.

        Session tickets and their like are taken in and do not count. Data does, where
        the last claimant has left it unread too, and so does a part of a message whose
        rest is still to come. Takes about 6 µs.

        Raises:
          ValueError: if `conn` was not made by this connector.
        """
        inside = self._insides.get(conn)
        if inside is None:
            raise ValueError(f"{conn!r} was not made by this connector")
        if inside.tls.pending():
            return True
        sock = conn.transport_stream.socket
        arrived = b""
        if inside.incoming.pending or is_readable(sock):
            try:
                arrived = _take_all(sock, inside.incoming)
            except OSError:
                return True
        return _has_data(inside.tls) or _ends_within_record(arrived)


def _take_all(sock: trio.socket.SocketType, incoming: ssl.MemoryBIO) -> bytes:
    """Move what a socket has received into OpenSSL's buffer; return all that is there.

    Raises:
      OSError: at the end of the stream, and for a closed, broken or babbling one.
    """
    taken = bytearray(incoming.read())
    while is_readable(sock):
        # A trio socket can be read by waiting only, so this goes around it. It is
        # readable, and has no other reader: this does not block.
        data = os.read(sock.fileno(), _READ_SIZE)
        taken += data
        if not data or len(taken) > _MOST_WHILE_IDLE:
            raise ConnectionResetError
    incoming.write(taken)
    return bytes(taken)


def _has_data(tls: ssl.SSLObject) -> bool:
    """Whether there is anything but "nothing to be read": data, their end, or an error.

    Asked even when nothing has arrived, because the last claimant may have seen the end.
    """
    try:
        tls.read(1)
    except ssl.SSLWantReadError:
        return False
    except ssl.SSLError:
        return True
    return True


def _ends_within_record(data: bytes) -> bool:
    """Whether whole TLS records leave something over. The first byte begins a record.

    Each record is a header and a body: type (1 byte), version (2), length of the body (2).
    """
    end = 0
    while end + _RECORD_HEADER <= len(data):
        end += _RECORD_HEADER + int.from_bytes(data[end + 3 : end + _RECORD_HEADER], "big")
    return end != len(data)
