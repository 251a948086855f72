"""The connector as the pool calls it: which hooks there are, and guards around them."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar, final

import trio

from .._model.backend import Backend
from .._util import log_safely, printable, safe_repr
from ..abc import Connector

logger = logging.getLogger("qorb_trio.connector")

A = TypeVar("A")
C = TypeVar("C")
R = TypeVar("R")


#: The hooks that must not be async.
SYNCHRONOUS = ("is_broken", "should_recycle", "needs_recycle", "is_failure", "fileno")


class FoundBrokenError(ConnectionError):
    """The connector's ``is_broken`` returned True, without telling more."""


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
        log_safely(logger, logging.WARNING, "failed while being cancelled", exc_info=failures)
        rest = cancellation
    raise rest


@final
class Hooks(Generic[C]):
    """A connector, and which of its optional hooks it overrides.

    A hook that is not overridden is never called, which is what makes it free: no
    task switch at return, no health check for connections that cannot be checked.

    The pool's own code runs protected from `KeyboardInterrupt`, since its bookkeeping
    must not stop half-way; the user's asynchronous code in here does not.
    """

    __slots__ = (
        "_connector",
        "can_check",
        "has_disconnect",
        "has_fileno",
        "has_is_broken",
        "has_is_valid",
        "has_needs_recycle",
        "has_on_acquire",
        "has_on_recycle",
        "has_should_recycle",
        "inspects_returned",
        "warned_of_should_recycle",
    )

    def __init__(self, connector: Connector[C]) -> None:
        for name in SYNCHRONOUS:
            hook = getattr(connector, name) if _overrides(connector, name) else None
            if hook is not None and inspect.iscoroutinefunction(hook):
                # A coroutine counts as true, whatever it would have returned.
                raise TypeError(f"connector: {name} must not be async")
        self._connector: Connector[C] = connector
        self.has_is_valid: bool = _overrides(connector, "is_valid")
        self.has_is_broken: bool = _overrides(connector, "is_broken")
        self.has_should_recycle: bool = _overrides(connector, "should_recycle")
        self.has_on_acquire: bool = _overrides(connector, "on_acquire")
        #: True if a returned connection has to be cleaned; `is_valid` is the default way.
        self.has_on_recycle: bool = self.has_is_valid or _overrides(connector, "on_recycle")
        self.has_needs_recycle: bool = _overrides(connector, "needs_recycle")
        self.has_disconnect: bool = _overrides(connector, "disconnect")
        self.has_fileno: bool = _overrides(connector, "fileno")
        #: True if there is a way to check an idle connection.
        self.can_check: bool = self.has_is_valid or self.has_is_broken
        #: True if a returned connection is looked at: one question for the claim path.
        self.inspects_returned: bool = self.has_on_recycle or self.has_is_broken or self.has_fileno
        self.warned_of_should_recycle: bool = False

    @trio.lowlevel.disable_ki_protection
    async def connect(self, backend: Backend) -> C:
        return await _call(self._connector.connect, backend)

    @trio.lowlevel.disable_ki_protection
    async def check(self, connection: C) -> None:
        """Raise unless the connection is healthy."""
        reason = self.broken_reason(connection)
        if reason is not None:
            raise reason
        if self.has_is_valid:
            verdict: object = await _call(self._connector.is_valid, connection)
            if not verdict:
                nothing = ": is_valid returned None" if verdict is None else ""
                raise ConnectionError(f"the connection failed its health check{nothing}")

    @trio.lowlevel.disable_ki_protection
    async def on_acquire(self, connection: C) -> None:
        """Set a connection up for its claimant."""
        await _call(self._connector.on_acquire, connection)

    @trio.lowlevel.disable_ki_protection
    async def recycle(self, connection: C) -> None:
        """Clean a returned connection."""
        await _call(self._connector.on_recycle, connection)

    @trio.lowlevel.disable_ki_protection
    async def disconnect(self, connection: C) -> None:
        """Close a connection."""
        await _call(self._connector.disconnect, connection)

    def needs_close(self, connection: C) -> bool:
        """Return True if there is anything to do to close this connection."""
        if self.has_disconnect:
            return True
        try:
            return hasattr(connection, "aclose")
        except Exception:  # noqa: BLE001 - the user's code
            return True  # `disconnect` will meet the same, where it is a failure to close

    def needs_recycle(self, connection: C) -> bool:
        """Return True if a returned connection needs to be cleaned in a task."""
        if not self.has_needs_recycle:
            return self.has_on_recycle
        return self.has_on_recycle and self._connector.needs_recycle(connection)

    def broken_reason(self, connection: C) -> Exception | None:
        """Return what is wrong with a connection, as far as can be told at once."""
        if not self.has_is_broken:
            return None
        try:
            broken = self._connector.is_broken(connection)
        except Exception as exc:  # noqa: BLE001 - the user's code
            return exc
        return FoundBrokenError("the connection was found broken") if broken else None

    def should_recycle(self, connection: C, exc: BaseException | None) -> bool:
        """Return True if a returned connection may be lent again."""
        verdict: object = self._connector.should_recycle(connection, exc)
        if not isinstance(verdict, bool):
            self._warn_of_should_recycle(verdict)
            return False
        return verdict

    def _warn_of_should_recycle(self, verdict: object) -> None:
        if not self.warned_of_should_recycle:
            self.warned_of_should_recycle = True
            log_safely(
                logger,
                logging.WARNING,
                "connector: should_recycle returned %s instead of a bool;"
                " such a connection is closed",
                printable(safe_repr(verdict)),
            )

    def is_failure(self, connection: C, exc: BaseException) -> bool:
        """Return True if the exception that ended a claim is the backend's fault."""
        return bool(self._connector.is_failure(connection, exc))

    def fileno(self, connection: C) -> int | None:
        """Return the descriptor to watch while the connection is idle."""
        return self._connector.fileno(connection) if self.has_fileno else None
