"""`Expiry`: the age, idleness and number of uses at which a connection is replaced. Pure."""

from __future__ import annotations

import math
import random
from typing import Literal, final

from .._model.policy import SetConfig

#: Why a connection is due; the last argument of ``Instrument.connection_retired``.
Reason = Literal["lifetime", "idle", "uses", "recycle"]

#: The part of a lifetime, and of a number of uses, over which connections become due. If 1,000
#: pools of 16 connections start within 5 seconds and L is half an hour, the worst second sees
#: 55 reconnects with a quarter, and 389 with HikariCP's 2.5 %.
SPREAD = 0.25

#: A connection is due this many connect times before it expires, so that its replacement is
#: connected by then.
CONNECT_TIMES = 3.0


@final
class Expiry:
    """The limits of one connection's life, drawn once, when its dial begins.

    A connection that is *due* is replaced, the replacement first. One that is *expired* is never
    lent again. Drawing anew at each check would make every connection due early, and so together
    with the others: the minimum of many draws is hardly random.

    Where no limit is set, a connection has no `Expiry` at all, and costs nothing.
    """

    __slots__ = (
        "_born_at",
        "_draw",
        "_due_by_age_at",
        "_idle_timeout",
        "_recycle_at",
        "calm_until",
        "calm_uses",
        "dates_returns",
        "due",
        "due_uses",
        "expires_at",
        "max_uses",
        "unused_since",
        "uses",
    )

    def __init__(self, config: SetConfig, born_at: float, connect_time: float, draw: float) -> None:
        self._born_at: float = born_at
        self._draw: float = draw
        self._recycle_at: float = math.inf
        #: Why the connection is due; `None` while it is not.
        self.due: Reason | None = None
        #: The number of claims, a present one included. A float, as its limits are, because
        #: Python compares two floats faster than an integer with a float.
        self.uses: float = 0.0
        #: The time of the last return or of the connect, which a health check does not change.
        #: It is only kept if `dates_returns`.
        self.unused_since: float = math.inf
        self.update(config, connect_time)

    @classmethod
    def draw(
        cls, config: SetConfig, born_at: float, connect_time: float, rng: random.Random
    ) -> Expiry | None:
        """Return the limits of a connection whose dial began at `born_at`, or `None` without any.

        `connect_time` is the present estimate of how long a connect takes, in seconds.
        """
        if not limits_life(config):
            return None
        return cls(config, born_at, connect_time, rng.random())

    @classmethod
    def recycled(cls, born_at: float, at: float) -> Expiry:
        """Return the limits of a connection that has no others, and that is due at the time `at`.

        For `Pool.recycle`.
        """
        expiry = cls(SetConfig(), born_at, 0.0, 0.0)
        expiry.recycle(at)
        return expiry

    def update(self, config: SetConfig, connect_time: float) -> None:
        """Take over other limits, as after `Pool.reconfigure`, with the same draw."""
        lifetime, most = config.max_lifetime, config.max_uses
        #: A connection of this age, or with this number of uses, is never lent.
        self.expires_at: float = self._born_at + lifetime
        self.max_uses: float = float(most)
        self.due_uses: float = most if most == math.inf else float(math.ceil(self._early(most)))
        #: With fewer uses than this, and before `calm_until`, nothing can become of another use.
        self.calm_uses: float = self.due_uses - 1
        #: True if the ends of claims have to be dated.
        self.dates_returns: bool = config.idle_timeout < math.inf
        self._idle_timeout: float = config.idle_timeout
        self._due_by_age_at: float = math.inf
        if lifetime < math.inf:
            earliest = lifetime * (1.0 - SPREAD)
            latest = max(earliest, lifetime - CONNECT_TIMES * connect_time)
            age = latest - (latest - earliest) * self._draw
            self._due_by_age_at = self._born_at + age
        self._note_calm()

    def _note_calm(self) -> None:
        #: Before this time the connection is neither due nor expired, unless by its uses, which
        #: are counted at check-out, or its idleness, which is left to the timer.
        self.calm_until: float = min(self._due_by_age_at, self._recycle_at, self.expires_at)

    def _early(self, limit: float) -> float:
        return limit * (1.0 - SPREAD * self._draw)

    def recycle(self, at: float) -> None:
        """Make the connection due at the time `at`, if it is not due earlier."""
        self._recycle_at = min(self._recycle_at, at)
        self._note_calm()

    def retire(self, reason: Reason) -> None:
        """Record that the connection is due, which it remains."""
        self.due = reason

    def changes_at(self, unused_since: float) -> float:
        """Return when the state of the connection changes next by time alone.

        `unused_since` is the present time for a connection that is claimed, since it may come
        back at once.
        """
        return self.expires_at if self.due else self.next_due_at(unused_since)

    def next_due_at(self, unused_since: float) -> float:
        """Return when a connection becomes due by time alone.

        `unused_since` is the time of its last return or of its connect; a health check is no use.
        It is ``math.inf`` for a connection that is claimed.
        """
        idle_until = unused_since + self._idle_timeout
        return min(self._due_by_age_at, self._recycle_at, idle_until)

    def due_reason(self, now: float, *, uses: float, unused_since: float) -> Reason | None:
        """Return why the connection is due at `now`; `None` if it is not.

        `uses` counts its claims, a present one included; `unused_since` is as in `next_due_at`.
        """
        if now >= self._due_by_age_at:
            return "lifetime"
        if now >= self._recycle_at:
            return "recycle"
        if uses >= self.due_uses:
            return "uses"
        if now >= unused_since + self._idle_timeout:
            return "idle"
        return None

    def is_expired(self, now: float) -> bool:
        """Return True if the connection is too old to be lent."""
        return now >= self.expires_at

    def check_out(self) -> None:
        """Count a claim that begins."""
        self.uses += 1.0

    def check_in(self, now: float) -> None:
        """Date the return of a claim."""
        self.unused_since = now

    def is_used_up(self, uses: float) -> bool:
        """Return True if the connection, as it returns, has served all its claims."""
        return uses >= self.max_uses


def recycle_at(now: float, over: float, rng: random.Random) -> float:
    """Return when a connection becomes due by ``Pool.recycle(over=over)``, called at `now`."""
    return now + rng.uniform(0.0, over)


def limits_life(config: SetConfig) -> bool:
    """Return True if connections made under this policy are ever replaced for age or use."""
    return not config.max_lifetime == config.idle_timeout == config.max_uses == math.inf
