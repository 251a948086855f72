"""`InRun`: what belongs to one `trio.run`, and refuses to be used from elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from threading import get_ident

import attrs
import trio


@attrs.define(eq=False, repr=False)
class InRun:
    """The `trio.run` that a pool belongs to, as far as claims need it."""

    pool: str
    #: The run's clock, found once when the pool starts: Trio's own way to it takes three
    #: calls.
    now: Callable[[], float] = attrs.field(init=False, factory=lambda: trio.current_time)
    token: trio.lowlevel.TrioToken | None = attrs.field(init=False, default=None)
    #: The thread of the pool's `trio.run`; see `check_run`.
    thread_id: int = attrs.field(init=False, factory=get_ident)

    def bind(self) -> None:
        """Bind to the present run: the pool starts."""
        self.token = trio.lowlevel.current_trio_token()
        self.thread_id = get_ident()
        self.now = trio.lowlevel.current_clock().current_time

    def check_run(self) -> None:
        """Raise `RuntimeError`, with nothing changed, outside of the pool's own `trio.run`.

        One run has one thread, and to ask for the thread costs a tenth of what it costs to ask
        Trio for the run.
        """
        if get_ident() != self.thread_id:
            raise RuntimeError(
                f"pool {self.pool!r} belongs to another trio.run, or to another thread: from a"
                " thread that Trio started, use trio.from_thread.run_sync(claim.release),"
                " for example"
            )
