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

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def printable(text: object) -> str:
    """A text from elsewhere, without what would change the terminal."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", str(text))


def _count(found: dict[str, Any], key: str) -> int:
    value = found.get(key, 0)
    if not isinstance(value, int):
        raise ValueError(f"{key} is {value!r}")  # noqa: TRY004 - the message is wrong, not a call
    return value


def _maybe(found: dict[str, Any], key: str) -> Any:
    value = found.get(key)
    if not isinstance(value, int | float | None):
        raise ValueError(f"{key} is {value!r}")  # noqa: TRY004 - see above
    return value


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
class View:
    """What is known so far."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.pools: list[Totals] = []
        self.holders: list[dict[str, Any]] = []
        self.events: deque[dict[str, Any]] = deque(maxlen=KEPT)
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
        message = json.loads(text)
        if not (isinstance(message, dict) and isinstance(message.get("sets"), dict)):
            raise ValueError("a message without sets of slots")  # noqa: TRY004
        sets: dict[str, dict[str, Any]] = message["sets"]
        pools: list[dict[str, Any]] = message.get("pools", [])
        totals = {f"set {key}": _count(it, "total_claims") for key, it in sets.items()}
        totals |= {f"pool {it['name']}": _count(it, "claims") for it in pools}
        if not pools:
            totals["pool "] = sum(totals.values())
        news = self._reckon(totals, message.get("interval"), now)
        self.rows = [self._row(key, it) for key, it in sets.items()]
        self.pools = [self._pool(it) for it in pools] or [self._whole(totals["pool "])]
        self.holders = message.get("holders", [])
        self.events.extend(it | {"at": now - it.get("age", 0)} for it in message.get("events", []))
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
        if not interval and seconds < _LEAST_SECONDS:
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
            name=printable(found.get("backend", key)),
            pool=printable(found.get("pool", "")),
            online=bool(found.get("online", connected)),
            rate=self._rates.get(f"set {key}", 0.0),
            closing=_maybe(found, "closing_slots"),
            wanted=_maybe(found, "wanted_slots"),
            total=_count(found, "total_claims"),
            failures=_maybe(found, "failures"),
            p50=_maybe(found, "wait_p50"),
            p99=_maybe(found, "wait_p99"),
            error=printable(found.get("last_error") or ""),
            **slots,
        )

    def _pool(self, found: dict[str, Any]) -> Totals:
        return Totals(
            name=printable(found["name"]),
            claims=_count(found, "claims"),
            rate=self._rates.get(f"pool {found['name']}", 0.0),
            waiting=_maybe(found, "waiting"),
            slots=_count(found, "slots"),
            max_slots=_maybe(found, "max_slots"),
            departed=_count(found, "departed"),
            p50=_maybe(found, "wait_p50"),
            p99=_maybe(found, "wait_p99"),
        )

    def _whole(self, claims: int) -> Totals:
        """The pool of a message that tells of none."""
        slots = sum(it.connecting + it.unclaimed + it.checking + it.claimed for it in self.rows)
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


def _history(histories: dict[str, deque[Any]], name: str) -> deque[Any]:
    return histories.setdefault(name, deque(maxlen=KEPT))
