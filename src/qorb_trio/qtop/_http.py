"""HTTP, as much as is needed: one request on each connection. h11 knows the protocol."""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Final, final

import attrs
import h11
import trio
import wsproto
from wsproto.events import AcceptConnection, Request

#: The WebSocket subprotocol, for clients that offer one.
PROTOCOL: Final = "qtop"
#: The maximum size of a request's head, in bytes and in lines. A browser sends about a
#: thousand bytes in twenty lines; to parse a hundred takes about a millisecond.
MAX_HEAD: Final = 16384
MAX_LINES: Final = 100
_END_OF_HEAD: Final = re.compile(rb"\n\r?\n")
_CHUNK: Final = 4096
_ALWAYS: Final = (
    (b"Cache-Control", b"no-store"),
    (b"Connection", b"close"),
    (b"Referrer-Policy", b"no-referrer"),
    (b"X-Content-Type-Options", b"nosniff"),
)


@final
@attrs.frozen
class Answer:
    """An answer to a request that asks for no WebSocket, or does not get one."""

    status: int
    body: bytes
    headers: Sequence[tuple[bytes, bytes]] = ((b"Content-Type", b"text/plain; charset=utf-8"),)


def refuse(status: int, reason: str, *headers: tuple[bytes, bytes]) -> Answer:
    """Return an answer of one line."""
    plain = (b"Content-Type", b"text/plain; charset=utf-8")
    return Answer(status, f"{reason}\n".encode(), (plain, *headers))


async def read_head(stream: trio.abc.Stream) -> bytes:
    """Read a request's head, and perhaps more.

    Returns an empty string if the client closes the connection before the end of the head, or
    if it does not speak HTTP. A head that is too long ends after `MAX_HEAD` bytes.
    """
    head = bytearray()
    while _END_OF_HEAD.search(head, max(0, len(head) - _CHUNK - 2)) is None:
        data = await stream.receive_some(_CHUNK)
        head += data
        if not data or not head[:1].isalpha():
            return b""
        if len(head) > MAX_HEAD:
            break
    return bytes(head)


def parse_request(http: h11.Connection, head: bytes) -> h11.Request | Answer:
    """Parse what `read_head` returned; return an answer if it is too much.

    Raises:
      h11.RemoteProtocolError: it is no request.
    """
    end = _END_OF_HEAD.search(head)
    if end is None or end.end() > MAX_HEAD or head.count(b"\n", 0, end.end()) > MAX_LINES:
        return refuse(431, "the head of the request is too long")
    http.receive_data(head)
    event = http.next_event()
    assert isinstance(event, h11.Request)
    return event


def wants_websocket(request: h11.Request) -> bool:
    """Return True if the client asks for a WebSocket, not for a page."""
    return any(
        name == b"upgrade" and value.strip().lower() == b"websocket"
        for name, value in request.headers
    )


async def send_answer(
    stream: trio.abc.Stream, http: h11.Connection, answer: Answer, *, bare: bool
) -> None:
    """Send an answer, or only its head if `bare`. The caller closes the connection then."""
    headers = [*answer.headers, *_ALWAYS, (b"Content-Length", b"%d" % len(answer.body))]
    status = HTTPStatus(answer.status)
    response = h11.Response(status_code=status, reason=status.phrase.encode(), headers=headers)
    body = [] if bare else [h11.Data(data=answer.body)]
    parts = [http.send(it) for it in (response, *body, h11.EndOfMessage())]
    await stream.send_all(b"".join(part for part in parts if part))


async def switch_protocols(
    stream: trio.abc.Stream, http: h11.Connection, request: h11.Request
) -> wsproto.WSConnection:
    """Accept a WebSocket.

    Raises:
      wsproto.utilities.RemoteProtocolError: the request is malformed, and nothing was sent.
    """
    protocol = wsproto.WSConnection(wsproto.ConnectionType.SERVER)
    protocol.initiate_upgrade_connection(list(request.headers), request.target)
    (asked,) = protocol.events()
    assert isinstance(asked, Request)
    chosen = PROTOCOL if PROTOCOL in asked.subprotocols else None
    await stream.send_all(protocol.send(AcceptConnection(subprotocol=chosen)))
    early, _ = http.trailing_data
    if early:
        protocol.receive_data(early)
    return protocol


def load_page() -> Answer:
    """Return the page for browsers.

    The page's policy permits the one script and the one style that are in it, connections to
    the server that it came from, and nothing else. So no backend's name can become code.
    """
    page = importlib.resources.files(__package__).joinpath("page.html").read_bytes()
    policy = (
        b"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        b"connect-src 'self'; img-src data:; script-src %b; style-src %b"
        % (_hash_of(b"script", page), _hash_of(b"style", page))
    )
    return Answer(
        200,
        page,
        (
            (b"Content-Type", b"text/html; charset=utf-8"),
            (b"Content-Security-Policy", policy),
        ),
    )


def _hash_of(element: bytes, page: bytes) -> bytes:
    match = re.search(rb"<%b>(.*?)</%b>" % (element, element), page, re.DOTALL)
    assert match is not None
    return b"'sha256-%b'" % base64.b64encode(hashlib.sha256(match[1]).digest())
