"""`FakeConnector`: connections without a network, and a ledger of every one of them.

The ledger is kept by the connector, independently of what a pool believes, so that a
test can hold the one against the other.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

import trio

from .. import _validation as _check
from .._model.backend import Backend
from ..abc import Connector
from ._fake_connection import FakeConnection
from ._switches import HOOKS, Hook, Switches

_OPTIONAL: Final = ("is_valid", "on_acquire", "on_recycle")


class FakeConnector(Connector[FakeConnection]):
    """A connector whose connections are objects, with a ledger and with switches.

    Connections are instant unless told otherwise: `slow`, `stall` and `fail` change
    what connecting to one backend, or to all, does from now on; `heal` undoes them.
    ``on="disconnect"`` does the same to closing. They are synchronous, may be called at
    any time, and reach calls that are under way: `heal` lets a stalled connect go on,
    and `fail` makes it fail. Only a delay that has begun runs its course.

    The optional hooks (``is_valid``, ``on_acquire``, ``on_recycle``) are left as they
    are, because a pool has less to do when they are not overridden. Use
    `HookedFakeConnector` to have them, or override some in a subclass by
    ``await self.perform("on_acquire", conn)``.

    Args:
      connect_delay: how many seconds connecting to any backend takes.
      disconnect_delay: how many seconds closing takes.

    Raises:
      TypeError, ValueError: for a delay that is not a number of seconds.
    """

    def __init__(self, *, connect_delay: float = 0, disconnect_delay: float = 0) -> None:
        #: Every connection ever opened, in the order of opening.
        self.connections: list[FakeConnection] = []
        #: How often each hook was called, by its name; ``calls["connect"]`` counts
        #: the attempts, those that failed too.
        self.calls: Counter[str] = Counter()
        #: How many attempts to connect are under way.
        self.connecting: int = 0
        #: How many connections have been closed.
        self.disconnects: int = 0
        #: The most connections that were opening, open or closing at one time.
        self.peak: int = 0
        #: What a pool must never do, and did: a connection closed twice, say.
        self.mistakes: list[str] = []
        self._open: dict[FakeConnection, None] = {}
        self._switches = Switches()
        self.slow(None, connect_delay)
        self.slow(None, disconnect_delay, on="disconnect")

    # ------------------------------------------------------------------ the ledger

    @property
    def open(self) -> list[FakeConnection]:
        """The connections that have not finished closing, in the order of opening."""
        return list(self._open)

    @property
    def connects(self) -> int:
        """Number of connections that have been opened."""
        return len(self.connections)

    @property
    def connect_delay(self) -> float:
        """Seconds that a connect takes, unless `slow` says otherwise; may be set."""
        return self._switches.delay("connect", None)

    @connect_delay.setter
    def connect_delay(self, seconds: float) -> None:
        self.slow(None, seconds)

    def to(self, backend: Backend | str) -> list[FakeConnection]:
        """The connections of `open` that lead to one backend, given itself or by name."""
        name = _name(backend)
        return [conn for conn in self._open if conn.backend.name == name]

    def assert_all_closed(self) -> None:
        """Check that every connection was closed, and exactly once.

        Raises:
          AssertionError: saying which were not, and every other mistake on record.
        """
        wrong = [*self.mistakes, *(f"{conn!r} was not closed" for conn in self._open)]
        if self.connecting:
            wrong.append(f"{self.connecting} connects are still under way")
        assert not wrong, "; ".join(wrong)

    # ---------------------------------------------------------------- the switches

    def fail(
        self,
        backend: Backend | str | None = None,
        exc: BaseException | type[BaseException] | None = None,
        *,
        on: Hook = "connect",
    ) -> None:
        """Make a hook raise, for one backend (itself or its name) or for all (`None`).

        `exc` is the exception, or a class of exception to be raised anew each time; by
        default a `ConnectionRefusedError` for ``connect`` and a `ConnectionError` for
        the others.
        """
        if exc is None:
            kind = ConnectionRefusedError if on == "connect" else ConnectionError
            exc = kind(f"{on} was told to fail")
        _check_exception(exc)
        self._switches.set_outcome(self._checked(on), _name(backend), exc)

    def stall(self, backend: Backend | str | None = None, *, on: Hook = "connect") -> None:
        """Make a hook hang until it is cancelled or `heal` is called."""
        self._switches.set_outcome(self._checked(on), _name(backend), "never")

    def slow(self, backend: Backend | str | None, seconds: float, *, on: Hook = "connect") -> None:
        """Make a hook take some seconds before it does anything else."""
        _check.seconds("seconds", seconds)
        self._switches.set_delay(self._checked(on), _name(backend), seconds)

    def heal(self, backend: Backend | str | None = None, *, on: Hook | None = None) -> None:
        """Make a hook, or with `None` all of them, work again and at once.

        Connections that are broken stay so.
        """
        for hook in HOOKS if on is None else (self._checked(on),):
            self._switches.set_delay(hook, _name(backend), 0.0)
            self._switches.set_outcome(hook, _name(backend), "ok")

    def break_connection(self, conn: FakeConnection) -> None:
        """The peer hangs up: from now on `is_broken` says so."""
        conn.broken = True
        conn.note("broken")

    def crash(
        self,
        backend: Backend | str,
        exc: BaseException | type[BaseException] | None = None,
    ) -> None:
        """A backend dies: its open connections break, and connecting to it fails."""
        self.fail(backend, exc)
        for conn in self.to(backend):
            self.break_connection(conn)

    def _checked(self, hook: Hook) -> Hook:
        if hook not in HOOKS:
            raise ValueError(f"on must be one of {', '.join(HOOKS)}, not {hook!r}")
        if hook in _OPTIONAL and getattr(type(self), hook) is getattr(Connector, hook):
            raise ValueError(
                f"on: {type(self).__name__} does not override {hook}; use HookedFakeConnector"
            )
        return hook

    # --------------------------------------------------------- what the pool calls

    async def perform(self, hook: Hook, conn: FakeConnection) -> None:
        """Count a call of a hook, and do as the switches say; for use in a subclass."""
        self.calls[hook] += 1
        conn.note(hook)
        await self._switches.perform(hook, conn.backend.name)

    async def connect(self, backend: Backend) -> FakeConnection:
        """Return a new connection to `backend`, or do as the switches say."""
        self.calls["connect"] += 1
        self.connecting += 1
        self.peak = max(self.peak, self.connecting + len(self._open))
        try:
            await self._switches.perform("connect", backend.name)
        finally:
            self.connecting -= 1
        conn = FakeConnection(len(self.connections) + 1, backend, trio.current_time())
        conn.note("connect")
        self.connections.append(conn)
        self._open[conn] = None
        return conn

    async def disconnect(self, conn: FakeConnection) -> None:
        """Close `conn`, or do as the switches say; afterwards it is closed in any case.

        Raises:
          RuntimeError: if it was closed before, which goes into `mistakes` too, because
            a pool logs what a connector raises and carries on.
        """
        conn.close_count += 1
        if conn.holder is not None:
            self.mistakes.append(f"{conn!r} was closed while {conn.holder!r} used it")
        if conn.close_count > 1:
            self.mistakes.append(f"{conn!r} was closed {conn.close_count} times")
            raise RuntimeError(self.mistakes[-1])
        conn.closing = trio.current_time()
        try:
            await self.perform("disconnect", conn)
        except trio.Cancelled:
            conn.forced = True
            raise
        finally:
            conn.closed = trio.current_time()
            self.disconnects += 1
            del self._open[conn]

    def is_broken(self, conn: FakeConnection) -> bool:
        """Return True if `break_connection` was called for `conn`."""
        return conn.broken


class HookedFakeConnector(FakeConnector):
    """A `FakeConnector` that overrides every optional hook.

    They do nothing, or what `fail`, `stall` and `slow` say with ``on="is_valid"``,
    ``on="on_acquire"`` and ``on="on_recycle"``.
    """

    async def is_valid(self, conn: FakeConnection) -> bool:
        """Return ``conn.valid``, or do as the switches say."""
        await self.perform("is_valid", conn)
        return conn.valid

    async def on_acquire(self, conn: FakeConnection) -> None:
        """Do nothing, or do as the switches say."""
        await self.perform("on_acquire", conn)

    async def on_recycle(self, conn: FakeConnection) -> None:
        """Clean ``conn.dirty``, or do as the switches say."""
        await self.perform("on_recycle", conn)
        conn.dirty = False


def _check_exception(exc: object) -> None:
    if not issubclass(exc if isinstance(exc, type) else type(exc), BaseException):
        raise TypeError(f"exc must be an exception, or a class of exceptions, not {exc!r}")


def _name(backend: object) -> str | None:
    if isinstance(backend, Backend):
        return backend.name
    if backend is not None and not isinstance(backend, str):
        raise TypeError(f"backend must be a Backend or its name, not {backend!r}")
    return backend
