"""The actions of a simulation: plain data, each with a `do` that performs it.

All numbers are drawn when the world is made, none while it runs. So an action that is left
out changes nothing for the others; the reducer depends on that.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import attrs
import trio

from qorb_trio import Backend, ClaimError, PoolTerminatedError

from ..harness import OK, Do, Hook, LedgerConnection, LedgerConnector, When

if TYPE_CHECKING:
    from qorb_trio import Claim

    from .play import Play

End: TypeAlias = Literal["release", "raise", "break", "discard", "lose", "elsewhere"]
EndOfPool: TypeAlias = Literal["leave", "raise", "cancel", "terminate", "aclose", "give up closing"]


class BodyError(Exception):
    """An exception that the body of a claim, or of a pool, raises."""


class Action(Protocol):
    """Something that happens."""

    def do(self, play: Play) -> None:
        """Make it happen, or begin to."""


@attrs.frozen
class AtStep:
    """Cancel a task at its k-th step, at that edge of it."""

    k: int
    when: When


@attrs.frozen
class Client:
    """A client claims a connection, uses it, and ends the claim in some way."""

    by: Literal["claim", "acquire"]
    timeout: float | None
    hold: float
    end: End
    cancel: AtStep | float = math.inf
    key: str | int | None = None
    avoid: str = ""
    label: str | None = None
    nowait: bool = False

    def do(self, play: Play) -> None:
        """Start it."""
        play.bench.nursery.start_soon(self._run, play)

    async def _run(self, play: Play) -> None:
        with play.cancelling(self.cancel) as scope:
            play.clients[scope] = None
            try:
                await (self._in_a_block(play) if self._is_block(play) else self._by_hand(play))
            except trio.WouldBlock:
                play.tally["refused"] += 1
                play.note("refused: nothing is free")
            except BodyError:
                play.tally["raised"] += 1
            except ClaimError as exc:
                play.tally["refused"] += 1
                play.note(f"refused: {type(exc).__name__}")
            except (trio.TooSlowError, ConnectionResetError) as exc:
                play.tally["failed"] += 1
                play.note(f"failed: {exc}")
            finally:
                del play.clients[scope]
        play.tally["cancelled"] += scope.cancelled_caught

    def _is_block(self, play: Play) -> bool:
        return self.by == "claim" and not self._is_nowait(play)

    def _is_nowait(self, play: Play) -> bool:
        return self.nowait and not isinstance(play.connector, LedgerConnector)

    def _options(self, play: Play) -> dict[str, Any]:
        avoid = [backend for backend in play.world.backends if backend.name in self.avoid]
        options = {"timeout": self.timeout, "key": self.key, "avoid": avoid, "label": self.label}
        return options if self.key or self.avoid or self.label else {"timeout": self.timeout}

    async def _in_a_block(self, play: Play) -> None:
        async with play.bench.claim(**self._options(play)) as conn:
            await self._use(conn, play)

    async def _by_hand(self, play: Play) -> None:
        if self._is_nowait(play):
            claim = play.bench.claim_nowait()
        else:
            claim = await play.bench.acquire(**self._options(play))
        try:
            await self._use(claim.connection, play)
        except BaseException as exc:
            if not isinstance(exc, trio.Cancelled | BodyError):
                claim.report(failed=True)
            play.bench.release(claim)
            raise
        if self.end == "discard":
            play.tally["discarded"] += 1
            play.bench.discard(claim)
        elif self.end == "lose":
            play.tally["leaked"] += 1
            play.bench.lose(claim)
        elif self.end == "elsewhere":
            play.bench.nursery.start_soon(self._release_here, play, claim)
        else:
            play.bench.release(claim)

    async def _release_here(self, play: Play, claim: Claim[LedgerConnection]) -> None:
        play.bench.release(claim)

    async def _use(self, conn: LedgerConnection, play: Play) -> None:
        conn.begin()
        if conn.backend.name in play.fail_fast:
            raise ConnectionResetError("the backend fails fast")
        if conn.backend.name in play.silent:
            await trio.sleep(0.25)
            raise trio.TooSlowError("the backend is silent")
        if self.hold:
            await trio.sleep(self.hold)
        if self.end == "raise":
            raise BodyError
        conn.finish()
        conn.broken = conn.broken or self.end == "break"


@attrs.frozen
class Ready:
    """A task waits until `slots` slots are connected."""

    slots: int
    patience: float
    cancel: AtStep | float = math.inf

    def do(self, play: Play) -> None:
        """Start it."""
        play.bench.nursery.start_soon(self._run, play)

    async def _run(self, play: Play) -> None:
        with trio.move_on_after(self.patience), play.cancelling(self.cancel) as scope:
            play.clients[scope] = None
            pool = play.bench.pool
            asked = min(self.slots, pool.policy.max_slots)
            try:
                await pool.wait_ready(asked)
            except PoolTerminatedError:
                play.note("refused: it is not ready any more")
            except ValueError:
                if pool.policy.max_slots >= asked:
                    raise
                play.note("refused: a new policy allows fewer slots")
            finally:
                del play.clients[scope]


@attrs.frozen
class Suspend:
    """The pool lends nothing any more."""

    def do(self, play: Play) -> None:
        """Suspend the pool, unless the world is already mended for the last checks."""
        if not play.mended:
            play.bench.pool.suspend()


@attrs.frozen
class Resume:
    """The pool lends again."""

    def do(self, play: Play) -> None:
        """Tell it."""
        play.bench.pool.resume()


@attrs.frozen
class Idle:
    """A task waits until no claim is outstanding."""

    patience: float

    def do(self, play: Play) -> None:
        """Start it."""
        play.bench.nursery.start_soon(self._run, play)

    async def _run(self, play: Play) -> None:
        with trio.move_on_after(self.patience):
            await play.bench.pool.wait_idle()
            if holders := play.bench.pool.holders():
                play.connector.ledger.violation(f"[2] said to be idle, but {holders!r}")


@attrs.frozen
class Script:
    """From now on one of the hooks does this, at one backend or at all."""

    hook: Hook
    act: Do
    backend: str | None

    def do(self, play: Play) -> None:
        """Change the script."""
        play.bench.script.always(self.hook, self.act, backend=self.backend)


@attrs.frozen
class AcceptThenClose:
    """From now on the connections to a backend are broken when they come; or no longer."""

    backend: str
    yes: bool

    def do(self, play: Play) -> None:
        """Note it."""
        (set.add if self.yes else set.discard)(play.bench.connector.born_broken, self.backend)


@attrs.frozen
class Break:
    """The peers close some idle connections, or all that lead to one backend."""

    what: int | str

    def do(self, play: Play) -> None:
        """Break them."""
        conns = list(play.bench.ledger.live)
        if isinstance(self.what, int):
            conns = [conn for conn in conns if conn.is_idle][: self.what]
        else:
            conns = [conn for conn in conns if conn.backend.name == self.what]
        for conn in conns:
            conn.broken = True


@attrs.frozen
class Outage:
    """Some backends die: what is connected breaks, and a dial does this; or they live again."""

    backends: str
    dial: Do

    def do(self, play: Play) -> None:
        """Let them."""
        for name in self.backends:
            play.bench.script.always("connect", self.dial, backend=name)
            if self.dial is not OK:
                Break(name).do(play)


@attrs.frozen
class Set:
    """The resolver finds another set of backends."""

    backends: tuple[Backend, ...]

    def do(self, play: Play) -> None:
        """Send it."""
        if not (play.body_left or play.final):
            play.bench.resolver.set(self.backends)


@attrs.frozen
class Final:
    """The resolver ends: the set that it sends last, the world's, is final."""

    def do(self, play: Play) -> None:
        """Let it."""
        Set(play.world.backends).do(play)
        play.final = True
        play.bench.resolver.finish()


@attrs.frozen
class CancelClient:
    """One of the clients of this moment is cancelled, holding or waiting."""

    which: int

    def do(self, play: Play) -> None:
        """Cancel it, if there is anybody."""
        scopes = list(play.clients)
        if scopes:
            scopes[self.which % len(scopes)].cancel()


@attrs.frozen
class EndPool:
    """The pool ends, in one way or another."""

    how: EndOfPool
    cancel: AtStep | float = 0.25
    """When its closing is given up, if it is."""

    def do(self, play: Play) -> None:
        """End it."""
        play.ends()
        if self.how in ("terminate", "aclose", "give up closing"):
            play.bench.nursery.start_soon(self._run, play)
        elif self.how == "cancel":
            play.bench.may_cut(0)
            play.body.cancel()
        else:
            play.leave_by = BodyError() if self.how == "raise" else None
            play.leaving.cancel()

    async def _run(self, play: Play) -> None:
        if self.how == "aclose":
            play.bench.may_cut(play.bench.pool.policy.drain_timeout)
            await play.bench.pool.aclose()
        elif self.how == "terminate":
            await play.bench.terminate()
        else:
            play.bench.may_cut(0)
            with play.cancelling(self.cancel):
                await play.bench.terminate()


@attrs.frozen
class Cue:
    """An action that is performed at the n-th occurrence of an event from now on.

    It is performed in the step of that event, or `ticks` ticks later: the worst moment for an
    update of the set, a cancellation, or the end of the pool.
    """

    event: str
    nth: int
    ticks: int
    then: Action

    def do(self, play: Play) -> None:
        """Lie in wait."""
        play.cues.setdefault(self.event, []).append([self.nth, self])

    def fire(self, play: Play) -> None:
        """The moment has come."""
        play.tally["cues"] += 1
        if self.ticks:
            play.bench.nursery.start_soon(self._later, play)
        else:
            self._now(play)

    async def _later(self, play: Play) -> None:
        for _ in range(self.ticks):
            await trio.lowlevel.checkpoint()
        if not play.mended:
            self._now(play)

    def _now(self, play: Play) -> None:
        play.note(f"! {self.then}")
        self.then.do(play)
