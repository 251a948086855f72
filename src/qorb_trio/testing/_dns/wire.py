"""Messages of the test DNS server, from bytes and to bytes. No I/O."""

from __future__ import annotations

import struct
from typing import Final

import dns.exception
import dns.flags
import dns.message
import dns.opcode
import dns.rcode

_HEADER: Final = struct.Struct("!HHHHHH")
_OPCODE_BITS: Final = 0x7800


def parse(data: bytes) -> dns.message.Message | bytes | None:
    """Return a question to answer, or an error to send at once, or `None` for neither."""
    # To answer an answer would make two servers talk for ever.
    if len(data) < _HEADER.size or _flags(data) & dns.flags.QR:
        return None
    if _flags(data) & _OPCODE_BITS:
        return _error(data, dns.rcode.NOTIMP)
    try:
        message = dns.message.from_wire(data)
    except (dns.exception.DNSException, ValueError):
        return _error(data, dns.rcode.FORMERR)
    if len(message.question) != 1:
        return _error(data, dns.rcode.FORMERR)
    if message.edns > 0:  # a version of EDNS that is yet to come
        response = dns.message.make_response(message)
        response.set_rcode(dns.rcode.BADVERS)
        return response.to_wire()
    return message


def _flags(data: bytes) -> int:
    flags: int = _HEADER.unpack_from(data)[1]
    return flags


def _error(data: bytes, rcode: dns.rcode.Rcode) -> bytes:
    """Return the response to an unreadable message: only a header (RFC 1035, 4.1.1)."""
    kept = _flags(data) & (_OPCODE_BITS | dns.flags.RD)
    return _HEADER.pack(_HEADER.unpack_from(data)[0], dns.flags.QR | kept | rcode, 0, 0, 0, 0)


def udp_limit(query: dns.message.Message, ours: int) -> int:
    """Return the maximum size of an answer over UDP, given our own maximum `ours`."""
    return 512 if query.edns < 0 else max(512, min(query.payload, ours))


def render(response: dns.message.Message, limit: int) -> bytes:
    """Return the bytes of a response. Records that do not fit are left out, and TC says so.

    Additional records are left out without TC: they are a courtesy. Records keep the order in
    which they were given, so that a test can be repeated.
    """
    return response.to_wire(max_size=limit, prefer_truncation=True, want_shuffle=False)
