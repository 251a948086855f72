"""The parts that the workload and the demo share: an echo connector, and claimers.

A `Claimer` is one client of the pool, as a request handler would be: it claims a
connection, uses it, holds it for a while, uses it once more and releases it. Each claim that
ends is reported as an `Outcome`.
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

    The only method that `qorb_trio.TcpConnector` does not have is the one that knows the
    protocol.
    """

    async def is_valid(self, conn: trio.SocketStream) -> bool:
        """Echo one line, and return True. An error means that the connection is not healthy."""
        await echo(conn, b"are you there?\n")
        return True


class CountingConnector(EchoConnector):
    """An echo connector that counts the connections that it opens and closes.

    Both numbers should be equal in the end.
    """

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
    """The outcome of one claim. All times are by Trio's clock, in seconds."""

    claimer: str
    asked: float
    """The time at which the claimer asked for a connection."""
    granted: float | None
    """The time at which it got one; `None` if it did not."""
    ended: float
    """The time at which the claim was over."""
    backend: qorb_trio.Backend | None
    """The backend of the connection."""
    error: Exception | None
    """The failure, if any: a `qorb_trio.ClaimError` if the claimer got no connection, a
    `ConnectionError` if the connection failed in use."""

    @property
    def waited(self) -> float:
        """The number of seconds until the claimer got a connection, or an error."""
        return (self.ended if self.granted is None else self.granted) - self.asked


@attrs.define(eq=False)
class Claimer:
    """One client of the pool. `run` is its task; the attributes show what it does."""

    name: str
    hold: float
    """The number of seconds for which it holds each claim; see `set_hold`."""
    report: Callable[[Outcome], None]
    """Called with each claim that ended, unless it was cancelled."""

    rest: float = attrs.field(default=0.01, kw_only=True)
    """The number of seconds between two claims."""
    state: State = attrs.field(default="resting", init=False)
    since: float = attrs.field(factory=trio.current_time, init=False)
    """The time at which it entered this state."""
    backend: qorb_trio.Backend | None = attrs.field(default=None, init=False)
    """The backend of the connection that it holds; `None` if it holds none."""
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
        """Hold claims for this number of seconds, the present one included."""
        self._holding.deadline += seconds - self.hold
        self.hold = seconds

    async def _claim_once(self, pool: qorb_trio.Pool[trio.SocketStream], message: str) -> Outcome:
        asked = self._become("waiting")
        granted, backend, error = None, None, None
        # The claim is kept in a variable because it also knows the backend of the connection.
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
        # Not `trio.sleep(self.hold)`, because `set_hold` moves the deadline of the scope while
        # this task sleeps in it.
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
    """Counts of claims and of failures, and the recent number of claims per second."""

    window: float = 3.0
    """The number of seconds over which `rate` is an average."""
    claims: int = attrs.field(default=0, init=False)
    failures: int = attrs.field(default=0, init=False)
    slowest: float = attrs.field(default=0.0, init=False)
    """The longest wait for a connection, in seconds."""
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
        """Return the claims per second within the window. It must be called regularly."""
        now = trio.current_time()
        self._samples.append((now, self.claims))
        while self._samples[0][0] < now - self.window:
            self._samples.popleft()
        then, claims = self._samples[0]
        return (self.claims - claims) / (now - then) if now > then else 0.0


def no_backends(stats: qorb_trio.PoolStats) -> str:
    """Return the message for a pool that knows no backend, with the answer of DNS, if any."""
    dns = stats.resolution
    trouble = dns.trouble if isinstance(dns, DnsSnapshot) else None
    return f"no backends known: {trouble}" if trouble else "no backends known"


@attrs.define(eq=False)
class Workload:
    """A changing number of claimers on one pool, and the tally of what they do."""

    pool: qorb_trio.Pool[trio.SocketStream]
    hold: float
    """The number of seconds for which a new claimer holds its claims."""
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
