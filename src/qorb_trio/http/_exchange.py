"""One request and the head of its response, over one connection.

A request with a small body is sent in one piece, and then the response is awaited. Any other
body is sent by a task of its own while this one listens, because the server may answer early:
it may refuse the body (413, 503), or begin its response while it still reads.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import aclosing, nullcontext, suppress
from typing import Any, Final, TypeAlias, final

import h11
import trio

from ._connection import HttpConnection, interim_status
from ._errors import LOST, BodyError, ExchangeTimeoutError
from ._timeouts import Timeouts

Body: TypeAlias = "bytes | AsyncIterable[bytes]"

#: Maximum size in bytes of a body that is sent in one piece with the head. A socket takes this
#: much without waiting for the server to read.
MAX_SMALL_BODY: Final = 16384
#: Maximum size in bytes of a piece of a larger body; each has the write timeout for itself.
PIECE_SIZE: Final = 65536
#: Seconds to wait for ``100 Continue``, after which the body is sent anyway. RFC 9110, 10.1.1,
#: asks for a limit, and curl has the same one.
CONTINUE_TIMEOUT: Final = 1.0
#: Maximum number of bytes of an early response that are kept while the body is being sent.
#: The server has to wait with more of them until it has read the body.
MAX_EARLY_BYTES: Final = 1 << 20

#: Errors by which listening ends.
_LISTENING_ERRORS: Final = (
    *LOST,
    trio.ClosedResourceError,
    h11.ProtocolError,
    ExchangeTimeoutError,
)


@final
class Exchange:
    """A request that is sent, and a response that begins.

    Attributes:
      has_sent: true as soon as a byte of the request may have been sent.
      has_begun_body: true as soon as the iterator of the body, if it has one, was asked.
    """

    def __init__(self, conn: HttpConnection, timeouts: Timeouts) -> None:
        self.has_sent = False
        self.has_begun_body = False
        self._conn = conn
        self._timeouts = timeouts
        self._may_send_body = trio.Event()
        self._sender_ended = False
        #: The wait for bytes of the response; its deadline is set when the request is sent.
        self._listening = trio.CancelScope()
        #: Called when the sender ends.
        self._at_sender_end: Callable[[], None] = self._start_read_timeout
        self._failure: Exception | None = None

    async def run(self, head: h11.Request, body: Body) -> h11.Response:
        """Send a request, and return the head of the response.

        Raises:
          ExchangeTimeoutError: one step took too long.
          LostConnectionError, trio.BrokenResourceError: the connection is lost before the
            response has begun.
          h11.ProtocolError: one side does not follow the protocol.
          BodyError: the iterator of the body has raised.
        """
        waits = _expects_continue(head)
        if isinstance(body, bytes) and len(body) <= MAX_SMALL_BODY and not waits:
            return await self._send_at_once(self._conn.pack(head, body))
        if not waits:
            self._may_send_body.set()
        await self._send_piece(head)
        return await self._send_and_listen(body)

    async def _send_at_once(self, data: bytes) -> h11.Response:
        """Send a whole request, and wait for the head of the response, in one cancel scope."""
        conn, timeouts = self._conn, self._timeouts
        step, seconds = "write", timeouts.write
        with trio.CancelScope(deadline=trio.current_time() + seconds) as scope:
            self.has_sent = True
            await conn.stream.send_all(data)
            step, seconds = "read", timeouts.read
            while True:  # noqa: ASYNC913 - each round waits, or takes what has arrived
                event = conn.take()
                if event is None:
                    scope.deadline = trio.current_time() + seconds
                    await conn.receive_bytes()
                elif isinstance(event, h11.Response):
                    return event
                else:
                    interim_status(event)
        raise ExchangeTimeoutError(step, seconds, conn.suspicion)

    async def _send_and_listen(self, body: Body) -> h11.Response:
        """Send the body in a task of its own, and listen meanwhile."""
        response: h11.Response | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send_body, body, nursery.cancel_scope)
            try:
                response = await self._listen()
            except _LISTENING_ERRORS as exc:
                self._failure = self._failure or exc
            if response is None or self._is_refused(response):
                nursery.cancel_scope.cancel()
            else:
                await self._listen_on()
        if self._failure is not None:
            raise self._failure
        assert response is not None
        return response

    def _is_refused(self, response: h11.Response) -> bool:
        """Return true if the server does not want what is left of the body."""
        return response.status_code >= 400 or not self._may_send_body.is_set()

    async def _listen(self) -> h11.Response:
        """Return the head of the response; the read timeout begins when the body is sent."""
        while True:  # noqa: ASYNC913 - the same
            event = self._conn.take()
            if event is None:
                await self._wait_for_bytes()
            elif isinstance(event, h11.Response):
                return event
            elif interim_status(event) == 100:
                self._may_send_body.set()

    async def _wait_for_bytes(self) -> None:
        with trio.CancelScope() as self._listening:
            if self._sender_ended:
                self._start_read_timeout()
            await self._conn.receive_bytes()
            return
        raise ExchangeTimeoutError("read", self._timeouts.read, self._conn.suspicion)

    def _start_read_timeout(self) -> None:
        self._listening.deadline = trio.current_time() + self._timeouts.read

    async def _listen_on(self) -> None:
        """Keep what else of the response arrives while the body is still being sent.

        A server that answers while it reads would otherwise wait for this side to read, as
        this side waits for it. An error here is met again by the reader of the response.
        """
        kept = 0
        with trio.CancelScope() as scope, suppress(*_LISTENING_ERRORS):
            self._at_sender_end = scope.cancel
            while not self._sender_ended and kept < MAX_EARLY_BYTES:
                kept += await self._conn.receive_bytes() or MAX_EARLY_BYTES

    async def _send_body(self, body: Body, everything: trio.CancelScope) -> None:
        """Send the body, and cancel everything if that fails for another reason than the peer."""
        try:
            with trio.move_on_after(CONTINUE_TIMEOUT):
                await self._may_send_body.wait()
            self._may_send_body.set()
            await self._send_pieces(body)
        except trio.BrokenResourceError:
            pass  # the server reads no more; why not, its response may tell
        except Exception as exc:  # noqa: BLE001 - the body is the user's code
            self._failure = exc
            everything.cancel()
        finally:
            self._sender_ended = True
            self._at_sender_end()

    async def _send_pieces(self, body: Body) -> None:
        if isinstance(body, bytes):
            for start in range(0, len(body), PIECE_SIZE):
                await self._send_piece(h11.Data(data=body[start : start + PIECE_SIZE]))
        else:
            self.has_begun_body = True
            chunks: Any = aiter(body)
            # httpx gives generators, which must be closed if they are not exhausted.
            async with aclosing(chunks) if hasattr(chunks, "aclose") else nullcontext():
                while (chunk := await _next_chunk(chunks)) is not None:
                    await self._send_piece(h11.Data(data=chunk))
        await self._send_piece(h11.EndOfMessage())

    async def _send_piece(self, event: h11.Request | h11.Data | h11.EndOfMessage) -> None:
        data = self._conn.pack_event(event)
        if data:
            self.has_sent = True
            with trio.move_on_after(self._timeouts.write) as scope:
                await self._conn.stream.send_all(data)
            if scope.cancelled_caught:
                raise ExchangeTimeoutError("write", self._timeouts.write)


async def _next_chunk(chunks: AsyncIterator[bytes]) -> bytes | None:
    """Return the next chunk of a body, or `None` at its end; the errors are the user's own."""
    try:
        return await anext(chunks)
    except StopAsyncIteration:
        return None
    except Exception as exc:
        raise BodyError(exc) from exc


def _expects_continue(head: h11.Request) -> bool:
    """Return true if a request asks the server for permission to send its body."""
    return (b"expect", b"100-continue") in ((name, value.lower()) for name, value in head.headers)
