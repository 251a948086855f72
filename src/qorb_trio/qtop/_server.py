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
from ._guard import Guard
from ._http import (
    Answer,
    load_page,
    read_request,
    refuse,
    send_answer,
    switch_protocols,
    wants_websocket,
)
from ._report import Observer, Report
from ._websocket import MessageTooLongError, WebSocket

logger = logging.getLogger("qorb_trio.qtop")

STATS_PATH: Final = "/qtop/stats"
_PAGE_PATHS: Final = ("/", "/qtop", "/qtop/", STATS_PATH)
#: A client has so many seconds for its request, and for each message that it is sent.
PATIENCE: Final = 10.0
#: So many may watch at once: it is a handful of people that watch a program.
MOST_CLIENTS: Final = 32
#: So many may be about to ask: beyond that, who has taken the longest is hung up on. So
#: those who never ask cannot keep out those who do, nor use up the program's descriptors.
MOST_STRANGERS: Final = 128
#: How often a client is told, in seconds, unless it asks for something else within bounds.
INTERVAL: Final = 1.0
_LEAST_INTERVAL, _MOST_INTERVAL = 0.1, 3600.0
#: What clients say is short.
_LONGEST: Final = 4096

#: What ends one client, and nobody else.
_CLIENT_FAULTS: Final = (
    OSError,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
    trio.TooSlowError,
    h11.RemoteProtocolError,
    RemoteProtocolError,
    MessageTooLongError,
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
    """Let people watch pools: ``nursery.start_soon(qtop.serve, [pool])``.

    Serves until cancelled; then the listening sockets and all clients are closed. While
    nobody watches, it costs the pools nothing. A client that does not read what it is sent
    is dropped after ten seconds, and never makes a pool wait.

    With ``nursery.start`` it reports the listeners, as `trio.serve_tcp` does, when it is
    ready; ``port=0`` lets the system choose.

    Args:
      pools: what to show; at least one.
      host: the address to listen on. By default only this machine can connect to it.
      port: the TCP port.
      token: a secret without which nobody is told anything; needed if `host` is any but a
        loopback address. It and the statistics travel in the clear: across a network,
        put something in between that speaks TLS, or use ``ssh -L``.
      allowed_hosts: names by which clients may call this server, beyond ``localhost``,
        `host` and addresses.
      task_status: Trio's, for ``nursery.start``.

    Raises:
      TypeError, ValueError: for wrong arguments, at the call, before anything is started.
      OSError: when it runs, if it cannot listen there.
    """
    pools = tuple(pools)
    if not pools:
        raise ValueError("pools must name at least one pool")
    for pool in pools:
        _check.instance("pools: each", pool, Pool)
    _check.instance("host", host, str)
    _check.count("port", port)
    if token is not None:
        _check.instance("token", token, str)
    if isinstance(allowed_hosts, str):
        raise TypeError(f"allowed_hosts must be a collection of names, not {allowed_hosts!r}")
    guard = Guard(host, token, frozenset(name.lower() for name in allowed_hosts))
    return Server(pools, guard).run(port, task_status)


@final
class Server:
    """Answers one request on each connection: with the page, or with a stream of messages."""

    def __init__(self, pools: Iterable[Pool[Any]], guard: Guard) -> None:
        self._observer: Observer = Observer(tuple(pools))
        self._guard: Guard = guard
        self._page: Answer = load_page()
        self._watchers: set[trio.abc.Stream] = set()
        #: Those who have not asked yet, the first to come first.
        self._strangers: dict[trio.CancelScope, None] = {}

    async def run(  # noqa: ASYNC114, ASYNC128 - `serve_listeners` does that
        self, port: int, task_status: trio.TaskStatus[list[trio.SocketListener]]
    ) -> None:
        """Listen and serve, until cancelled."""
        listeners = await trio.open_tcp_listeners(port, host=self._guard.host)
        await trio.serve_listeners(self.handle, listeners, task_status=task_status)

    async def handle(self, stream: trio.abc.Stream) -> None:
        """Serve one client, whatever it does; then close the stream."""
        try:
            found = await self._hear_out(stream)
            if found is not None:
                await self._inform(*found)
        except* _CLIENT_FAULTS as group:
            logger.debug("a client is gone: %r", group.exceptions)
        except* Exception:
            logger.exception("a client could not be served")
        finally:
            self._watchers.discard(stream)
            # What is not sent by now has nobody to read it.
            await trio.aclose_forcefully(stream)  # noqa: ASYNC102 - it does not wait

    async def _hear_out(self, stream: trio.abc.Stream) -> tuple[WebSocket, float] | None:
        """Take a request, and answer it in time, or else not at all."""
        if len(self._strangers) == MOST_STRANGERS:
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
        """Answer a request; a WebSocket and its interval, if that was the answer."""
        http = h11.Connection(h11.SERVER)
        request = await read_request(stream, http)
        if request is None:
            return None
        answer = self._answer_to(request)
        if answer is None:
            self._watchers.add(stream)
            try:
                protocol = await switch_protocols(stream, http, request)
            except RemoteProtocolError as exc:
                answer = refuse(400, str(exc))
            else:
                socket = WebSocket(stream, protocol, longest=_LONGEST, patience=PATIENCE)
                return socket, update_interval(request.target)
        await send_answer(stream, http, answer, bare=request.method == b"HEAD")
        return None

    def _answer_to(self, request: h11.Request) -> Answer | None:
        """What to say to a request, or `None` if it shall have its WebSocket."""
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
        # The page tells nothing: what it connects to does, and asks for the token.
        return self._page

    def _refuse_watcher(
        self, request: h11.Request, headers: Sequence[tuple[bytes, bytes]]
    ) -> Answer | None:
        if math.isnan(update_interval(request.target)):
            bounds = f"{_LEAST_INTERVAL:g} and {_MOST_INTERVAL:g}"
            return refuse(400, f"update_secs must be a number between {bounds}")
        answer = self._guard.refuse_stranger(headers)
        if answer is None and len(self._watchers) >= MOST_CLIENTS:
            answer = refuse(503, "too many are watching already")
        return answer

    async def _inform(self, socket: WebSocket, interval: float) -> None:
        """Tell a client how things are, again and again, until it goes away.

        Each message is made when the one before has been sent: to a client that is slow,
        some are never told, and none of them ever waits.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen, socket, nursery.cancel_scope)
            with self._observer.watching():
                report = Report(self._observer)
                while True:
                    await socket.send(await report.next())
                    await trio.sleep(interval)

    async def _listen(self, socket: WebSocket, scope: trio.CancelScope) -> None:
        """Take what a client says, which is not much; in the end, goodbye.

        It may ask where a holder is: ``{"stack": {"pool": ..., "id": ..., "since": ...}}``.
        """
        while (text := await socket.receive()) is not None:
            try:
                question = json.loads(text)
            except (ValueError, RecursionError):
                continue
            asked = question.get("stack") if isinstance(question, dict) else None
            answer = self._observer.stack(asked)
            if answer is not None:
                await socket.send(answer)
        scope.cancel()


def update_interval(target: bytes) -> float:
    """How often the client wants to be told, in seconds; NaN if that makes no sense."""
    values = parse_qs(urlsplit(target.decode("ascii")).query).get("update_secs")
    if values is None:
        return INTERVAL
    try:
        seconds = float(values[-1])
    except ValueError:
        return math.nan
    return seconds if _LEAST_INTERVAL <= seconds <= _MOST_INTERVAL else math.nan
