"""`HttpConnection`: HTTP/1.1 over one stream, with h11.

An exchange leaves the connection idle only if both messages were complete and nothing else
has arrived. Everything else makes `HttpConnection.is_idle` false for ever, and the pool closes
the connection. So there is nothing to clean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, TypeAlias, cast, final

import attrs
import h11
import trio

from .._model.backend import Backend, format_host_port
from . import _misfits
from ._errors import LOST, LostConnectionError

_READ_SIZE: Final = 65536
#: Maximum size of a head in bytes; that of httpcore.
_MAX_HEAD: Final = 100 * 1024

#: As h11 and httpx take them.
Headers: TypeAlias = "Iterable[tuple[bytes | str, bytes | str]]"


@final
@attrs.frozen
class HttpResponse:
    """A response of `HttpConnection.request`, with its whole body."""

    #: The status code.
    status: int
    #: The headers in the order of the message, with lower-case names.
    headers: list[tuple[bytes, bytes]]
    #: The body, without transfer coding.
    body: bytes


@final
class HttpConnection:
    """An HTTP/1.1 connection, made by `HttpConnector`. Serves one task at a time.

    `PoolTransport` uses it for httpx. `request` is for probes, and for programs without httpx.

    Attributes:
      stream: the stream below, as the connector for streams made it.
      backend: the backend that it leads to.
      has_served: true if an exchange was completed on this connection.
    """

    def __init__(
        self, stream: trio.abc.Stream, backend: Backend, is_broken: Callable[[Any], bool]
    ) -> None:
        self.stream: trio.abc.Stream = stream
        self.backend: Backend = backend
        self.has_served: bool = False
        self._is_broken = is_broken
        #: The first bytes from the server; `None` as soon as they are those of a response.
        self._opening: bytes | None = b""
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD)

    @property
    def is_secure(self) -> bool:
        """True if the stream is TLS."""
        return isinstance(self.stream, trio.SSLStream)

    @property
    def is_idle(self) -> bool:
        """True if the connection is between two exchanges, and can serve another one."""
        protocol = self._h11
        return (
            protocol.our_state is h11.IDLE
            and protocol.their_state is h11.IDLE
            and protocol.trailing_data == (b"", False)
        )

    @property
    def suspicion(self) -> str:
        """The probable reason of a silence, if the server has never said anything."""
        if self._opening != b"":
            return ""
        return _misfits.of_silence(self.backend.name, is_secure=self.is_secure)

    @property
    def host(self) -> str:
        """The value of a ``Host`` header that names the backend itself."""
        backend = self.backend
        if backend.host is None or backend.port is None:
            return "localhost"
        return format_host_port(backend.target or backend.host, backend.port)

    async def request(
        self, method: str, target: str, *, headers: Headers = (), body: bytes = b""
    ) -> HttpResponse:
        """Send a request, and return the response with its whole body.

        ``Host`` is added unless it is among the headers, and ``Content-Length`` if there is a
        body. Cancelled, it leaves a connection that the pool closes.

        Raises:
          ConnectionError: the connection is lost before the response has begun.
          trio.BrokenResourceError: the connection is lost.
          h11.ProtocolError: one side does not follow the protocol.
        """
        fields = list(headers)
        names = {name.lower() for name, _ in fields}
        if names.isdisjoint({"host", b"host"}):
            fields.insert(0, ("Host", self.host))
        if body:
            fields.append(("Content-Length", str(len(body))))
        head = h11.Request(method=method, target=target, headers=cast("Any", fields))
        await self.stream.send_all(self.pack(head, body))
        response = await self.receive_head()
        chunks = []
        while not isinstance(event := await self.receive(), h11.EndOfMessage):
            assert isinstance(event, h11.Data)
            chunks.append(bytes(event.data))
        self.end_exchange()
        return HttpResponse(response.status_code, list(response.headers), b"".join(chunks))

    def check(self) -> None:
        """Raise if the connection, which should be idle, is closed or has something to be read.

        Raises:
          LostConnectionError: it is.
        """
        try:
            is_broken = self._is_broken(self.stream)
        except LOST as exc:
            raise LostConnectionError(str(exc)) from exc
        if is_broken:
            raise LostConnectionError("the server has closed the idle connection")

    def pack(self, head: h11.Request, body: bytes) -> bytes:
        """Return the bytes of a whole request."""
        send = self._h11.send
        parts = [send(head), send(h11.Data(data=body)) if body else b"", send(h11.EndOfMessage())]
        return b"".join([part for part in parts if part])

    def pack_event(self, event: h11.Request | h11.Data | h11.EndOfMessage) -> bytes:
        """Return the bytes of a part of a request."""
        return self._h11.send(event) or b""

    async def receive_head(self) -> h11.Response:
        """Return the response without its body; interim responses are skipped."""
        while not isinstance(event := await self.receive(), h11.Response):
            interim_status(event)
        return event

    async def receive(self) -> h11.Event:
        """Return the next part of the response."""
        while (event := self.take()) is None:
            await self.receive_bytes()
        return event

    def take(self) -> h11.Event | None:
        """Return the next part of the response that has been received, if there is one.

        Raises:
          h11.RemoteProtocolError: the server does not follow the protocol, or has closed the
            connection in the middle of a message.
        """
        event = self._h11.next_event()
        if event is h11.NEED_DATA or event is h11.PAUSED:
            return None
        return event  # type: ignore[return-value]

    async def receive_bytes(self) -> int:
        """Wait for bytes from the server, keep them for `take`, and return their number.

        Raises:
          LostConnectionError: the server has closed the connection before it answered.
          h11.RemoteProtocolError: the first answer of the server is not HTTP.
          trio.BrokenResourceError: the connection is lost.
        """
        try:
            data = await self.stream.receive_some(_READ_SIZE)
        except trio.BrokenResourceError as exc:
            if self._opening != b"":
                raise
            raise LostConnectionError(self._reason_of_close()) from exc
        if not data and self._h11.their_state is h11.SEND_RESPONSE:
            raise LostConnectionError(self._reason_of_close())
        if self._opening is not None:
            self._check_opening(bytes(data))
        self._h11.receive_data(bytes(data))
        return len(data)

    def _reason_of_close(self) -> str:
        if self._opening == b"":
            return _misfits.of_close(self.backend.name, is_secure=self.is_secure)
        return "the server closed the connection before it answered"

    def _check_opening(self, data: bytes) -> None:
        """Raise if the first bytes are not HTTP: h11 would wait for an empty line."""
        assert self._opening is not None
        self._opening += data
        if not _misfits.begins_response(self._opening):
            raise h11.RemoteProtocolError(_misfits.of_answer(self.backend.name, self._opening))
        if _misfits.has_begun_response(self._opening):
            self._opening = None

    def end_exchange(self) -> None:
        """Prepare for the next exchange, if this one was complete on both sides."""
        protocol = self._h11
        if protocol.our_state is h11.DONE and protocol.their_state is h11.DONE:
            protocol.start_next_cycle()
            self.has_served = True


def interim_status(event: h11.Event) -> int:
    """Return the status of an interim response, such as 100 or 103.

    Raises:
      h11.RemoteProtocolError: from now on the connection speaks another protocol.
    """
    assert isinstance(event, h11.InformationalResponse)
    if event.status_code == 101:
        raise h11.RemoteProtocolError("the server switched to another protocol: not supported")
    return event.status_code
