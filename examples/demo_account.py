"""The account of all claims that ``demo.py`` keeps, and the printer of its events."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import attrs
import trio

import qorb_trio
from echo_claimers import CountingConnector, Outcome

# The states of a slot: the sign for it, the plain sign, and the colour.
SLOTS = (
    ("claimed", "■", "#", 32),
    ("unclaimed", "□", "-", 36),
    ("checking", "▣", "c", 34),
    ("connecting", "…", "?", 33),
    ("closing", "✕", "x", 31),
)
SLOTS_WIDTH = 10


# --- The account -----------------------------------------------------------------------


@attrs.define(eq=False)
class Kill:
    """The killing of a server, which takes a moment: until the process is gone."""

    backend: qorb_trio.Backend
    began: float
    ended: float = math.inf


@attrs.frozen
class Move:
    """A server is at another address, and DNS has begun to tell so."""

    address: tuple[str, int]
    time: float


@attrs.define(eq=False)
class Account:
    """All claims that were made, and their outcomes."""

    kill: Kill | None = None
    moved: Move | None = None
    outcomes: list[Outcome] = attrs.field(factory=list)
    found: float | None = None
    """The time of the first claim that was granted at the new address."""

    def add(self, outcome: Outcome) -> None:
        """Record one more claim."""
        self.outcomes.append(outcome)
        backend = outcome.backend
        if (
            self.found is None
            and self.moved is not None
            and backend is not None
            and backend.address == self.moved.address
        ):
            self.found = outcome.granted

    def in_flight(self) -> list[Outcome]:
        """Return the claims that used the server when it was killed."""
        kill = self.kill
        return [
            outcome
            for outcome in self.outcomes
            if kill is not None
            and outcome.granted is not None
            and outcome.backend == kill.backend
            and outcome.granted <= kill.ended
            and outcome.ended >= kill.began
        ]

    def cut(self) -> list[Outcome]:
        """Return those of them that failed because of it. No pool can prevent that."""
        return [o for o in self.in_flight() if isinstance(o.error, ConnectionError)]

    def failed(self) -> list[Outcome]:
        """Return all other claims that failed. There should be none."""
        excused = {id(outcome) for outcome in self.cut()}
        return [o for o in self.outcomes if o.error is not None and id(o) not in excused]

    def granted(self) -> list[Outcome]:
        """Return the claims that got a connection."""
        return [outcome for outcome in self.outcomes if outcome.granted is not None]

    def per_backend(self) -> Counter[qorb_trio.Backend]:
        """Return the number of claims that each backend served."""
        return Counter(o.backend for o in self.outcomes if o.backend is not None)


# --- What one sees ---------------------------------------------------------------------


@attrs.define(eq=False)
class Printer:
    """Prints the lines of the demo: with colours and signs, or plain."""

    plain: bool
    names: Sequence[str]
    """The servers, each of which has a column."""
    started: float = attrs.field(factory=trio.current_time, init=False)
    """The time from which its clock counts."""

    def paint(self, text: str, *codes: int) -> str:
        """Return `text` in a colour or style, given by its ANSI codes."""
        if self.plain:
            return text
        return f"\x1b[{';'.join(map(str, codes))}m{text}\x1b[0m"

    def say(self, text: str = "") -> None:
        """Print a line."""
        print(text, flush=True)

    def event(self, text: str, *codes: int) -> None:
        """Print an event with its time."""
        self.say(f"{self.clock()}  {self.paint(text, 1, *codes)}")

    def clock(self) -> str:
        """Return the time since the start of the demo, for people to read."""
        return self.paint(f"{trio.current_time() - self.started:5.1f} s", 2)

    def legend(self) -> str:
        """Return the legend of the signs for slots."""
        return "  ".join(
            f"{self.paint(plain if self.plain else sign, colour)} {state}"
            for state, sign, plain, colour in SLOTS
        )

    def slots(self, stats: qorb_trio.BackendStats | None) -> str:
        """Return the slots of one backend, one sign for each, in a column of fixed width."""
        if stats is None:
            return " " * SLOTS_WIDTH
        counts: list[int] = [getattr(stats, state) for state, *_ in SLOTS]
        signs = [
            self.paint((plain if self.plain else sign) * count, colour)
            for (_, sign, plain, colour), count in zip(SLOTS, counts, strict=True)
            if count
        ]
        return "".join(signs) + " " * (SLOTS_WIDTH - sum(counts))

    def tick(self, stats: qorb_trio.PoolStats, rate: float, failed: int) -> None:
        """Print the present state of the pool."""
        backends = {_target(s.backend): s for s in stats.backends.values()}
        columns = []
        for name in self.names:
            backend = backends.get(name)
            online = backend is not None and backend.online
            columns.append(f"{self.paint(name, 32 if online else 31)} {self.slots(backend)}")
        trouble = self.paint(f"  {failed} failed", 1, 31) if failed else ""
        line = f"{self.clock()}  {rate:4.0f} claims/s  {' '.join(columns)}{trouble}"
        self.say(line.rstrip())  # of 80 columns, so that nothing is wrapped

    def report(self, account: Account, connector: CountingConnector) -> None:
        """Print the account."""
        granted, cut, failed = account.granted(), account.cut(), account.failed()
        waits = sorted(outcome.waited for outcome in granted) or [0.0]
        self.say()
        self.say(self.paint(f"{len(granted):,} claims on one pool", 1))
        self.say(f"  failed           {self.paint(str(len(failed)), 1, 31 if failed else 32)}")
        self.say(
            f"  cut by the kill  {len(cut)}, of the {len(account.in_flight())}"
            " that were using the server as it died"
        )
        self.say(
            f"  slowest claim    {waits[-1] * 1000:.1f} ms to get a connection;"
            f" 99 % had theirs within {waits[len(waits) * 99 // 100] * 1000:.2f} ms"
        )
        self.say(f"  connections      {connector.opened} opened, {connector.closed} closed")
        self.say()
        self._per_backend(account)
        for outcome in failed[:5]:
            self.say(self.paint(f"  failed: {outcome.claimer}: {outcome.error!r}", 31))

    def _per_backend(self, account: Account) -> None:
        claims = account.per_backend()
        most = max(claims.values(), default=1)
        for backend, count in sorted(claims.items(), key=lambda item: _target(item[0])):
            bar = ("#" if self.plain else "█") * round(30 * count / most)
            name = _target(backend)
            address = f"{backend.host}:{backend.port}"
            fate = self._fate(account, backend)
            self.say(f"  {name}  {address:<15}  {count:6,}  {self.paint(bar, 32)}{fate}")

    def _fate(self, account: Account, backend: qorb_trio.Backend) -> str:
        if account.kill is not None and backend == account.kill.backend:
            return f"  killed after {account.kill.began - self.started:.1f} s"
        if account.moved is not None and backend.address == account.moved.address:
            return f"  from {(account.found or math.nan) - self.started:.1f} s on"
        return ""


def _target(backend: qorb_trio.Backend) -> str:
    """Return the first label of its name in DNS, such as ``echo001``."""
    return backend.name.partition(".")[0]
