"""`ResponseBody`: the body of a response, and the end of the claim on its connection."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, final

import h11
import trio

from ._errors import LOST, TRANSLATED, ExchangeTimeoutError, is_servers_fault, translate
from ._library import AsyncByteStream

if TYPE_CHECKING:
    from .. import Claim
    from ._connection import HttpConnection


@final
class ResponseBody(AsyncByteStream):
    """Reads a body from the connection that was claimed for its request.

    The claim ends with the body: one that has been read to its end releases the connection,
    one that is closed before discards it. Iterated once.
    """

    def __init__(
        self,
        claim: Claim[HttpConnection],
        conn: HttpConnection,
        timeout: float,
        library: Any,
        request: object,
    ) -> None:
        self._claim: Claim[HttpConnection] | None = claim
        # Not asked of the claim, which refuses it once the pool has ended and has cut the claim.
        self._conn = conn
        self._timeout = timeout
        self._library = library
        self._request = request
        self._chunks: deque[bytes] = deque()
        #: True if the response itself speaks against the server.
        self.is_failure = False

    def take_received(self) -> None:
        """Take what was received together with the head.

        If that is all of the body, the connection is released now, before anybody reads.

        Raises:
          h11.RemoteProtocolError: the server breaks the protocol.
        """
        while self._claim is not None and (event := self._conn.take()) is not None:
            self._note(event)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        """Return the next chunk.

        Cancelled, or failing, it discards the connection.

        Raises:
          httpx.ReadError, httpx.ReadTimeout, httpx.RemoteProtocolError: the connection is lost,
            no byte has come within the read timeout, or the server breaks the protocol.
          StopAsyncIteration: at the end.
        """
        while not self._chunks:
            if self._claim is None:
                raise StopAsyncIteration
            try:
                await self._receive()
            except TRANSLATED as exc:
                self._end_early(exc)
                raise translate(exc, self._library, self._request) from exc
            except BaseException as exc:
                self._end_early(exc)
                raise
        return self._chunks.popleft()

    async def aclose(self) -> None:
        """End the claim, if the body was not read to its end. Never waits."""
        if self._claim is not None:
            self._claim.report(failed=self.is_failure)
            self._claim.discard()
            self._claim = None

    async def _receive(self) -> None:
        event = self._conn.take()
        if event is not None:
            self._note(event)
            return
        with trio.move_on_after(self._timeout):
            await self._conn.receive_bytes()
            return
        raise ExchangeTimeoutError("read", self._timeout)

    def _end_early(self, exc: BaseException) -> None:
        assert self._claim is not None
        end_early(self._claim, self._conn, exc)
        self._claim = None

    def _note(self, event: h11.Event) -> None:
        if isinstance(event, h11.Data):
            self._chunks.append(bytes(event.data))
        else:  # the end of the message
            assert self._claim is not None
            self._conn.end_exchange()
            self._claim.report(failed=self.is_failure)
            if self._conn.is_idle:
                self._claim.release()
            else:
                self._claim.discard()
            self._claim = None


def end_early(claim: Claim[HttpConnection], conn: HttpConnection, exc: BaseException) -> None:
    """End a claim whose exchange was cut short by an error, or had not begun.

    That a connection which has served before is lost says nothing about the server: it closes
    idle connections as it likes.
    """
    is_lost = isinstance(exc, LOST)
    if is_servers_fault(exc) and not (conn.has_served and is_lost):
        claim.report(failed=True)
    if conn.is_idle and not is_lost:
        claim.release()
    else:
        claim.discard()
