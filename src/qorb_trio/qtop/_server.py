"""`serve`: the statistics over WebSocket, and the page over HTTP, at one address."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Collection, Coroutine, Iterable, Sequence
from typing import Any, Final, final
from urllib.parse import parse_qs, urlsplit

import h11
import trio
from wsproto.utilities import RemoteProtocolError

from .. import Pool, _validation as _check
from .._util import log_safely, printable
from ._guard import Guard
from ._http import (
    Answer,
    load_page,
    parse_request,
    read_head,
    refuse,
    send_answer,
    switch_protocols,
    wants_websocket,
)
from ._observer import Observer
from ._rate_limit import RateLimit
from ._report import Report
from ._websocket import PeerExcessError, WebSocket

logger = logging.getLogger("qorb_trio.qtop")

STATS_PATH: Final = "/qtop/stats"
_PAGE_PATHS: Final = ("/", "/qtop", "/qtop/", STATS_PATH)
#: The time limit of a client for its request, and for reading each message, in seconds.
PATIENCE: Final = 10.0
#: The maximum number of clients that watch at the same time.
MAX_CLIENTS: Final = 32
#: The maximum number of clients that have not sent their request yet. When there are more, the
#: connection of the first of them is closed. So silent clients neither keep others out nor use
#: up the program's descriptors.
MAX_STRANGERS: Final = 128
#: The default time between two messages to a client, in seconds, and its bounds.
INTERVAL: Final = 1.0
_MIN_INTERVAL, _MAX_INTERVAL = 0.1, 3600.0
#: The maximum number of fields in the query of an address.
_MAX_FIELDS: Final = 20
#: The maximum length of a message from a client, and its maximum rate, in frames per second. A
#: browser sends a frame of a hundred bytes when its user clicks on a holder.
_LONGEST: Final = 4096
FRAME_RATE: Final = 20.0
FRAME_BURST: Final = 100.0

#: The exceptions that end one client, and no other.
_CLIENT_FAULTS: Final = (
    OSError,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
    trio.TooSlowError,
    h11.RemoteProtocolError,
    RemoteProtocolError,
    PeerExcessError,
    UnicodeDecodeError,
)


def serve(
    pools: Iterable[Pool[Any]],
    host: str = "127.0.0.1",
    port: int = 42069,
    *,
    token: str | None = None,
    allowed_hosts: Collection[str] = (),
    task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED,
) -> Coroutine[Any, Any, None]:
    """Serve statistics of pools to people: ``nursery.start_soon(qtop.serve, [pool])``.

    Serves until cancelled, and then closes the listening sockets and all clients. While no
    client watches, it costs the pools nothing. No client makes a pool or another task wait: a
    client that does not read is dropped after ten seconds, and one that sends more than a few
    frames per second at once.

    With ``nursery.start`` it reports the listeners, as `trio.serve_tcp` does, when it is
    ready. It logs its address to ``qorb_trio.qtop`` as information.

    Args:
      pools: the pools to show; at least one.
      host: the address to listen on. By default only this machine can connect to it.
      port: the TCP port. With 0 the system chooses one: the log and ``nursery.start`` tell it.
      token: a secret that clients must know, of at least 16 characters. It is required if
        `host` is not a loopback address. The token and the statistics are not encrypted: across
        a network use ``ssh -L``, or a proxy that speaks TLS.
      allowed_hosts: names by which clients may call this server, in addition to ``localhost``,
        `host` and addresses.
      task_status: Trio's, for ``nursery.start``.

    Raises:
      TypeError, ValueError: for wrong arguments, at the call, before anything is started.
      OSError: when it runs, if it cannot listen there; the message names host and port.
    """
    pools = tuple(pools)
    if not pools:
        raise ValueError("pools must name at least one pool")
    for pool in pools:
        _check.instance("pools: each", pool, Pool)
    _check.instance("host", host, str)
    _check.count("port", port)
    if port > 65535:
        raise ValueError(f"port must be at most 65535, not {port}")
    if token is not None:
        _check.instance("token", token, str)
    if isinstance(allowed_hosts, str):
        raise TypeError(f"allowed_hosts must be a collection of names, not {allowed_hosts!r}")
    guard = Guard(host, token, frozenset(name.lower() for name in allowed_hosts))
    return Server(pools, guard).run(port, task_status)


@final
class Server:
    """Answers one request on each connection, with the page or with a stream of messages."""

    def __init__(self, pools: Iterable[Pool[Any]], guard: Guard) -> None:
        self._observer: Observer = Observer(tuple(pools))
        self._guard: Guard = guard
        self._page: Answer = load_page()
        self._watchers: set[trio.abc.Stream] = set()
        #: The clients that have not sent their request yet, in order of arrival.
        self._strangers: dict[trio.CancelScope, None] = {}

    async def run(  # noqa: ASYNC114, ASYNC128 - `serve_listeners` does that
        self, port: int, task_status: trio.TaskStatus[list[trio.SocketListener]]
    ) -> None:
        """Listen and serve, until cancelled."""
        listeners = await _listen_on(self._guard.host, port)
        for listener in listeners:
            host, taken, *_ = listener.socket.getsockname()
            log_safely(logger, logging.INFO, "qtop.serve listens on %s port %d", host, taken)
        await trio.serve_listeners(self.handle, listeners, task_status=task_status)

    async def handle(self, stream: trio.abc.Stream) -> None:
        """Serve one client, and then close the stream. Nothing that the client does raises."""
        try:
            found = await self._hear_out(stream)
            if found is not None:
                await self._inform(*found)
        except* _CLIENT_FAULTS as group:
            reason = printable(repr(group.exceptions))
            log_safely(logger, logging.DEBUG, "a client is gone: %s", reason)
        except* Exception as group:  # noqa: BLE001 - it is logged
            log_safely(logger, logging.ERROR, "a client could not be served", exc_info=group)
        finally:
            self._watchers.discard(stream)
            # A client that still has to read something has had its time.
            await trio.aclose_forcefully(stream)  # noqa: ASYNC102 - it does not wait

    async def _hear_out(self, stream: trio.abc.Stream) -> tuple[WebSocket, float] | None:
        """Answer a request within the time limit."""
        if len(self._strangers) == MAX_STRANGERS:
            slowest = next(iter(self._strangers))
            del self._strangers[slowest]
            slowest.cancel()
        with trio.move_on_after(PATIENCE) as scope:
            self._strangers[scope] = None
            try:
                return await self._answer(stream)
            finally:
                self._strangers.pop(scope, None)
        return None

    async def _answer(self, stream: trio.abc.Stream) -> tuple[WebSocket, float] | None:
        """Answer a request; return a WebSocket and its interval if it asked for that."""
        head = await read_head(stream)
        if not head:
            return None
        async with self._observer.work:
            http = h11.Connection(h11.SERVER)
            request = parse_request(http, head)
            answer = request if isinstance(request, Answer) else self._answer_to(request)
        if isinstance(request, Answer):
            await send_answer(stream, http, request, bare=False)
            return None
        if answer is None:
            self._watchers.add(stream)
            try:
                protocol = await switch_protocols(stream, http, request)
            except RemoteProtocolError as exc:
                answer = refuse(400, str(exc))
            else:
                limit = RateLimit(FRAME_RATE, FRAME_BURST)
                socket = WebSocket(
                    stream, protocol, longest=_LONGEST, patience=PATIENCE, limit=limit
                )
                return socket, update_interval(request.target)
        await send_answer(stream, http, answer, bare=request.method == b"HEAD")
        return None

    def _answer_to(self, request: h11.Request) -> Answer | None:
        """Return the answer to a request, or `None` if it gets a WebSocket."""
        headers = list(request.headers)
        answer = self._guard.refuse_caller(headers)
        if answer is not None:
            return answer
        methods = [b"GET"] if wants_websocket(request) else [b"GET", b"HEAD"]
        if request.method not in methods:
            return refuse(405, "there is only GET", (b"Allow", b", ".join(methods)))
        try:
            path = urlsplit(request.target.decode("ascii")).path
        except ValueError:
            return refuse(400, "there is no such address")
        if path not in ([STATS_PATH] if wants_websocket(request) else _PAGE_PATHS):
            return refuse(404, f"see {STATS_PATH}")
        if wants_websocket(request):
            return self._refuse_watcher(request, headers)
        # The page contains no statistics. The WebSocket has them, and requires the token.
        return self._page

    def _refuse_watcher(
        self, request: h11.Request, headers: Sequence[tuple[bytes, bytes]]
    ) -> Answer | None:
        if math.isnan(update_interval(request.target)):
            bounds = f"{_MIN_INTERVAL:g} and {_MAX_INTERVAL:g}"
            return refuse(400, f"update_secs must be a number between {bounds}")
        answer = self._guard.refuse_stranger(headers)
        if answer is None and len(self._watchers) >= MAX_CLIENTS:
            answer = refuse(503, "too many are watching already")
        return answer

    async def _inform(self, socket: WebSocket, interval: float) -> None:
        """Send messages to a client until it disconnects.

        Each message is made after the one before has been sent. So a slow client gets fewer
        messages, and no message waits in memory.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen, socket, nursery.cancel_scope)
            with self._observer.watching():
                report = Report(self._observer)
                while True:
                    await socket.send(await report.next())
                    await trio.sleep(interval)

    async def _listen(self, socket: WebSocket, scope: trio.CancelScope) -> None:
        """Answer a client's questions until it closes the connection.

        It may ask for the stack of a holder:
        ``{"stack": {"pool": ..., "id": ..., "since": ...}}``.
        """
        while (text := await socket.receive()) is not None:
            try:
                question = json.loads(text)
            except (ValueError, RecursionError):
                continue
            asked = question.get("stack") if isinstance(question, dict) else None
            answer = await self._observer.stack(asked)
            if answer is not None:
                await socket.send(answer)
        scope.cancel()


def update_interval(target: bytes) -> float:
    """Return the time between two messages that a client asks for, in seconds.

    NaN if it is out of bounds, or no number.
    """
    try:
        query = parse_qs(urlsplit(target.decode("ascii")).query, max_num_fields=_MAX_FIELDS)
        seconds = float(query.get("update_secs", [INTERVAL])[-1])
    except ValueError:
        return math.nan
    return seconds if _MIN_INTERVAL <= seconds <= _MAX_INTERVAL else math.nan


async def _listen_on(host: str, port: int) -> list[trio.SocketListener]:
    try:
        return await trio.open_tcp_listeners(port, host=host)
    except OSError as exc:
        # The same error, with a message that tells what to change.
        where = f"qtop.serve cannot listen on {host} port {port}"
        raise OSError(exc.errno, f"{where}: {exc.strerror or exc}") from exc
