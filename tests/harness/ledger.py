"""The ledger: a record of every connection that was ever opened, and of its use.

The connector and the clients keep it, never the pool. They record a violation when something
forbidden happens, and `Bench` then fails the test.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, Protocol, TypeAlias, final

import attrs
import trio

from qorb_trio import Backend, Connector

Hook: TypeAlias = Literal["connect", "is_valid", "on_acquire", "on_recycle", "disconnect"]
ErrorSource: TypeAlias = "BaseException | Callable[[], BaseException]"


@final
@attrs.frozen
class Do:
    """The behaviour of one call of a hook: take some steps, wait, and then raise or return.

    By default the call returns without a checkpoint. With ``delay=math.inf`` it never ends by
    itself. After the delay it waits for `until`. If `shielded`, a cancellation interrupts
    neither wait. All of this happens in a block that `inside` makes.
    """

    delay: float = 0
    error: ErrorSource | None = None
    valid: bool = True
    steps: int = 0
    shielded: bool = False
    until: trio.Event | None = None
    inside: Callable[[], AbstractContextManager[object]] = nullcontext

    async def perform(self) -> bool:
        """Do it; the result matters to ``is_valid`` alone."""
        with self.inside():
            return await self._perform()

    async def _perform(self) -> bool:
        for _ in range(self.steps):
            await trio.lowlevel.checkpoint()
        with trio.CancelScope(shield=self.shielded):
            if math.isinf(self.delay):
                await trio.sleep_forever()
            elif self.delay:
                await trio.sleep(self.delay)
            if self.until is not None:
                await self.until.wait()
        if self.error is not None:
            raise self.error if isinstance(self.error, BaseException) else self.error()
        return self.valid


OK = Do()
HANG = Do(delay=math.inf)


def slow(seconds: float) -> Do:
    """Take so long, and then succeed."""
    return Do(delay=seconds)


def fails(error: ErrorSource, *, after: float = 0) -> Do:
    """Raise that exception, or a new one of that class."""
    return Do(delay=after, error=error)


class Act(Protocol):
    """One call of a hook, with its behaviour."""

    async def perform(self) -> bool:
        """Do it; the result matters to ``is_valid`` alone."""


class Acts(Protocol):
    """The source of the acts, one for each call of a hook: a `Script`, or `Fates`."""

    def take(self, hook: Hook, backend: str) -> Act:
        """Return the act for the call that is being made."""


@final
class Script:
    """The `Do` of each call of each hook: the next of a queue, or the standing one."""

    def __init__(self, standing: Do) -> None:
        self._standing = standing
        self._next: defaultdict[tuple[Hook, str | None], deque[Do]] = defaultdict(deque)
        self._always: dict[tuple[Hook, str | None], Do] = {}

    def next(self, hook: Hook, *acts: Do, backend: str | None = None) -> None:
        """The next calls do these, one each."""
        self._next[hook, backend].extend(acts)

    def is_waiting(self, hook: Hook, *, backend: str | None = None) -> bool:
        """Return True if a queued act has not been used yet."""
        return bool(self._next[hook, backend])

    def always(self, hook: Hook, act: Do, *, backend: str | None = None) -> None:
        """All calls do that, from now on."""
        self._always[hook, backend] = act

    def standing(self, hook: Hook, backend: str) -> Do:
        """Return the act for a call when the queue is empty."""
        return self._always.get((hook, backend), self._always.get((hook, None), self._standing))

    def take(self, hook: Hook, backend: str) -> Do:
        """Return the act for the call that is being made."""
        for key in ((hook, backend), (hook, None)):
            if self._next[key]:
                return self._next[key].popleft()
        return self.standing(hook, backend)


@final
@attrs.define(eq=False)
class LedgerConnection:
    """One connection, and its page in the ledger."""

    number: int
    backend: Backend
    opened: float
    born: float = -math.inf
    """When its dial began."""
    dirty: bool = False
    """In the middle of an exchange: nothing can clean it."""
    broken: bool = False
    """The peer closed, or sent stray bytes: ``is_broken`` says so."""
    holder: str | None = None
    """The name of the claimant, from the start of ``on_acquire``."""
    in_body: bool = False
    """True while the body of a claim runs."""
    needs_recycle: bool = False
    departed: bool = False
    """Its backend has left the set since it was opened."""
    hook: str | None = None
    """The hook that is running on it."""
    asked_at: float = -1
    """When ``is_broken`` was last asked."""
    said_broken: bool = False
    checks: list[float] = attrs.field(factory=list, repr=False)
    """When a health check began."""
    closes: int = 0
    closing_at: float | None = None
    """When ``disconnect`` began."""
    closed_at: float | None = None
    forced: bool = False
    history: list[str] = attrs.field(factory=list, repr=False)

    @property
    def is_open(self) -> bool:
        """True until somebody begins to close it."""
        return self.closes == 0

    @property
    def is_idle(self) -> bool:
        """True if no claimant holds the connection, and no hook works on it."""
        return self.holder is None and self.hook is None and self.closes == 0

    def begin(self) -> None:
        """Send a request: until `finish`, the connection is dirty."""
        assert not self.dirty, f"{self!r} is lent in the middle of somebody's exchange"
        self.dirty = True

    def finish(self) -> None:
        """Receive the reply."""
        self.dirty = False


@final
@attrs.define(eq=False)
class Dial:
    """One call of ``connect``."""

    backend: Backend
    started: float
    ended: float | None = None
    departed: bool = False
    error: BaseException | None = None


@final
class Ledger:
    """All dials, all connections, and all violations."""

    def __init__(self) -> None:
        self.connections: list[LedgerConnection] = []
        self.live: dict[LedgerConnection, None] = {}
        self.dials: list[Dial] = []
        self.dialling: dict[Dial, None] = {}
        #: The duration in seconds of the longest dial that has succeeded.
        self.longest_dial = 0.0
        self.calls: Counter[str] = Counter()
        self.returned: list[tuple[LedgerConnection, BaseException | None]] = []
        self.violations: list[str] = []
        self.dirty_hooks = False
        self.on_lend: Callable[[], None] | None = None
        """Called as soon as a claimant has a connection, before ``on_acquire``."""
        self.on_note: Callable[[str, LedgerConnection | Dial], None] | None = None
        """Told of everything that happens, in the step in which it does."""
        self.granted = 0
        self.hold_until = math.inf
        """From then on the pool may close what is lent out: it is ending."""

    def violation(self, text: str) -> None:
        """Write down what must not happen."""
        self.violations.append(f"at {trio.current_time():.6g}: {text}")

    def note(self, what: str, whom: LedgerConnection | Dial) -> None:
        """Something happens to a connection, or to a dial."""
        if self.on_note is not None:
            self.on_note(what, whom)

    def check(self, ok: bool, text: str, conn: LedgerConnection) -> None:
        """A `violation` unless `ok`, with the history of the connection."""
        if not ok:
            self.violation(f"{text}: {conn!r}, {' '.join(conn.history)}")

    # ------------------------------------------------------------------ what happens

    def open(self, backend: Backend) -> LedgerConnection:
        """A new connection."""
        conn = LedgerConnection(len(self.connections) + 1, backend, trio.current_time())
        self.connections.append(conn)
        self.live[conn] = None
        return conn

    def enter_hook(self, conn: LedgerConnection, hook: str) -> None:
        """A hook begins; no two run at once on one connection."""
        self.calls[hook] += 1
        conn.history.append(f"{trio.current_time():.6g}:{hook}")
        cut_off = hook == "disconnect" and trio.current_time() >= self.hold_until
        self.check(conn.hook is None or cut_off, f"{hook} runs beside {conn.hook}", conn)
        self.check(hook == "disconnect" or conn.closes == 0, f"{hook} on a closed one", conn)
        if hook == "is_valid":
            conn.checks.append(trio.current_time())
        if hook == "disconnect" and conn.closing_at is None:
            conn.closing_at = trio.current_time()
        conn.hook = hook
        self.note(f"{hook} begins", conn)

    def leave_hook(self, conn: LedgerConnection, hook: str) -> None:
        """A hook ends, in whatever way."""
        if conn.hook == hook:
            conn.hook = None
        self.note(f"{hook} ends", conn)

    def lend(self, conn: LedgerConnection, who: str) -> None:
        """The connection is about to be somebody's: is it fit for that?"""
        self.check(conn.holder is None, f"two holders, {conn.holder} and {who}", conn)
        self.check(not conn.dirty, "lent dirty", conn)
        self.check(not conn.needs_recycle, "lent without being recycled", conn)
        self.check(not conn.said_broken, "lent broken", conn)
        self.check(conn.closes == 0, "lent after it was closed", conn)
        now = trio.current_time()
        asked = now in {conn.asked_at, conn.opened}
        self.check(asked, "lent without asking is_broken first", conn)
        conn.holder = who
        if self.on_lend is not None:
            self.on_lend()

    def take(self, conn: LedgerConnection, who: str) -> None:
        """The body of a claim begins."""
        if conn.holder is None:
            self.lend(conn, who)
        self.check(conn.holder == who, f"held by {conn.holder}, lent to {who}", conn)
        self.check(conn.hook is None, f"lent while {conn.hook} runs", conn)
        self.check(not conn.departed, "lent from a removed backend", conn)
        self.check(conn.closes == 0, "lent after it was closed", conn)
        conn.in_body = True
        self.granted += 1
        conn.history.append(f"{trio.current_time():.6g}:lent to {who}")
        self.note("lent", conn)

    def give(self, conn: LedgerConnection) -> None:
        """The body of a claim ends."""
        conn.history.append(f"{trio.current_time():.6g}:given back")
        conn.in_body = False
        conn.holder = None
        conn.needs_recycle = self.dirty_hooks
        self.note("given back", conn)

    def depart(self, backend: Backend) -> None:
        """The pool knows that a backend has left: none of its connections is lent again."""
        for conn in self.live:
            conn.departed = conn.departed or conn.backend == backend
        for dial in self.dialling:
            dial.departed = dial.departed or dial.backend == backend

    # ------------------------------------------------------------- what a test reads

    @property
    def idle(self) -> list[LedgerConnection]:
        """The connections that are open and that nobody uses."""
        return [conn for conn in self.live if conn.is_idle]

    @property
    def closed(self) -> list[LedgerConnection]:
        """The connections that were closed."""
        return [conn for conn in self.connections if conn.closed_at is not None]

    def at_the_end(self) -> list[str]:
        """List the connections that were not closed exactly once, and the unfinished dials."""
        wrong = [
            f"{conn!r} was disconnected {conn.closes} times: {' '.join(conn.history)}"
            for conn in self.connections
            if conn.closes != 1 or conn.closed_at is None
        ]
        wrong.extend(f"{dial!r} is still under way" for dial in self.dialling)
        return wrong


class PlainLedgerConnector(Connector[LedgerConnection]):
    """A connector with a ledger that overrides none of the optional asynchronous hooks.

    `standing` is what every hook does that the script does not mention.
    """

    def __init__(self, standing: Do = OK, *, script: Acts | None = None) -> None:
        self.ledger = Ledger()
        self.script = Script(standing)
        self._acts: Acts = self.script if script is None else script
        self.recycle_rule: Callable[[LedgerConnection, BaseException | None], bool] | None = None
        self.broken_rule: Callable[[LedgerConnection], bool] | None = None
        self.born_broken: set[str] = set()
        """The backends that accept, and close at once."""

    async def connect(self, backend: Backend) -> LedgerConnection:
        """A new page in the ledger."""
        ledger = self.ledger
        ledger.calls["connect"] += 1
        dial = Dial(backend, trio.current_time())
        ledger.dials.append(dial)
        ledger.dialling[dial] = None
        ledger.note("connect begins", dial)
        try:
            await self._acts.take("connect", backend.name).perform()
            conn = ledger.open(backend)
            conn.born = dial.started
            conn.broken = backend.name in self.born_broken
            conn.departed = dial.departed
            ledger.longest_dial = max(ledger.longest_dial, trio.current_time() - dial.started)
            return conn
        except BaseException as exc:
            dial.error = exc
            raise
        finally:
            dial.ended = trio.current_time()
            del ledger.dialling[dial]
            ledger.note("connect ends", dial)

    async def disconnect(self, conn: LedgerConnection) -> None:
        """Close the page."""
        ledger = self.ledger
        conn.closes += 1
        ledger.check(conn.closes == 1, "disconnected twice", conn)
        ledger.check(
            not conn.in_body or trio.current_time() >= ledger.hold_until,
            f"disconnected while {conn.holder} uses it",
            conn,
        )
        ledger.enter_hook(conn, "disconnect")
        try:
            await self._acts.take("disconnect", conn.backend.name).perform()
        except trio.Cancelled:
            conn.forced = True
            raise
        finally:
            ledger.leave_hook(conn, "disconnect")
            conn.closed_at = trio.current_time()
            ledger.live.pop(conn, None)

    def is_broken(self, conn: LedgerConnection) -> bool:
        """Return `broken`, or the answer of `broken_rule`, as the test has set them."""
        self.ledger.calls["is_broken"] += 1
        conn.asked_at = trio.current_time()
        broken = conn.broken if self.broken_rule is None else self.broken_rule(conn)
        conn.said_broken = conn.said_broken or broken
        return broken

    def should_recycle(self, conn: LedgerConnection, exc: BaseException | None) -> bool:
        """Decide by `recycle_rule`, if set, or as the base class; note the call in ``returned``."""
        self.ledger.calls["should_recycle"] += 1
        self.ledger.returned.append((conn, exc))
        if self.recycle_rule is not None:
            return self.recycle_rule(conn, exc)
        return super().should_recycle(conn, exc)

    async def _tend(self, conn: LedgerConnection, hook: Literal["is_valid", "on_recycle"]) -> bool:
        # A claim that was granted but given up before its body began leaves a holder behind.
        self.ledger.check(not conn.in_body, f"{hook} while {conn.holder} uses it", conn)
        conn.holder = None
        self.ledger.enter_hook(conn, hook)
        try:
            return await self._acts.take(hook, conn.backend.name).perform()
        except BaseException:
            conn.dirty = True
            raise
        finally:
            self.ledger.leave_hook(conn, hook)


class LedgerConnector(PlainLedgerConnector):
    """A connector with a ledger that overrides every hook."""

    def __init__(self, standing: Do = OK) -> None:
        super().__init__(standing)
        self.ledger.dirty_hooks = True

    async def is_valid(self, conn: LedgerConnection) -> bool:
        """Do as scripted; a call on a connection in use is a violation."""
        return await self._tend(conn, "is_valid")

    async def on_recycle(self, conn: LedgerConnection) -> None:
        """Do as scripted; afterwards the connection may be claimed again."""
        await self._tend(conn, "on_recycle")
        conn.needs_recycle = False

    async def on_acquire(self, conn: LedgerConnection) -> None:
        """Do as scripted; from here on the claimant is the holder."""
        self.ledger.lend(conn, trio.lowlevel.current_task().name)
        self.ledger.enter_hook(conn, "on_acquire")
        conn.needs_recycle = True
        try:
            await self._acts.take("on_acquire", conn.backend.name).perform()
        except BaseException:
            conn.holder = None
            conn.dirty = True
            raise
        finally:
            self.ledger.leave_hook(conn, "on_acquire")
