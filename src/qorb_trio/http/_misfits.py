"""Words for servers that are no HTTP servers, or expect TLS: what their first bytes tell."""

from __future__ import annotations

from typing import Final

#: The first bytes of each response of HTTP/1.
_HTTP: Final = b"HTTP/"
#: The first bytes of a record with an alert, in all versions of TLS: RFC 8446, 5.1.
_TLS_ALERT: Final = b"\x15\x03"
#: Maximum number of bytes of an answer that are shown.
_SHOWN: Final = 40


def begins_response(data: bytes) -> bool:
    """Return true if the first bytes from a server may be those of a response."""
    return data[: len(_HTTP)] == _HTTP[: len(data)]


def has_begun_response(data: bytes) -> bool:
    """Return true if there are enough bytes, and they are those of a response."""
    return data.startswith(_HTTP)


def of_answer(name: str, data: bytes) -> str:
    """Return what is wrong with a server whose first bytes are not those of a response."""
    if data.startswith(_TLS_ALERT):
        return f"{name} expects TLS: it has answered with a TLS alert"
    return f"{name} is no HTTP server: it has answered with {data[:_SHOWN]!r}"


def of_silence(name: str, *, is_secure: bool) -> str:
    """Return what is probably wrong with a server that has never said anything."""
    return (
        f"{name} has accepted the connection, but does not answer: it is slow, hangs,"
        f" {_or_is_none(is_secure)}"
    )


def of_close(name: str, *, is_secure: bool) -> str:
    """Return what is probably wrong with a server that closes instead of its first answer."""
    return (
        f"{name} closed the connection before it answered: it was stopped, {_or_is_none(is_secure)}"
    )


def _or_is_none(is_secure: bool) -> str:
    return "or is no HTTP server" if is_secure else "is no HTTP server, or expects TLS"


def of_status(probe: str, status: int, body: bytes) -> str:
    """Return what is wrong with a server that has answered a probe with an error."""
    # nginx and Go say HTTPS, Apache says SSL.
    expects_tls = status == 400 and any(word in body for word in (b"HTTPS", b"SSL"))
    hint = ": it expects TLS" if expects_tls else ""
    return f"it has answered GET {probe} with {status}{hint}"
