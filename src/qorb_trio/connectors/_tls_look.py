"""Look at an idle TLS connection.

A readable socket means nothing here: a TLS 1.3 server sends session tickets after the
handshake at any time, and they do not concern the user. A socket that is not readable means
little: data that the last claimant left unread can be in one of two buffers above it.

So everything that has arrived goes through OpenSSL, which drops tickets and the like, and is
then asked for one byte of data. If it has one, the connection is discarded, and the loss of
that byte does no harm.
"""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING, Final, TypeAlias, final

from .._model.errors import MisusedConnectionError, StaleConnectionError
from ._sockets import error_of, found_unread, is_readable, misuse_of

if TYPE_CHECKING:
    import trio

_RECORD_HEADER: Final = 5
_READ_SIZE: Final = 65536

#: Maximum number of bytes that an idle connection receives unless something is wrong. Two
#: session tickets are about 500 bytes; with client certificates in them, some thousands.
_MAX_WHILE_IDLE: Final = 65536

_CLOSED: Final = "the connection was closed by the peer"

#: The number of bytes of data that were there, and how the data ended, if they have.
_Data: TypeAlias = "tuple[int, OSError | None]"


@final
class TlsParts:
    """A stand-in for the `ssl.SSLContext` of one stream, which keeps what it makes.

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
        """Make the `ssl.SSLObject`, as `ssl.SSLContext.wrap_bio` does."""
        self.incoming = incoming
        self.tls = self._context.wrap_bio(
            incoming, outgoing, server_side=server_side, server_hostname=server_hostname
        )
        return self.tls


def fault_of(transport: trio.SocketStream | None, parts: TlsParts) -> OSError | None:
    """Return the reason why an idle connection cannot be used again; `None` if it can."""
    if transport is None:  # `trio.SSLStream.unwrap` takes it away
        return MisusedConnectionError("TLS was ended by this program (unwrap)")
    sock = transport.socket
    misuse = misuse_of(sock)
    if misuse is not None:
        return misuse
    arrived, end = b"", None
    if parts.incoming.pending or is_readable(sock):
        arrived, end = _take_all(sock, parts.incoming)
    return _judge(_read_all(parts.tls), arrived, end)


def _judge(data: _Data, arrived: bytes, transport_end: OSError | None) -> OSError | None:
    """Decide what is wrong, from the data within TLS and the bytes and the end below it."""
    count, tls_end = data
    # An alert comes before the end of the stream, and tells why it has ended.
    end = tls_end or transport_end
    if count and (end is None or isinstance(end, StaleConnectionError)):
        return found_unread(count, closed=end is not None)
    if end is not None:
        return end
    if _ends_within_record(arrived):
        return MisusedConnectionError("the connection has a part of a TLS record, unread")
    return None


def _take_all(
    sock: trio.socket.SocketType, incoming: ssl.MemoryBIO
) -> tuple[bytes, OSError | None]:
    """Move all received bytes into OpenSSL's buffer; return them, and why there are no more.

    The bytes before the end matter too: an alert tells why the peer has closed.
    """
    taken = bytearray(incoming.read())
    end: OSError | None = None
    while end is None and is_readable(sock):
        # A trio socket can be read by waiting only, so this goes around it. It is
        # readable, and has no other reader: this does not block.
        try:
            data = os.read(sock.fileno(), _READ_SIZE)
        except OSError as exc:
            end = error_of(exc)
            break
        taken += data
        if not data:
            end = StaleConnectionError(_CLOSED)
        elif len(taken) > _MAX_WHILE_IDLE:
            return b"", found_unread(len(taken), closed=False)
    if taken:
        incoming.write(taken)
    return bytes(taken), end


def _read_all(tls: ssl.SSLObject) -> _Data:
    """Count the data that can be read, and say how they end; `None` if more may follow.

    Asked even when nothing has arrived, because the last claimant may have seen the end.
    """
    count = 0
    try:
        while data := tls.read(_READ_SIZE if count else 1):
            count += len(data)
    except ssl.SSLWantReadError:
        return count, None
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
        pass
    except ssl.SSLError as exc:
        return count, ConnectionError(f"the connection failed: {exc}")
    return count, StaleConnectionError(_CLOSED)


def _ends_within_record(data: bytes) -> bool:
    """Return True if whole TLS records leave something over. The first byte begins a record.

    Each record is a header and a body: type (1 byte), version (2), length of the body (2).
    """
    end = 0
    while end + _RECORD_HEADER <= len(data):
        end += _RECORD_HEADER + int.from_bytes(data[end + 3 : end + _RECORD_HEADER], "big")
    return end != len(data)
