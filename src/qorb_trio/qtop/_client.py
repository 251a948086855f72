"""The client's end: connect to a program that serves its pools."""

from __future__ import annotations

import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, final
from urllib.parse import SplitResult, parse_qsl, quote, urlencode, urlsplit

import attrs
import trio
import wsproto
from wsproto.events import AcceptConnection, RejectConnection, RejectData, Request

from .._util import printable
from ._guard import is_loopback
from ._message import MAX_LENGTH
from ._websocket import WebSocket

#: The time limit for connecting, and for each message beyond the interval, in seconds.
PATIENCE: Final = 10.0
_CHUNK: Final = 65536
_PORTS: Final = {"ws": 80, "wss": 443}
_PAGES: Final = {"", "/", "/qtop", "/qtop/"}
_SCHEMES: Final = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}


@final
@attrs.frozen
class Target:
    """The address of a server."""

    scheme: str
    host: str
    port: int
    authority: str
    path: str

    @classmethod
    def parse(cls, url: str, interval: float) -> Target:
        """Parse a URL (the page's too), a host and port, or a port.

        Raises:
          ValueError: it is none of these.
        """
        if re.fullmatch(r":?[0-9]{1,5}", url):
            url = f"127.0.0.1:{url.removeprefix(':')}"
        parts: SplitResult = urlsplit(url if "://" in url else f"ws://{url}")
        scheme = _SCHEMES.get(parts.scheme)
        if scheme is None or not parts.hostname:
            raise ValueError(f"not the URL of a WebSocket: {printable(url)!r}")
        path = "/qtop/stats" if parts.path in _PAGES else quote(parts.path, safe="/%:@!$&'()*+,;=")
        query = dict(parse_qsl(parts.query)) | {"update_secs": f"{interval:g}"}
        return cls(
            scheme,
            parts.hostname,
            parts.port or _PORTS[scheme],
            parts.netloc.rpartition("@")[2],
            f"{path}?{urlencode(query)}",
        )

    @property
    def is_exposed(self) -> bool:
        """True if what is sent there can be read on the way: another host, without TLS."""
        return self.scheme == "ws" and not is_loopback(self.host)


@asynccontextmanager
async def connect(
    target: Target,
    *,
    token: str | None = None,
    ssl_context: ssl.SSLContext | None = None,
    longest: int = MAX_LENGTH,
    cut: bool = False,
) -> AsyncIterator[WebSocket]:
    """Open a connection for the length of the block.

    Args:
      target: the server.
      token: the secret that the server asks for.
      ssl_context: for ``wss``; by default the system's authorities are trusted.
      longest: the maximum length of a message, in characters.
      cut: True to cut longer messages off, False to fail.

    Raises:
      OSError, trio.BrokenResourceError, trio.TooSlowError: there is no connection.
    """
    with trio.fail_after(PATIENCE):
        stream = await _open_stream(target, ssl_context)
    async with stream:
        yield await shake_hands(stream, target, token=token, longest=longest, cut=cut)


async def shake_hands(
    stream: trio.abc.Stream,
    target: Target,
    *,
    token: str | None = None,
    longest: int = MAX_LENGTH,
    cut: bool = False,
) -> WebSocket:
    """Make a WebSocket from a stream that is connected to a server.

    Raises:
      ConnectionError, trio.BrokenResourceError, trio.TooSlowError: the server refuses.
    """
    protocol = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
    headers = [] if token is None else [(b"Authorization", f"Bearer {token}".encode())]
    request = Request(host=target.authority, target=target.path, extra_headers=headers)
    with trio.fail_after(PATIENCE):
        await stream.send_all(protocol.send(request))
        await _await_welcome(stream, protocol)
    return WebSocket(stream, protocol, longest=longest, patience=PATIENCE, cut=cut)


async def _open_stream(target: Target, ssl_context: ssl.SSLContext | None) -> trio.abc.Stream:
    stream = await trio.open_tcp_stream(target.host, target.port)
    if target.scheme == "ws":
        return stream
    context = ssl_context or ssl.create_default_context()
    return trio.SSLStream(stream, context, server_hostname=target.host, https_compatible=True)


async def _await_welcome(stream: trio.abc.Stream, protocol: wsproto.WSConnection) -> None:
    """Wait until the request is accepted; raise if it is refused."""
    status, why = 0, b""
    while True:
        for event in protocol.events():
            if isinstance(event, AcceptConnection):
                return
            if isinstance(event, RejectConnection):
                status = event.status_code
            else:
                assert isinstance(event, RejectData)
                why += event.data
        data = await stream.receive_some(_CHUNK)
        if not data or len(why) > _CHUNK:
            break
        protocol.receive_data(bytes(data))
    text = " ".join(why.decode("utf-8", "replace").split())[:200]
    raise ConnectionError(
        f"refused with status {status}: {printable(text)}"
        if status
        else "the server closed the connection"
    )
