"""HTTP, as little of it as is needed: one request on each connection. h11 knows the rest."""

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

#: The subprotocol that is spoken with those who ask for one.
PROTOCOL: Final = "qtop"
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
    """What is sent to who has not asked for a WebSocket, or does not get one."""

    status: int
    body: bytes
    headers: Sequence[tuple[bytes, bytes]] = ((b"Content-Type", b"text/plain; charset=utf-8"),)


def refuse(status: int, reason: str, *headers: tuple[bytes, bytes]) -> Answer:
    """An answer of one line."""
    plain = (b"Content-Type", b"text/plain; charset=utf-8")
    return Answer(status, f"{reason}\n".encode(), (plain, *headers))


async def read_request(stream: trio.abc.Stream, http: h11.Connection) -> h11.Request | None:
    """The head of the request, or `None` if nothing comes."""
    while True:
        event = http.next_event()
        if isinstance(event, h11.Request):
            return event
        if event is not h11.NEED_DATA:
            return None
        http.receive_data(bytes(await stream.receive_some(_CHUNK)))


def wants_websocket(request: h11.Request) -> bool:
    """Whether the client would rather have a WebSocket than a page."""
    return any(
        name == b"upgrade" and value.strip().lower() == b"websocket"
        for name, value in request.headers
    )


async def send_answer(
    stream: trio.abc.Stream, http: h11.Connection, answer: Answer, *, bare: bool
) -> None:
    """Send an answer, or its head only; after that the connection is to be closed."""
    headers = [*answer.headers, *_ALWAYS, (b"Content-Length", b"%d" % len(answer.body))]
    status = HTTPStatus(answer.status)
    response = h11.Response(status_code=status, reason=status.phrase.encode(), headers=headers)
    body = [] if bare else [h11.Data(data=answer.body)]
    parts = [http.send(it) for it in (response, *body, h11.EndOfMessage())]
    await stream.send_all(b"".join(part for part in parts if part))


async def switch_protocols(
    stream: trio.abc.Stream, http: h11.Connection, request: h11.Request
) -> wsproto.WSConnection:
    """Become a WebSocket.

    Raises:
      wsproto.utilities.RemoteProtocolError: it has not been asked for properly; nothing has
        been sent.
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
    """The page for browsers.

    It may run the one script and the one style that are in it, and connect to where it is
    from, and nothing else: whatever a backend is called, its name stays text.
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
