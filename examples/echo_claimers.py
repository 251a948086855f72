"""What the workload and the demo share: an echo connector, and claimers that use a pool.

A `Claimer` is one client of the pool, as a request handler would be: it claims a
connection, uses it, holds it for a while, uses it once more and lets go. Each claim that
ends is handed as an `Outcome` to whoever wants to count.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from typing import Literal

import attrs
import trio

import qorb_trio
from qorb_trio.resolvers import DnsSnapshot

State = Literal["resting", "waiting", "holding"]


async def echo(stream: trio.SocketStream, message: bytes) -> None:
    """Send `message` and read it back.

    Raises:
      ConnectionError: if the connection breaks, ends early, or answers anything else.
    """
    reply = b""
    try:
        await stream.send_all(message)
        while len(reply) < len(message):
            chunk = await stream.receive_some(len(message) - len(reply))
            if not chunk:
                raise ConnectionError("the server hung up")
            reply += chunk
    except trio.BrokenResourceError as exc:
        raise ConnectionError("the connection broke") from exc
    if reply != message:
        raise ConnectionError(f"sent {message!r}, but {reply!r} came back")


class EchoConnector(qorb_trio.TcpConnector):
    """TCP connections to echo servers, healthy if they still echo.

    All that is needed beyond `qorb_trio.TcpConnector` is the one method that knows the
    protocol.
    """

    async def is_valid(self, conn: trio.SocketStream) -> bool:
        """Echo one line. An error will do for a "no": the pool takes it as one."""
        await echo(conn, b"are you there?\n")
        return True


class CountingConnector(EchoConnector):
    """Counts the connections that it opens and closes: they should be as many."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = 0
        self.closed = 0

    async def connect(self, backend: qorb_trio.Backend) -> trio.SocketStream:
        """Connect, and count it."""
        conn = await super().connect(backend)
        self.opened += 1
        return conn

    async def disconnect(self, conn: trio.SocketStream) -> None:
        """Close, and count it."""
        self.closed += 1
        await super().disconnect(conn)


@attrs.frozen(kw_only=True)
class Outcome:
    """How one claim went. All times are by Trio's clock, in seconds."""

    claimer: str
    asked: float
    """When the claimer asked for a connection."""
    granted: float | None
    """When it got one; `None` if it did not."""
    ended: float
    """When it was over."""
    backend: qorb_trio.Backend | None
    """Whose connection it was."""
    error: Exception | None
    """What went wrong: a `qorb_trio.ClaimError` if there was no connection to be had, a
    `ConnectionError` if the one that there was failed in use."""

    @property
    def waited(self) -> float:
        """How long the claimer waited for a connection, or for the lack of one."""
        return (self.ended if self.granted is None else self.granted) - self.asked


@attrs.define(eq=False)
class Claimer:
    """One client of the pool. `run` is its task; everything else is there to be looked at."""

    name: str
    hold: float
    """How long it holds each claim; `set_hold` changes it, at once."""
    report: Callable[[Outcome], None]
    """Called with each claim that ended, unless it was cancelled."""

    rest: float = attrs.field(default=0.01, kw_only=True)
    """How long it rests between two claims."""
    state: State = attrs.field(default="resting", init=False)
    since: float = attrs.field(factory=trio.current_time, init=False)
    """When it came into this state."""
    backend: qorb_trio.Backend | None = attrs.field(default=None, init=False)
    """Whose connection it holds, while it holds one."""
    claims: int = attrs.field(default=0, init=False)
    failures: int = attrs.field(default=0, init=False)
    last_error: Exception | None = attrs.field(default=None, init=False)
    _life: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)
    _holding: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)

    async def run(self, pool: qorb_trio.Pool[trio.SocketStream]) -> None:
        """Claim and release, again and again, until stopped or until the pool ends."""
        with self._life:
            for number in itertools.count(1):
                try:
                    outcome = await self._claim_once(pool, f"{self.name}, claim {number}\n")
                except qorb_trio.PoolTerminatedError:
                    return
                self._take_down(outcome)
                self._become("resting")
                await trio.sleep(self.rest)

    def stop(self) -> None:
        """End `run`. A claim that it holds is released on the way out."""
        self._life.cancel()

    def set_hold(self, seconds: float) -> None:
        """Hold claims for so long, the present one included."""
        self._holding.deadline += seconds - self.hold
        self.hold = seconds

    async def _claim_once(self, pool: qorb_trio.Pool[trio.SocketStream], message: str) -> Outcome:
        asked = self._become("waiting")
        granted, backend, error = None, None, None
        # A claim is good for two things: it is what `async with` enters to get the
        # connection, and then it knows whose connection that is.
        claim = pool.claim()
        try:
            async with claim as stream:
                backend = self.backend = claim.backend
                granted = self._become("holding")
                await self._use(stream, message.encode())
        except qorb_trio.PoolTerminatedError:
            raise
        except (qorb_trio.ClaimError, ConnectionError) as exc:
            error = exc
        finally:
            self.backend = None
        return Outcome(
            claimer=self.name,
            asked=asked,
            granted=granted,
            ended=trio.current_time(),
            backend=backend,
            error=error,
        )

    async def _use(self, stream: trio.SocketStream, message: bytes) -> None:
        await echo(stream, message)
        # Not `trio.sleep(self.hold)`: the deadline of a scope can be moved while somebody
        # sleeps in it, and `set_hold` does.
        with trio.move_on_after(self.hold) as self._holding:
            await trio.sleep_forever()
        await echo(stream, message)

    def _become(self, state: State) -> float:
        self.state, self.since = state, trio.current_time()
        return self.since

    def _take_down(self, outcome: Outcome) -> None:
        self.claims += outcome.granted is not None
        if outcome.error is not None:
            self.failures += 1
            self.last_error = outcome.error
        self.report(outcome)


@attrs.define(eq=False)
class Tally:
    """Counts outcomes: so many, so many of them in vain, and how many a second of late."""

    window: float = 3.0
    """Over how many seconds `rate` is an average."""
    claims: int = attrs.field(default=0, init=False)
    failures: int = attrs.field(default=0, init=False)
    slowest: float = attrs.field(default=0.0, init=False)
    """The longest that a claimer waited for the connection it got."""
    _samples: deque[tuple[float, int]] = attrs.field(
        factory=lambda: deque([(trio.current_time(), 0)]), init=False
    )

    def add(self, outcome: Outcome) -> None:
        """Count one claim."""
        if outcome.granted is not None:
            self.claims += 1
            self.slowest = max(self.slowest, outcome.waited)
        self.failures += outcome.error is not None

    def rate(self) -> float:
        """Claims per second, within the window. Call it now and then, or it has no memory."""
        now = trio.current_time()
        self._samples.append((now, self.claims))
        while self._samples[0][0] < now - self.window:
            self._samples.popleft()
        then, claims = self._samples[0]
        return (self.claims - claims) / (now - then) if now > then else 0.0


def no_backends(stats: qorb_trio.PoolStats) -> str:
    """What to say where no backend is known: what DNS has answered, if anything."""
    dns = stats.resolution
    trouble = dns.trouble if isinstance(dns, DnsSnapshot) else None
    return f"no backends known: {trouble}" if trouble else "no backends known"


@attrs.define(eq=False)
class Workload:
    """A changing number of claimers on one pool, and the tally of what they do."""

    pool: qorb_trio.Pool[trio.SocketStream]
    hold: float
    """How long a new claimer holds its claims."""
    _nursery: trio.Nursery
    started: float = attrs.field(factory=trio.current_time, init=False)
    claimers: list[Claimer] = attrs.field(factory=list, init=False)
    tally: Tally = attrs.field(factory=Tally, init=False)
    _numbers: Iterator[int] = attrs.field(factory=lambda: itertools.count(1), init=False)

    def add(self) -> Claimer:
        """Add a claimer, which begins at once."""
        claimer = Claimer(f"claimer {next(self._numbers)}", self.hold, self.tally.add)
        self.claimers.append(claimer)
        self._nursery.start_soon(claimer.run, self.pool, name=claimer.name)
        return claimer

    def remove(self, claimer: Claimer) -> None:
        """Stop a claimer. What it holds goes back to the pool as its task ends."""
        self.claimers.remove(claimer)
        claimer.stop()
