"""`ManualResolver`: the backends are what the test says they are."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import TypeAlias, final

import trio

from .._model.backend import Backend, is_socket_path, parse_host_port
from ..abc import Resolver

#: What `ManualResolver` takes for a backend.
BackendLike: TypeAlias = Backend | tuple[str, int] | str


def _as_backend(given: object) -> Backend:
    if isinstance(given, Backend):
        return given
    if isinstance(given, str):
        return Backend(given if is_socket_path(given) else parse_host_port(given))
    if isinstance(given, tuple):
        return Backend(given)
    raise TypeError(
        "backends must be Backends, (host, port) pairs, 'host:port' strings or paths of Unix"
        f" sockets, not {given!r}"
    )


def _as_backends(given: Iterable[BackendLike]) -> tuple[Backend, ...]:
    if isinstance(given, str | Backend):
        raise TypeError(f"backends must be a collection of backends, not {given!r}")
    return tuple(_as_backend(backend) for backend in given)


@final
class ManualResolver(Resolver):
    """A resolver that a test drives by hand.

    `set`, `fail` and `finish` are synchronous, and may be called before the pool is
    opened and while it runs. Each set is sent, in the order given, even when the pool
    was busy meanwhile; a pool that is opened later begins with the last one. One
    resolver may serve several pools.

    Duplicates are passed on as they are: what a pool makes of them is its business.

    Args:
      backends: the first set: `Backend` objects, ``(host, port)`` pairs, ``"host:port"``
        strings or paths of Unix sockets. `None`, the default, sends nothing before the first
        `set`, like a resolver that has no answer yet; an empty collection sends the empty set.

    Raises:
      TypeError, ValueError: for what is not a backend.
    """

    def __init__(self, backends: Iterable[BackendLike] | None = None) -> None:
        self._last = None if backends is None else _as_backends(backends)
        self._feeds: set[trio.MemorySendChannel[Collection[Backend]]] = set()
        self._ended = False
        self._error: BaseException | None = None

    @property
    def backends(self) -> tuple[Backend, ...]:
        """The set that was given last; empty before the first."""
        return self._last or ()

    def set(self, backends: Iterable[BackendLike]) -> None:
        """Send this complete set, to every pool that the resolver serves.

        Raises:
          TypeError, ValueError: for what is not a backend; nothing is sent then.
          RuntimeError: after `finish` or `fail`.
        """
        if self._ended:
            raise RuntimeError("this resolver has ended: it can send no more backends")
        self._last = _as_backends(backends)
        for feed in self._feeds:
            feed.send_nowait(self._last)

    def finish(self) -> None:
        """Make `run` return: the last set is final. A second call does nothing."""
        self._ended = True
        for feed in self._feeds:
            feed.close()

    def fail(self, exc: BaseException) -> None:
        """Make `run` raise `exc`, as a resolver does that cannot go on.

        Sets that were given before are sent first.
        """
        if not isinstance(exc, BaseException):
            raise TypeError(f"exc must be an exception, not {exc!r}")
        self._error = exc
        self.finish()

    async def run(self, updates: trio.MemorySendChannel[Collection[Backend]]) -> None:
        """Send the sets as they are given, until cancelled, finished or failed."""
        feed, given = trio.open_memory_channel[Collection[Backend]](math.inf)
        if self._last is not None:
            feed.send_nowait(self._last)
        if self._ended:
            feed.close()
        self._feeds.add(feed)
        try:
            async for backends in given:
                await updates.send(backends)
        finally:
            self._feeds.discard(feed)
        if self._error is not None:
            raise self._error
