"""The connector as the pool calls it: which hooks there are, and guards around them."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar, final

import trio

from .._model.backend import Backend
from ..abc import Connector

logger = logging.getLogger("qorb_trio.connector")

A = TypeVar("A")
C = TypeVar("C")
R = TypeVar("R")


def _overrides(connector: Connector[C], name: str) -> bool:
    method = getattr(connector, name)
    return getattr(method, "__func__", None) is not getattr(Connector, name)


async def _call(hook: Callable[[A], Awaitable[R]], argument: A) -> R:
    """Call a hook; if it was cancelled and failed as well, only the former counts.

    A hook with a nursery inside, whose tasks fail as they are cancelled, raises both in
    one group. What is left of it after the cancellation would crash the pool.
    """
    try:
        result: Any = hook(argument)
        if not hasattr(result, "__await__") and not inspect.isawaitable(result):
            name = getattr(hook, "__name__", "a hook")
            raise TypeError(f"connector: {name} must be async; it returned {result!r}")
        return await result  # type: ignore[no-any-return]
    except BaseExceptionGroup as group:
        cancellation, failures = group.split(trio.Cancelled)
        if cancellation is None or not isinstance(failures, ExceptionGroup):
            raise
        logger.warning("failed while being cancelled", exc_info=failures)
        rest = cancellation
    raise rest


@final
class Hooks(Generic[C]):
    """A connector, and which of its optional hooks are worth a call.

    A hook that is not overridden is never called, which is what makes it free: no
    task switch at return, no health check for connections that cannot be checked.

    The pool's own code runs protected from `KeyboardInterrupt`, since its bookkeeping
    must not stop half-way; the user's asynchronous code in here does not.
    """

    __slots__ = (
        "_connector",
        "always_closes",
        "checks",
        "judges",
        "recycles",
        "sets_up",
        "tells_broken",
        "tends",
        "validates",
    )

    def __init__(self, connector: Connector[C]) -> None:
        for name in ("is_broken", "should_recycle"):
            if inspect.iscoroutinefunction(getattr(connector, name)):
                # A coroutine counts as true, whatever it would have returned.
                raise TypeError(f"connector: {name} must not be async")
        self._connector: Connector[C] = connector
        self.validates: bool = _overrides(connector, "is_valid")
        self.tells_broken: bool = _overrides(connector, "is_broken")
        self.judges: bool = _overrides(connector, "should_recycle")
        self.sets_up: bool = _overrides(connector, "on_acquire")
        self.recycles: bool = self.validates or _overrides(connector, "on_recycle")
        self.checks: bool = self.validates or self.tells_broken
        #: Whether a connection that comes back is looked at: one question for the claim path.
        self.tends: bool = self.recycles or self.tells_broken
        self.always_closes: bool = _overrides(connector, "disconnect")

    @trio.lowlevel.disable_ki_protection
    async def connect(self, backend: Backend) -> C:
        return await _call(self._connector.connect, backend)

    @trio.lowlevel.disable_ki_protection
    async def check(self, connection: C) -> None:
        """Raise unless the connection is healthy."""
        fault = self.fault(connection)
        if fault is not None:
            raise fault
        if self.validates:
            verdict: object = await _call(self._connector.is_valid, connection)
            if not verdict:
                nothing = ": is_valid returned None" if verdict is None else ""
                raise ConnectionError(f"the connection failed its health check{nothing}")

    @trio.lowlevel.disable_ki_protection
    async def set_up(self, connection: C) -> None:
        await _call(self._connector.on_acquire, connection)

    @trio.lowlevel.disable_ki_protection
    async def recycle(self, connection: C) -> None:
        await _call(self._connector.on_recycle, connection)

    @trio.lowlevel.disable_ki_protection
    async def disconnect(self, connection: C) -> None:
        await _call(self._connector.disconnect, connection)

    def closes(self, connection: C) -> bool:
        """Whether there is anything to do to close this connection."""
        if self.always_closes:
            return True
        try:
            return hasattr(connection, "aclose")
        except Exception:  # noqa: BLE001 - the user's code
            return True  # `disconnect` will meet the same, where it is a failure to close

    def fault(self, connection: C) -> Exception | None:
        """What is wrong with a connection as far as can be told at once."""
        if not self.tells_broken:
            return None
        try:
            broken = self._connector.is_broken(connection)
        except Exception as exc:  # noqa: BLE001 - the user's code
            return exc
        return ConnectionError("the connection was found broken") if broken else None

    def should_recycle(self, connection: C, exc: BaseException | None) -> bool:
        """Whether a returned connection may be lent again."""
        return self._connector.should_recycle(connection, exc)
