"""`FakeConnection`: one connection of a `FakeConnector`, and its page in the ledger."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

import attrs
import trio

from .._model.backend import Backend


@final
@attrs.define(eq=False, repr=False)
class FakeConnection:
    """One connection of a `FakeConnector`, and its page in the ledger.

    Made by the connector. A test may set `broken`, `valid` and `dirty`, and reads the
    rest. Times are in seconds, by `trio.current_time`.
    """

    #: 1 for the first connection of the connector, 2 for the second, and so on.
    number: int
    #: What it is connected to.
    backend: Backend
    #: When `connect` returned it.
    opened: float
    #: When its `disconnect` began; `None` before.
    closing: float | None = None
    #: When its `disconnect` ended, in whatever way; `None` before.
    closed: float | None = None
    #: How often `disconnect` was called: 1 for each, in the end.
    close_count: int = 0
    #: Whether the disconnect ran into its deadline and was cancelled.
    forced: bool = False
    #: `FakeConnector.is_broken` says this: the peer has hung up.
    broken: bool = False
    #: `HookedFakeConnector.is_valid` says this: a dead peer that has not hung up.
    valid: bool = True
    #: Left in mid-exchange; `HookedFakeConnector.on_recycle` cleans it.
    dirty: bool = False
    #: Who uses it at this moment, by `used_by`; `None` if nobody does.
    holder: object = None
    #: What happened to it: the time, and the name of a hook or ``"used by ..."``.
    history: list[tuple[float, str]] = attrs.field(factory=list)

    @property
    def is_open(self) -> bool:
        """True if it has not been closed, and is not being closed."""
        return self.closing is None

    @contextmanager
    def used_by(self, who: object) -> Iterator[None]:
        """Use the connection for the length of a ``with`` block, as its only user.

        Raises:
          RuntimeError: if someone else uses it, or if it is closed.
        """
        if self.holder is not None:
            raise RuntimeError(f"{self!r} is used by {self.holder!r}, and now by {who!r} too")
        if not self.is_open:
            raise RuntimeError(f"{self!r} is used by {who!r} after it was closed")
        self.holder = who
        self.note(f"used by {who}")
        try:
            yield
        finally:
            self.holder = None

    def note(self, event: str) -> None:
        """Add a line to `history`, at the current time."""
        self.history.append((trio.current_time(), event))

    def __repr__(self) -> str:
        state = "open" if self.is_open else "closing" if self.closed is None else "closed"
        return f"<FakeConnection {self.number} to {self.backend.name}, {state}>"
