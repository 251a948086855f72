"""`Admission`: the rules that refuse claimants before their deadlines.

They are the policy's ``max_waiting``, ``fail_fast_after`` and ``queue_target``. They only
decide. The dispatcher asks before a claimant is parked. The wait queue tells what happens,
asks before each hand-over and at its timer, and wakes the claimants that are refused.

A claimant that is put back into the queue, because the set-up of its connection failed, is
not subject to ``max_waiting`` nor to ``queue_target``, which has let it pass already.
"""

from __future__ import annotations

from enum import Enum, auto
from math import inf, nextafter
from typing import final

#: An interval lasts for this many times the target. Facebook's rule has 100 ms and 5 ms.
INTERVAL = 20

#: While the pool is overloaded, a claimant may wait for this many times the target, as in
#: folly's ``Codel.cpp`` (``getSloughTimeout``).
PATIENCE = 2

#: Waits that differ by less, in seconds, are equal. The clock is not more precise.
ROUNDING = 1e-9


class Reason(Enum):
    """The rule that refuses a claimant as it comes."""

    TOO_MANY_WAIT = auto()
    """`max_waiting`: to be raised as `PoolOverloadedError`."""

    SERVICE_IS_DOWN = auto()
    """`fail_fast_after`: to be raised as the error that a timeout would have given."""


@final
class Overload:
    """The rule ``queue_target``: Facebook's variant of CoDel.

    An interval begins when the queue becomes non-empty, and again at the end of each interval
    while it still is. If even the least wait within an interval was longer than the target,
    the pool is overloaded. It then refuses the claimants that have waited for more than twice
    the target, until an interval has a shorter wait or the queue becomes empty.

    A short burst is served in full, because some claimants of it wait for less than the
    target. Under lasting overload, those that are served have waited for a short time. The
    control law of RFC 8289 refuses claimants at a slowly growing rate instead, and needs
    minutes where arrivals do not slow down. (Maurer, "Fail at Scale", ACM Queue 13:8, 2015;
    folly's ``Codel.cpp``.)
    """

    __slots__ = ("_interval_end", "_least", "is_overloaded", "is_suspended", "target")

    def __init__(self, target: float, *, is_suspended: bool) -> None:
        self.target: float = target
        self._interval_end: float = inf
        #: The least wait of the claimants that were served in this interval.
        self._least: float = inf
        #: True while claimants may be refused.
        self.is_overloaded: bool = False
        #: True while the pool lends nothing on purpose, so that waits say nothing.
        self.is_suspended: bool = is_suspended

    def begin(self, now: float) -> None:
        """Begin an interval without overload: the queue becomes non-empty."""
        self.is_overloaded = False
        self._least = inf
        self._interval_end = now + INTERVAL * self.target

    def served(self, wait: float) -> None:
        """Note that a claimant was served after it had waited for `wait` seconds."""
        self._least = min(self._least, wait)

    def tick(self, now: float, first_arrival: float | None) -> None:
        """Decide, if an interval is over, whether the pool is overloaded.

        `first_arrival` is the time at which the first claimant in the queue arrived, or `None`
        if the queue is empty.
        """
        if first_arrival is None:
            self.is_overloaded = False
            self._interval_end = inf
        elif now >= self._interval_end:
            wait = self._least if self._least < inf else now - first_arrival
            self.begin(now)
            self.is_overloaded = wait > self.target + ROUNDING and not self.is_suspended

    def refuses(self, arrival: float, now: float) -> bool:
        """Return True if a claimant that arrived at `arrival` is refused now."""
        return self.is_overloaded and now > self._limit(arrival)

    def next_tick(self, first_arrival: float | None) -> float:
        """Return the time at which `tick` or `refuses` may next have a new result."""
        if first_arrival is None or not self.is_overloaded:
            return self._interval_end
        # The limit itself is not yet too late, the next moment is.
        return min(self._interval_end, nextafter(self._limit(first_arrival), inf))

    def _limit(self, arrival: float) -> float:
        return arrival + PATIENCE * self.target + ROUNDING


@final
class Outage:
    """The rule ``fail_fast_after``: if a service is down for long, claims fail at once.

    A service is down while the pool has no connection and each known backend fails or hangs,
    and also while no backend is known.
    """

    __slots__ = ("_after", "_is_new", "_since", "is_suspended")

    def __init__(self) -> None:
        #: Time in seconds after which claims fail.
        self._after: float = inf
        #: Time since which the service is down, or infinity.
        self._since: float = inf
        #: True until the claimants that wait have been told to fail.
        self._is_new: bool = True
        #: True while the pool lends nothing on purpose, so that claimants wait for its end.
        self.is_suspended: bool = False

    def configure(self, after: float) -> None:
        """Have claims fail when the service has been down for `after` seconds."""
        self._after = after
        self._is_new = True

    def update(self, now: float, *, is_down: bool) -> None:
        """Note the present state of the service."""
        if not is_down:
            self._since = inf
        elif self._since == inf:
            self._since = now
            self._is_new = True

    def fails_claims(self, now: float) -> bool:
        """Return True if claims fail at once."""
        return now >= self._since + self._after and not self.is_suspended

    def tick(self, now: float) -> bool:
        """Return True, once in each outage, if the claimants that wait must fail now."""
        if not (self._is_new and self.fails_claims(now)):
            return False
        self._is_new = False
        return True

    def next_tick(self) -> float:
        """Return the time at which `tick` will return True."""
        return self._since + self._after if self._is_new and not self.is_suspended else inf


@final
class Admission:
    """The three rules of one pool, and the number of claimants that they refused."""

    __slots__ = ("_is_suspended", "_max_waiting", "is_on", "outage", "overload", "shed")

    def __init__(self) -> None:
        self._is_suspended: bool = False
        self._max_waiting: float = inf
        self.outage: Outage = Outage()
        #: The rule ``queue_target``, or `None` while it is off.
        self.overload: Overload | None = None
        #: True if any rule is on.
        self.is_on: bool = False
        #: Number of refusals by ``max_waiting`` and ``queue_target``.
        self.shed: int = 0

    def configure(self, max_waiting: float, fail_fast_after: float, queue_target: float) -> None:
        """Take over the numbers of a policy. Infinity switches a rule off."""
        self._max_waiting = max_waiting
        self.outage.configure(fail_fast_after)
        if queue_target == inf:
            self.overload = None
        elif self.overload is None or self.overload.target != queue_target:
            self.overload = Overload(queue_target, is_suspended=self._is_suspended)
        self.is_on = min(max_waiting, fail_fast_after, queue_target) < inf

    def suspend(self) -> None:
        """Stop ``queue_target`` and ``fail_fast_after``: the pool lends nothing on purpose."""
        self._is_suspended = self.outage.is_suspended = True
        if self.overload is not None:
            self.overload.is_suspended = True
            self.overload.is_overloaded = False

    def resume(self, now: float) -> None:
        """End a `suspend`, and begin an interval."""
        self._is_suspended = self.outage.is_suspended = False
        if self.overload is not None:
            self.overload.is_suspended = False
            self.overload.begin(now)

    def refuse(self, waiting: int, now: float, *, again: bool) -> Reason | None:
        """Return why a claimant that would have to wait is refused; `None` if it may wait.

        `waiting` is the number of claimants that wait already. `again`: this one has been
        served once, and is put back. A refusal by ``max_waiting`` is counted.
        """
        if self.outage.fails_claims(now):
            return Reason.SERVICE_IS_DOWN
        if waiting >= self._max_waiting and not again:
            self.shed += 1
            return Reason.TOO_MANY_WAIT
        return None
