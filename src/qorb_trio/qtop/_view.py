"""`View`: what is known from the messages so far, and in which order it is shown.

Made for the messages of `qtop.serve`, it makes the best of those of qorb, which have the
first two keys only, and come whenever something has changed.
"""

from __future__ import annotations

import json
import re
from collections import deque
from typing import Any, Final, final

import attrs

#: So many points of each history are kept.
KEPT: Final = 300
#: Where a message does not say what time it is about, rates are over so long at least.
_LEAST_SECONDS: Final = 0.9
#: ... and where it does, this is as good as no time at all.
_LEAST_INTERVAL: Final = 0.01

#: No number in a message is as great as this.
_MOST: Final = 1 << 64

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def printable(text: object) -> str:
    """A text from elsewhere, without what would change the terminal."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", str(text))


def _wrong(key: str, value: object) -> ValueError:
    return ValueError(f"a message whose {key} is {printable(repr(value))[:60]}")


def _objects(found: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """A list of objects, empty if there is none."""
    value = found.get(key, [])
    if not (isinstance(value, list) and all(isinstance(it, dict) for it in value)):
        raise _wrong(key, value)
    return value


def _maybe_count(found: dict[str, Any], key: str) -> int | None:
    """A number of things; `bool` is a subclass of `int`, and none."""
    value = found.get(key)
    if value is not None and not (type(value) is int and 0 <= value < _MOST):
        raise _wrong(key, value)
    return value


def _count(found: dict[str, Any], key: str) -> int:
    return _maybe_count(found, key) or 0


def _maybe_seconds(found: dict[str, Any], key: str) -> float | None:
    value = found.get(key)
    if value is not None and not (type(value) in {int, float} and 0 <= value < _MOST):
        raise _wrong(key, value)
    return value


def _text(found: dict[str, Any], key: str, default: object = "") -> str:
    """A text that can be shown, whatever was there."""
    value = found.get(key, default)
    return "" if value is None else printable(value)


@final
@attrs.frozen(kw_only=True)
class Row:
    """One backend. What the message did not tell is `None`."""

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
    p50: float | None
    p99: float | None
    error: str


@final
@attrs.frozen(kw_only=True)
class Totals:
    """One pool; what the message did not tell is `None`."""

    name: str
    claims: int
    rate: float
    waiting: int | None
    slots: int
    max_slots: int | None
    departed: int
    p50: float | None
    p99: float | None


@final
@attrs.frozen(kw_only=True)
class Held:
    """A connection that somebody holds."""

    age: float
    task: str
    backend: str
    pool: str


@final
@attrs.frozen(kw_only=True)
class Happened:
    """An event, and when it was, on the clock of whoever shows it."""

    at: float
    event: str
    backend: str
    pool: str
    detail: str


@final
class View:
    """What is known so far."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.pools: list[Totals] = []
        self.holders: list[Held] = []
        self.events: deque[Happened] = deque(maxlen=KEPT)
        #: By the pool's name: claims per second, and the number of those waiting.
        self.claims: dict[str, deque[float]] = {}
        self.waiting: dict[str, deque[int]] = {}
        #: What the rates are reckoned from: a time, and the totals at that time.
        self._since: float | None = None
        self._before: dict[str, int] = {}
        self._rates: dict[str, float] = {}

    def take(self, text: str, now: float) -> None:
        """Learn from a message that came at `now`.

        Raises:
          ValueError: it is none.
        """
        try:
            self._take(text, now)
        except RecursionError:
            raise ValueError("a message that is nested too deeply") from None

    def _take(self, text: str, now: float) -> None:
        message = _parse(text)
        sets: dict[str, dict[str, Any]] = message["sets"]
        pools = _objects(message, "pools")
        totals = {f"set {key}": _count(it, "total_claims") for key, it in sets.items()}
        totals |= {f"pool {_text(it, 'name')}": _count(it, "claims") for it in pools}
        if not pools:
            totals["pool "] = sum(totals.values())
        news = self._reckon(totals, _maybe_seconds(message, "interval"), now)
        rows = [self._row(key, it) for key, it in sets.items()]
        known = [self._pool(it) for it in pools] or [self._whole(rows, totals["pool "])]
        holders = [_held(it) for it in _objects(message, "holders")]
        events = [_happened(it, now) for it in _objects(message, "events")]
        # A message is believed as a whole, or not at all.
        self.rows, self.pools, self.holders = rows, known, holders
        self.events.extend(events)
        if news:
            for pool in self.pools:
                _history(self.claims, pool.name).append(pool.rate)
                _history(self.waiting, pool.name).append(pool.waiting or 0)

    def lost(self) -> None:
        """The connection is lost, and what comes after it counts from somewhere else."""
        self._since = None

    def _reckon(self, totals: dict[str, int], interval: float | None, now: float) -> bool:
        """Bring the rates up to date, if it is time to; whether it was."""
        if self._since is None:
            self._since, self._before, self._rates = now, totals, {}
            return False
        seconds = interval or now - self._since
        if seconds < (_LEAST_INTERVAL if interval else _LEAST_SECONDS):
            return False
        # A backend that has left and come back counts from zero again.
        self._rates = {
            key: max(0, total - self._before.get(key, total)) / seconds
            for key, total in totals.items()
        }
        self._since, self._before = now, totals
        return True

    def _row(self, key: str, found: dict[str, Any]) -> Row:
        slots = {
            state: _count(found, f"{state}_slots")
            for state in ("connecting", "unclaimed", "checking", "claimed")
        }
        connected = slots["unclaimed"] + slots["checking"] + slots["claimed"]
        return Row(
            name=_text(found, "backend", key),
            pool=_text(found, "pool"),
            online=bool(found.get("online", connected)),
            rate=self._rates.get(f"set {key}", 0.0),
            closing=_maybe_count(found, "closing_slots"),
            wanted=_maybe_count(found, "wanted_slots"),
            total=_count(found, "total_claims"),
            failures=_maybe_count(found, "failures"),
            p50=_maybe_seconds(found, "wait_p50"),
            p99=_maybe_seconds(found, "wait_p99"),
            error=_text(found, "last_error"),
            **slots,
        )

    def _pool(self, found: dict[str, Any]) -> Totals:
        name = _text(found, "name")
        return Totals(
            name=name,
            claims=_count(found, "claims"),
            rate=self._rates.get(f"pool {name}", 0.0),
            waiting=_maybe_count(found, "waiting"),
            slots=_count(found, "slots"),
            max_slots=_maybe_count(found, "max_slots"),
            departed=_count(found, "departed"),
            p50=_maybe_seconds(found, "wait_p50"),
            p99=_maybe_seconds(found, "wait_p99"),
        )

    def _whole(self, rows: list[Row], claims: int) -> Totals:
        """The pool of a message that tells of none."""
        slots = sum(it.connecting + it.unclaimed + it.checking + it.claimed for it in rows)
        return Totals(
            name="",
            claims=claims,
            rate=self._rates.get("pool ", 0.0),
            waiting=None,
            slots=slots,
            max_slots=None,
            departed=0,
            p50=None,
            p99=None,
        )


def _parse(text: str) -> dict[str, Any]:
    """A message, as far as one can tell by its outermost layers."""
    message = json.loads(text)
    sets = message.get("sets") if isinstance(message, dict) else None
    if not (isinstance(sets, dict) and all(isinstance(it, dict) for it in sets.values())):
        raise ValueError("a message without sets of slots")
    found: dict[str, Any] = message
    return found


def _held(found: dict[str, Any]) -> Held:
    return Held(
        age=_maybe_seconds(found, "age") or 0.0,
        task=_text(found, "task"),
        backend=_text(found, "backend"),
        pool=_text(found, "pool"),
    )


def _happened(found: dict[str, Any], now: float) -> Happened:
    return Happened(
        at=now - (_maybe_seconds(found, "age") or 0.0),
        event=_text(found, "event"),
        backend=_text(found, "backend"),
        pool=_text(found, "pool"),
        detail=_text(found, "detail"),
    )


def _history(histories: dict[str, deque[Any]], name: str) -> deque[Any]:
    return histories.setdefault(name, deque(maxlen=KEPT))
