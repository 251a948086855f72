"""`HttpConnector`: HTTP/1.1 over a connector for streams."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import h11
import trio

from .. import StaleConnectionError, _validation as _check
from ..abc import Connector
from ..connectors import TcpConnector
from ..connectors._lateness import say_why_late
from . import _misfits
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
        and returns true if it is healthy. By default there is none. A new connection is asked
        too, so that a server that is none for HTTP, or expects TLS, never counts as online.

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
        """Open a stream, and ask the probe if there is one.

        Cancelled, or failing, it leaves nothing open.

        Raises:
          OSError: the stream cannot be opened.
          ConnectionError: the server wants to speak HTTP/2, or the probe finds it not healthy.
          h11.RemoteProtocolError: the server does not speak HTTP.
          TimeoutError: shortly before the time is up, if the server does not answer the probe.
          Exception: raised by a probe that is a function.
        """
        conn = await self._open(backend)
        if self._probe is None:
            return conn
        try:
            await self._examine(conn)
        except BaseException:  # a cancellation too: the pool does not know of this yet
            await trio.aclose_forcefully(conn.stream)
            raise
        if conn.is_idle:
            return conn
        # The server keeps no connection, so that there is another one for the request.
        await trio.aclose_forcefully(conn.stream)
        return await self._open(backend)

    async def _open(self, backend: Backend) -> HttpConnection:
        stream = await self._streams.connect(backend)
        if isinstance(stream, trio.SSLStream) and stream.selected_alpn_protocol() == "h2":
            await trio.aclose_forcefully(stream)
            raise ConnectionError(
                f"{backend.name} has chosen HTTP/2, which is not supported: do not offer 'h2' in"
                " the SSL context's ALPN protocols"
            )
        return HttpConnection(stream, backend, self._streams.is_broken)

    async def _examine(self, conn: HttpConnection) -> None:
        """Raise unless the probe finds a new connection healthy."""
        name = conn.backend.name
        with say_why_late(_misfits.of_silence(name, is_secure=conn.is_secure)):
            fault = await self._fault_of(conn)
        if fault is not None:
            raise ConnectionError(f"{name} is not healthy: {fault}")

    async def is_valid(self, conn: HttpConnection) -> bool:
        """Ask the probe; without one, every connection is healthy."""
        return await self._fault_of(conn) is None

    async def _fault_of(self, conn: HttpConnection) -> str | None:
        """Return what the probe does not like."""
        if self._probe is None:
            return None
        if not isinstance(self._probe, str):
            return None if await self._probe(conn) else "the probe has returned false"
        response = await conn.request("GET", self._probe)
        if response.status < 400:
            return None
        return _misfits.of_status(self._probe, response.status, response.body)

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
