"""`View`: the state of the pools, as far as the messages so far tell. No I/O here.

It is made for the messages of `qtop.serve`. It also reads those of qorb, which have the first
two keys only, and come whenever something has changed.
"""

from __future__ import annotations

from collections import deque
from typing import Final, final

import attrs

from ._message import Fields, parse_message

#: The number of points of each history, and the number of events, that are kept.
KEPT: Final = 300
#: If messages do not say what time they are about, rates are over at least this many seconds.
_MIN_SECONDS: Final = 0.9
#: If they do, a shorter interval counts as none, in seconds.
_MIN_INTERVAL: Final = 0.01


@final
@attrs.frozen(kw_only=True)
class Row:
    """One backend. An attribute that the message does not have is `None`."""

    name: str
    pool: str
    online: bool
    rate: float
    connecting: int
    unclaimed: int
    checking: int
    claimed: int
    closing: int | None
    wanted: int | None
    total: int
    failures: int | None
    failed: int | None
    stale: int | None
    retiring: int | None
    ejected: float | None
    """Seconds until an ejected backend is tried again."""
    p50: float | None
    p99: float | None
    error: str


@final
@attrs.frozen(kw_only=True)
class Totals:
    """One pool. An attribute that the message does not have is `None`."""

    name: str
    claims: int
    rate: float
    slots: int
    waiting: int | None = None
    max_slots: int | None = None
    departed: int = 0
    p50: float | None = None
    p99: float | None = None
    shed: int = 0
    backends: int | None = None
    """The number of active backends."""
    known: int | None = None
    """The number of backends that the resolver knows."""
    trouble: str = ""
    """The reason why the service cannot be resolved, or not completely."""
    suspended: bool = False
    """True while the pool lends nothing on purpose."""


@final
@attrs.frozen(kw_only=True)
class Held:
    """A connection that a task holds."""

    age: float
    task: str
    backend: str
    pool: str


@final
@attrs.frozen(kw_only=True)
class Happened:
    """An event, and its time on this program's clock."""

    at: float
    event: str
    backend: str
    pool: str
    detail: str


@final
class View:
    """The latest message, and the histories that the messages so far add up to."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.pools: list[Totals] = []
        self.holders: list[Held] = []
        self.events: deque[Happened] = deque(maxlen=KEPT)
        #: The reason why some backends are not shown, in words; empty if all are.
        self.left_out: str = ""
        #: By the pool's name: claims per second, and the number of waiting claimants.
        self.claims: dict[str, deque[float]] = {}
        self.waiting: dict[str, deque[int]] = {}
        #: The base of the next rates: a time, and the totals at that time.
        self._since: float | None = None
        self._before: dict[str, int] = {}
        self._rates: dict[str, float] = {}

    def take(self, text: str, now: float) -> None:
        """Take in a message that came at the time `now`.

        Raises:
          ValueError: it is not a message. The view has not changed then.
        """
        message = parse_message(text)
        pools = message.rest.objects("pools")
        totals = {f"set {key}": it.count("total_claims") for key, it in message.sets.items()}
        totals |= {f"pool {it.text('name')}": it.count("claims") for it in pools}
        if not pools:
            totals["pool "] = sum(totals.values())
        rates = self._rates_after(totals, message.rest.maybe_seconds("interval"), now)
        new = self._rates if rates is None else rates
        rows = [_row(key, it, new) for key, it in message.sets.items()]
        known = [_pool(it, new) for it in pools] or [_whole(rows, totals["pool "], new)]
        holders = [_held(it) for it in message.rest.objects("holders")]
        events = [_happened(it, now) for it in message.rest.objects("events")]
        # A message is taken in as a whole, or not at all.
        self.rows, self.pools, self.holders = rows, known, holders
        self.left_out = message.left_out
        self.events.extend(sorted(events, key=lambda it: it.at))
        self._forget_pools()
        if rates is not None or self._since is None:
            self._since, self._before, self._rates = now, totals, new
        if rates is not None:
            self._remember()

    def lost(self) -> None:
        """Note that the connection is lost. The next message is the base of new rates."""
        self._since, self._rates = None, {}

    def _rates_after(
        self, totals: dict[str, int], interval: float | None, now: float
    ) -> dict[str, float] | None:
        """Return new rates, or `None` if it is too early for them."""
        if self._since is None:
            return None
        seconds = interval or now - self._since
        if seconds < (_MIN_INTERVAL if interval else _MIN_SECONDS):
            return None
        # The count of a backend that has left and come back starts at zero again.
        return {
            key: max(0, total - self._before.get(key, total)) / seconds
            for key, total in totals.items()
        }

    def _remember(self) -> None:
        for pool in self.pools:
            self.claims.setdefault(pool.name, deque(maxlen=KEPT)).append(pool.rate)
            self.waiting.setdefault(pool.name, deque(maxlen=KEPT)).append(pool.waiting or 0)

    def _forget_pools(self) -> None:
        """Forget the histories of pools that are gone; a server could make up names for ever."""
        names = {pool.name for pool in self.pools}
        for histories in (self.claims, self.waiting):
            for name in histories.keys() - names:
                del histories[name]


def _row(key: str, found: Fields, rates: dict[str, float]) -> Row:
    slots = {
        state: found.count(f"{state}_slots")
        for state in ("connecting", "unclaimed", "checking", "claimed")
    }
    connected = slots["unclaimed"] + slots["checking"] + slots["claimed"]
    return Row(
        name=found.text("backend", key),
        pool=found.text("pool"),
        online=found.flag("online", default=bool(connected)),
        rate=rates.get(f"set {key}", 0.0),
        closing=found.maybe_count("closing_slots"),
        wanted=found.maybe_count("wanted_slots"),
        total=found.count("total_claims"),
        failures=found.maybe_count("failures"),
        failed=found.maybe_count("failed_claims"),
        stale=found.maybe_count("stale"),
        retiring=found.maybe_count("retiring"),
        ejected=found.maybe_seconds("ejected_for"),
        p50=found.maybe_seconds("wait_p50"),
        p99=found.maybe_seconds("wait_p99"),
        error=found.text("last_error"),
        **slots,
    )


def _pool(found: Fields, rates: dict[str, float]) -> Totals:
    name = found.text("name")
    return Totals(
        name=name,
        claims=found.count("claims"),
        rate=rates.get(f"pool {name}", 0.0),
        waiting=found.maybe_count("waiting"),
        slots=found.count("slots"),
        max_slots=found.maybe_count("max_slots"),
        departed=found.count("departed"),
        p50=found.maybe_seconds("wait_p50"),
        p99=found.maybe_seconds("wait_p99"),
        shed=found.count("shed"),
        backends=found.maybe_count("backends"),
        known=found.maybe_count("known"),
        trouble=found.text("trouble"),
        suspended=found.flag("suspended", default=False),
    )


def _whole(rows: list[Row], claims: int, rates: dict[str, float]) -> Totals:
    """Return the pool of a message that names none."""
    slots = sum(it.connecting + it.unclaimed + it.checking + it.claimed for it in rows)
    return Totals(name="", claims=claims, rate=rates.get("pool ", 0.0), slots=slots)


def _held(found: Fields) -> Held:
    return Held(
        age=found.maybe_seconds("age") or 0.0,
        task=found.text("task"),
        backend=found.text("backend"),
        pool=found.text("pool"),
    )


def _happened(found: Fields, now: float) -> Happened:
    return Happened(
        at=now - (found.maybe_seconds("age") or 0.0),
        event=found.text("event"),
        backend=found.text("backend"),
        pool=found.text("pool"),
        detail=found.text("detail"),
    )
