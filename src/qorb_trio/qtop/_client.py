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

from ._websocket import WebSocket

#: Seconds for connecting, and for anything to come after that, beyond the interval.
PATIENCE: Final = 10.0
_LONGEST: Final = 100_000_000
_CHUNK: Final = 65536
_PORTS: Final = {"ws": 80, "wss": 443}
_PAGES: Final = {"", "/", "/qtop", "/qtop/"}
_SCHEMES: Final = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}


@final
@attrs.frozen
class Target:
    """Where to connect to."""

    scheme: str
    host: str
    port: int
    authority: str
    path: str

    @classmethod
    def parse(cls, url: str, interval: float) -> Target:
        """Read what a user wrote: a URL, the page's too, or host and port, or just a port.

        Raises:
          ValueError: it makes no sense.
        """
        if re.fullmatch(r":?[0-9]{1,5}", url):
            url = f"127.0.0.1:{url.removeprefix(':')}"
        parts: SplitResult = urlsplit(url if "://" in url else f"ws://{url}")
        scheme = _SCHEMES.get(parts.scheme)
        if scheme is None or not parts.hostname:
            raise ValueError(f"not the URL of a WebSocket: {url!r}")
        path = "/qtop/stats" if parts.path in _PAGES else quote(parts.path, safe="/%:@!$&'()*+,;=")
        query = dict(parse_qsl(parts.query)) | {"update_secs": f"{interval:g}"}
        return cls(
            scheme,
            parts.hostname,
            parts.port or _PORTS[scheme],
            parts.netloc.rpartition("@")[2],
            f"{path}?{urlencode(query)}",
        )


@asynccontextmanager
async def connect(
    target: Target, *, token: str | None = None, ssl_context: ssl.SSLContext | None = None
) -> AsyncIterator[WebSocket]:
    """A connection, for the length of the block.

    Raises:
      OSError, trio.BrokenResourceError, trio.TooSlowError: it cannot be had.
    """
    with trio.fail_after(PATIENCE):
        stream = await _open_stream(target, ssl_context)
    async with stream:
        yield await shake_hands(stream, target, token=token)


async def shake_hands(
    stream: trio.abc.Stream, target: Target, *, token: str | None = None
) -> WebSocket:
    """Make a WebSocket of a stream that is connected to a server of those.

    Raises:
      ConnectionError, trio.BrokenResourceError, trio.TooSlowError: it cannot be done.
    """
    protocol = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
    headers = [] if token is None else [(b"Authorization", f"Bearer {token}".encode())]
    request = Request(host=target.authority, target=target.path, extra_headers=headers)
    with trio.fail_after(PATIENCE):
        await stream.send_all(protocol.send(request))
        await _await_welcome(stream, protocol)
    return WebSocket(stream, protocol, longest=_LONGEST, patience=PATIENCE)


async def _open_stream(target: Target, ssl_context: ssl.SSLContext | None) -> trio.abc.Stream:
    stream = await trio.open_tcp_stream(target.host, target.port)
    if target.scheme == "ws":
        return stream
    context = ssl_context or ssl.create_default_context()
    return trio.SSLStream(stream, context, server_hostname=target.host, https_compatible=True)


async def _await_welcome(stream: trio.abc.Stream, protocol: wsproto.WSConnection) -> None:
    """Wait for the answer to the request; raise if it is a no."""
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
    raise ConnectionError(f"refused with status {status}: {text}" if status else "hung up")
