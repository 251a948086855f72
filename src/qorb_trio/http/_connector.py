"""`HttpConnector`: HTTP/1.1 over a connector for streams."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import h11
import trio

from .. import StaleConnectionError, _validation as _check
from ..abc import Connector
from ..connectors import TcpConnector
from ._connection import HttpConnection

if TYPE_CHECKING:
    from .. import Backend

S = TypeVar("S", bound=trio.abc.Stream)

Probe: TypeAlias = "Callable[[HttpConnection], Awaitable[bool]]"


class HttpConnector(Connector[HttpConnection]):
    """Connects to HTTP/1.1 servers.

    A connection is lent again only if the last exchange on it was complete: the response was
    read to its end, neither side said ``Connection: close``, and nothing else has arrived.
    Everything else, a cancelled exchange for example, discards it. A response of any status is
    no failure.

    Args:
      streams: the connector for streams: `TcpConnector` (the default), `UnixConnector`, or
        `TlsConnector` for HTTPS. Its ``server_hostname`` says which name is verified, and
        ``https_compatible=True`` suits most servers.
      probe: the health check of idle connections. A path (``"/health"``) is asked for by
        ``GET``, and a status below 400 is healthy. A function is given the `HttpConnection`
        and returns true if it is healthy. By default there is none.

    Raises:
      TypeError, ValueError: naming the argument that is wrong.
    """

    def __init__(
        self, streams: Connector[S] | None = None, *, probe: str | Probe | None = None
    ) -> None:
        if streams is not None:
            _check.instance("streams", streams, Connector)
        if isinstance(probe, str) and not probe.startswith("/"):
            raise ValueError(f"probe must be a path that begins with '/', not {probe!r}")
        if not (probe is None or isinstance(probe, str) or callable(probe)):
            raise TypeError(f"probe must be a path or an async function, not {probe!r}")
        self._streams: Connector[Any] = TcpConnector() if streams is None else streams
        self._probe = probe

    async def connect(self, backend: Backend) -> HttpConnection:
        """Open a stream. Nothing is sent.

        Raises:
          OSError: the stream cannot be opened.
          ConnectionError: the server wants to speak HTTP/2.
        """
        stream = await self._streams.connect(backend)
        if isinstance(stream, trio.SSLStream) and stream.selected_alpn_protocol() == "h2":
            await trio.aclose_forcefully(stream)
            raise ConnectionError(
                f"{backend.name} has chosen HTTP/2, which is not supported: do not offer 'h2' in"
                " the SSL context's ALPN protocols"
            )
        return HttpConnection(stream, backend, self._streams.is_broken)

    async def is_valid(self, conn: HttpConnection) -> bool:
        """Ask the probe; without one, every connection is healthy."""
        if self._probe is None:
            return True
        if isinstance(self._probe, str):
            return (await conn.request("GET", self._probe)).status < 400
        return await self._probe(conn)

    async def on_recycle(self, conn: HttpConnection) -> None:
        """Do nothing: a connection that may be lent again is clean."""

    async def disconnect(self, conn: HttpConnection) -> None:
        """Close the stream."""
        await self._streams.disconnect(conn.stream)

    def is_broken(self, conn: HttpConnection) -> bool:
        """Tell whether an idle connection is closed, or has something to be read.

        Raises:
          StaleConnectionError: the server has closed it, or has said that it will.
        """
        if not conn.is_idle:
            raise StaleConnectionError("the last exchange has ended the connection")
        return self._streams.is_broken(conn.stream)

    def should_recycle(self, conn: HttpConnection, exc: BaseException | None) -> bool:  # noqa: ARG002
        """Keep a connection whose last exchange was complete, whatever has ended the claim."""
        return conn.is_idle

    def needs_recycle(self, conn: HttpConnection) -> bool:  # noqa: ARG002
        """Return false: there is nothing to clean."""
        return False

    def is_failure(self, conn: HttpConnection, exc: BaseException) -> bool:
        """Blame the server for breaking the protocol too."""
        return isinstance(exc, h11.RemoteProtocolError) or super().is_failure(conn, exc)

    def fileno(self, conn: HttpConnection) -> int | None:
        """Return the descriptor of the stream, as its connector tells it."""
        return self._streams.fileno(conn.stream)
