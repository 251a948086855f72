"""`PoolTransport`: httpx over a pool of `HttpConnection`."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, final, overload

import h11

from .. import Pool, _validation as _check
from .._util import error_text, log_safely, printable
from ._body import ResponseBody, end_early
from ._connection import HttpConnection
from ._errors import LOST, TRANSLATED, BodyError, translate
from ._exchange import Body, Exchange
from ._library import AsyncBaseTransport, library_of
from ._timeouts import Timeouts

if TYPE_CHECKING:
    import httpx  # noqa: ASYNC127 - many programs still use it
    import httpx2

    from .. import Backend, Claim

logger = logging.getLogger("qorb_trio.http")

#: Methods that may be repeated if their fate is unknown: RFC 9110, 9.2.2.
IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})


@final
class PoolTransport(AsyncBaseTransport):
    """A transport for ``httpx.AsyncClient`` or ``httpx2.AsyncClient`` over a pool.

    Each request claims a connection until its response has been read to the end, or is closed.
    The pool decides which backend is asked; the URL's host is only the ``Host`` header. With
    ``mounts={"http://service": PoolTransport(pool)}`` a client uses the pool for that host and
    its own transport for all others.

    * A connection that is lost before the response has begun is replaced, and the request is
      repeated, at another backend if there is one. If something was sent, this happens only for
      idempotent methods, and only if the body can be sent again: bytes can, and iterators that
      were not begun.
    * The body of a request is sent to its end before the response is returned, unless the
      server refuses it (status 400 or above) while it is being sent.
    * httpx's timeouts: ``pool`` bounds the claim, ``read`` and ``write`` bound each step.
      ``connect`` is not used: the pool dials in advance, within ``connect_timeout``.
    * A response of any status is a good answer of the backend, unless `is_failure` objects.

    Closing the transport, or the client, does not close the pool.

    Args:
      pool: a pool with an `HttpConnector`.
      retries: maximum number of times that a request is repeated, 0 for never.
      is_failure: is given each response, whose body has not been read, and returns true if it
        speaks against the backend, as `Claim.report` does; ejection counts it.

    Raises:
      TypeError, ValueError: naming the argument that is wrong.
    """

    def __init__(
        self,
        pool: Pool[HttpConnection],
        *,
        retries: int = 2,
        is_failure: Callable[[Any], bool] | None = None,
    ) -> None:
        _check.instance("pool", pool, Pool)
        _check.count("retries", retries)
        if is_failure is not None and not callable(is_failure):
            raise TypeError(f"is_failure must be a function of a response, not {is_failure!r}")
        self._pool = pool
        self._retries = retries
        self._is_failure = is_failure

    @overload
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response: ...
    @overload
    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response: ...
    async def handle_async_request(self, request: Any) -> Any:
        """Send a request over a connection of the pool, and return the response.

        The caller must read the response's body or close it, as httpx's client does. Cancelled, it
        leaves no connection in the middle of an exchange.

        Raises:
          httpx.PoolTimeout: no connection within the ``pool`` timeout; ``__cause__`` is the
            `ClaimTimeoutError` that says why.
          httpx.ConnectError: the pool has ended.
          httpx.ReadTimeout, httpx.WriteTimeout: a step took too long.
          httpx.ReadError: the connection was lost, and the request cannot be repeated.
          httpx.RemoteProtocolError, httpx.LocalProtocolError: the server, or the request, does
            not follow the protocol.
          httpx.UnsupportedProtocol: the URL, or the method, is not for this transport.
          Exception: raised by the iterator of the request's body.
        """
        library = library_of(request)
        try:
            return await self._send(_Call(library, request))
        except TRANSLATED as exc:
            raise translate(exc, library, request) from exc
        except BodyError as exc:
            raise exc.error from None

    async def _send(self, call: _Call) -> Any:
        """Claim a connection and use it, again if it is lost and the request can be repeated."""
        lost: set[Backend] = set()
        for attempt in itertools.count():
            claim = await self._pool.acquire(
                timeout=call.timeouts.pool, avoid=lost, label=call.label
            )
            conn = claim.connection
            exchange = Exchange(conn, call.timeouts)
            try:
                return await self._attempt(call, claim, conn, exchange)
            except LOST as exc:
                end_early(claim, conn, exc)
                if attempt == self._retries or not call.may_repeat(exchange):
                    raise
                lost.add(conn.backend)  # its other connections may be lost too
                log_safely(
                    logger,
                    logging.DEBUG,
                    "%s is repeated: %s",
                    printable(call.label),
                    error_text(exc),
                )
            except BaseException as exc:
                end_early(claim, conn, exc)
                raise
        raise AssertionError

    async def _attempt(
        self,
        call: _Call,
        claim: Claim[HttpConnection],
        conn: HttpConnection,
        exchange: Exchange,
    ) -> Any:
        call.check_security(conn)
        if not call.is_idempotent:
            conn.check()
        head = await exchange.run(call.head, call.body)
        body = ResponseBody(claim, conn, call.timeouts.read, call.library, call.request)
        response = call.respond(head, body, claim)
        if self._is_failure is not None:
            body.is_failure = bool(self._is_failure(response))
        body.take_received()
        return response

    async def aclose(self) -> None:
        """Do nothing: the pool is closed by the code that opened it."""


@final
class _Call:
    """A request in the terms of h11, and its response in those of httpx."""

    def __init__(self, library: Any, request: Any) -> None:
        self.library = library
        self.request = request
        self.timeouts = Timeouts.of(request.extensions)
        self.is_idempotent = request.method in IDEMPOTENT
        if request.url.scheme not in {"http", "https"}:
            raise self._unsupported(f"the scheme {request.url.scheme!r} is not supported")
        if request.method == "CONNECT":
            raise self._unsupported("CONNECT is for proxies, which are not supported")
        target: bytes = request.extensions.get("target") or request.url.raw_path
        self.head = h11.Request(method=request.method, target=target, headers=request.headers.raw)
        #: For logs and for the pool's holders; without the query, which may have secrets.
        self.label = f"{request.method} {target.partition(b'?')[0].decode('latin-1')}"
        is_whole = isinstance(request.stream, library.ByteStream)
        self.body: Body = request.content if is_whole else request.stream

    def _unsupported(self, words: str) -> Exception:
        error: Exception = self.library.UnsupportedProtocol(words, request=self.request)
        return error

    def check_security(self, conn: HttpConnection) -> None:
        """Raise unless the connection is as secure as the URL says."""
        if conn.is_secure is not (self.request.url.scheme == "https"):
            have, scheme = ("TLS", "https") if conn.is_secure else ("plain", "http")
            raise self._unsupported(
                f"the pool's connections are {have}: use a URL of {scheme}, not"
                f" {self.request.url.scheme}"
            )

    def may_repeat(self, exchange: Exchange) -> bool:
        """Return true if the request can be sent again after its connection was lost."""
        if exchange.has_begun_body:
            return False
        return self.is_idempotent or not exchange.has_sent

    def respond(self, head: h11.Response, body: ResponseBody, claim: Claim[HttpConnection]) -> Any:
        """Return a response of httpx."""
        return self.library.Response(
            status_code=head.status_code,
            headers=head.headers.raw_items(),
            stream=body,
            extensions={
                "http_version": b"HTTP/" + head.http_version,
                "reason_phrase": head.reason,
                "backend": claim.backend,
            },
        )
