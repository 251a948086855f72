"""Actions of the field: idle closes, backends that only look alive, the wrong thread."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import attrs
import trio

from qorb_trio import Policy

from ..harness import HANG, OK, fails
from .watched import Wired

if TYPE_CHECKING:
    from .play import Play

#: A connection that is older has worked, so that its close is no failure.
HAS_WORKED = 0.25

Call: TypeAlias = Literal[
    "claim_nowait",
    "acquire",
    "suspend",
    "resume",
    "recycle",
    "reconfigure",
    "wait_ready",
    "wait_idle",
    "terminate",
    "release",
    "discard",
    "report",
]

#: The calls that are methods of a claim, not of the pool.
OF_CLAIMS = ("release", "discard", "report")


@attrs.frozen
class HangUp:
    """The peers close some idle connections that have worked, as servers do."""

    count: int
    backend: str | None

    def do(self, play: Play) -> None:
        """Close them."""
        now, connector = trio.current_time(), play.bench.connector
        idle = [
            conn
            for conn in play.bench.ledger.idle
            if conn.opened <= now - HAS_WORKED
            and not (conn.broken or conn.departed or conn.asked_at == now)
            and self.backend in {None, conn.backend.name}
        ]
        for conn in idle[: self.count]:
            play.tally["hung up"] += 1
            play.note(f"the peer hangs up on {conn!r}")
            conn.broken = True
            if isinstance(connector, Wired):
                connector.hang_up(conn)


@attrs.frozen
class FailFast:
    """From now on a backend fails each claim at once; or no longer."""

    backend: str
    yes: bool

    def do(self, play: Play) -> None:
        """Note it."""
        (set.add if self.yes else set.discard)(play.fail_fast, self.backend)


@attrs.frozen
class Silent:
    """From now on a backend accepts connections and answers nothing; or no longer."""

    backend: str
    yes: bool

    def do(self, play: Play) -> None:
        """Note it, and let its health checks hang, if the pool bounds them."""
        (set.add if self.yes else set.discard)(play.silent, self.backend)
        bound = play.world.policy.set_config.health_check_timeout
        silence = HANG if bound <= 3 else fails(OSError)
        for hook in ("is_valid", "on_recycle"):
            act = silence if self.yes else OK
            play.bench.script.always(hook, act, backend=self.backend)


@attrs.frozen
class Recycle:
    """The pool replaces all connections of now, over a time."""

    over: float

    def do(self, play: Play) -> None:
        """Tell the pool."""
        play.bench.pool.recycle(over=self.over)


@attrs.frozen
class Reconfigure:
    """The pool gets another policy."""

    policy: Policy

    def do(self, play: Play) -> None:
        """Tell it, unless the world is recovering."""
        if not (play.mended or play.ended):
            play.bench.reconfigure(self.policy)


@attrs.frozen
class FromThread:
    """A method of the pool, or of a claim that is held, is called in a foreign thread."""

    call: Call

    def do(self, play: Play) -> None:
        """Call it there; meanwhile this thread waits, so that the course stays the same."""
        target: Any = play.bench.pool
        if self.call in OF_CLAIMS:
            held = play.bench.held
            if not held:
                return
            target = held[0]
        play.tally["from threads"] += 1
        before = play.bench.stats()
        told: list[object] = []
        thread = threading.Thread(target=self._try, args=(getattr(target, self.call), play, told))
        thread.start()
        thread.join()
        refused = [it for it in told if isinstance(it, RuntimeError)]
        if not refused or "another thread" not in str(refused[0]):
            play.connector.ledger.violation(f"{self.call} in a thread is not refused: {told}")
        told.clear()  # the exception refers to a frame that refers to it, and to the claim
        if play.bench.stats() != before:
            play.connector.ledger.violation(f"{self.call} in a thread has changed the pool")

    def _try(self, method: Callable[..., Any], play: Play, told: list[object]) -> None:
        options: dict[str, Any] = {"failed": True} if self.call == "report" else {}
        args = [play.bench.pool.policy] if self.call == "reconfigure" else []
        try:
            result = method(*args, **options)
            told.append(result)
            if inspect.isawaitable(result):
                result.__await__().__next__()
        except BaseException as exc:
            told.append(exc)
