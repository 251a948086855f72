"""How many slots each backend should have, and what to do about it. Pure functions.

`make_plan` looks at what each backend has and at the demand, and says how many slots are
wanted where, which dials to start or give up, and which spares to close. It knows
neither time nor tasks: the pool calls it when something changed, and carries it out.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heapreplace, nsmallest
from typing import Protocol, final

import attrs

#: What the first slot of a backend counts as where a second counts as 2: it is so cheap
#: that each backend gets one before a backend of up to a hundred times its weight gets a
#: second, for a backend without a connection can neither be used nor known.
FIRST_SLOT = 0.02

#: The rank of a backend whose first slot comes before everyone else's: so the lightest
#: of more backends than slots have a turn too, which their weights would never give them.
GUEST = 0


class View(Protocol):
    """What the planner must know of one backend."""

    @property
    def unclaimed(self) -> int:
        """Spares."""

    @property
    def connected(self) -> int:
        """Established connections: spares, checked, and claimed ones."""

    @property
    def claimed(self) -> int:
        """Connections that are lent out."""

    @property
    def connecting(self) -> int:
        """Dials under way, or waiting for their back-off."""

    @property
    def closing(self) -> int:
        """Connections being closed, and dials being given up."""

    @property
    def limit(self) -> int:
        """At most so many slots, closing ones included."""

    @property
    def failing(self) -> bool:
        """Known to fail or to hang: only to be probed."""

    @property
    def hung(self) -> bool:
        """Failing, and only because a dial takes suspiciously long."""

    @property
    def on_probation(self) -> bool:
        """Failing, but a probe has connected, and is to show that it lasts."""

    @property
    def turn(self) -> tuple[float, float]:
        """Of failing ones, that with the least of these is probed first."""

    #: RFC 2782's: a lower number is better.
    priority: int
    #: The weight, as a factor greater than 0.
    share: float
    #: Among equals, the lower rank comes first. Greater than 0, or `GUEST`.
    rank: int


@final
@attrs.frozen(kw_only=True)
class Demand:
    """What the pool as a whole needs."""

    max_slots: int
    """The cap."""

    departed: int = 0
    """Slots of backends that have left; they count against the cap."""

    waiting: int = 0
    """Claimants that are parked."""

    spares: int = 0
    """How many connections should be ready beyond those in use."""

    at_least: int = 0
    """How many connections there should be, whatever the rest says."""


@final
@attrs.define
class Plan:
    """What is wanted, and the steps towards it that can be taken now."""

    wanted: list[int]
    """For each view, how many slots it should have."""

    opens: list[tuple[int, int]]
    """(view, how many dials to start)."""

    aborts: list[tuple[int, int]]
    """(view, how many dials to give up)."""

    closes: list[tuple[int, int]]
    """(view, how many spares to close)."""

    donors: list[int]
    """The views of which one connection is to be closed as it comes back, instead of lent on,
    the first that does: there is no spare to close."""

    target: int
    """How many connections there should be, if all worked that should."""

    saturated: bool
    """Whether more demand would change nothing."""

    settled: bool
    """Whether nothing is left to be put right when what is under way has ended."""


def apportion(
    total: int, shares: Sequence[float], limits: Sequence[int], ranks: Sequence[int]
) -> list[int]:
    """Divide `total` slots in proportion to `shares`, none beyond its limit.

    The method of D'Hondt (Jefferson), a divisor method, with a cheap first slot. It
    is monotonic, which is why it was chosen: when `total` grows, no one's part
    shrinks, so that demand that comes and goes moves nothing. Ties go by rank.
    """
    seats = [0] * len(shares)
    if not shares:
        return seats
    left = min(total, sum(limits))
    if min(shares) == max(shares):  # all take turns, so skip the rounds that are full
        rounds = total // len(shares)
        seats = [min(rounds, limit) for limit in limits]
        left -= sum(seats)
    if not left:
        return seats
    heap = [
        (_price(held, share, rank), rank, i)
        for i, (held, share, limit, rank) in enumerate(
            zip(seats, shares, limits, ranks, strict=True)
        )
        if held < limit
    ]
    heapify(heap)
    for _ in range(left):
        _, rank, i = heap[0]
        seats[i] += 1
        full = seats[i] == limits[i]
        price = float("inf") if full else _price(seats[i], shares[i], rank)
        heapreplace(heap, (price, rank, i))
    return seats


def _price(held: int, share: float, rank: int) -> float:
    if held == 0 and rank == GUEST:
        return 0
    return (held + 1 if held else FIRST_SLOT) / share


def make_plan(views: Sequence[View], demand: Demand, *, rebalance: bool = False) -> Plan:
    """Decide what each backend should have, and what can be done towards it now.

    Without `rebalance`, no connection is closed but the one spare that may give way
    to a probe. With it, surplus goes too, as far as others have taken its place.
    """
    return _Planner(views, demand).plan(rebalance=rebalance)


@final
@attrs.define
class _Division:
    """The demand, divided."""

    shares: list[int]
    """How many connections each view should have."""

    probes: list[int]
    """The failing views that should be probed."""

    target: int
    """How many connections there should be, if all worked that should."""

    saturated: bool
    """Whether there was more to divide than the views can take."""


@final
class _Planner:
    """One run of the planner: the totals, and one method per question."""

    def __init__(self, views: Sequence[View], demand: Demand) -> None:
        self.views = views
        self.room = max(0, demand.max_slots - demand.departed)
        # Looked up once: with a thousand views it is the looking up that takes the time.
        self.connected_to = [v.connected for v in views]
        self.dialling_to = [v.connecting for v in views]
        self.closing_at = [v.closing for v in views]
        self.fails = [v.failing for v in views]
        self.connected = sum(self.connected_to)
        self.dialling = sum(self.dialling_to)
        self.closing = sum(self.closing_at)
        claimed = sum([v.claimed for v in views])
        self.demand = max(claimed + demand.waiting + demand.spares, demand.at_least)
        self.failing = [i for i, fails in enumerate(self.fails) if fails]
        # Statement 6 of the design: failing backends take at most half of the cap while
        # any other is online.
        self.failing_limit = max(1, demand.max_slots // 2) if self.connected else self.room
        self.free = (
            demand.max_slots - demand.departed - (self.connected + self.dialling + self.closing)
        )

    def plan(self, *, rebalance: bool) -> Plan:
        division = self._apportion()
        wanted = list(division.shares)
        for i in division.probes:
            wanted[i] += 1
        needs = self._needs(wanted)
        aborts = self._aborts(wanted, sum(needs.values()) - self.free)
        opens = self._opens(needs)
        closes: list[tuple[int, int]] = []
        if rebalance:
            closes = self._surplus(division)
        donors: list[int] = []
        if not closes and not aborts:
            donors = self._donors(wanted, needs, rebalance=rebalance)
            ready = [i for i in donors if self.views[i].unclaimed]
            if ready:
                closes, donors = [(self._fullest(ready, wanted), 1)], []
        return Plan(
            wanted=wanted,
            opens=opens,
            aborts=aborts,
            closes=closes,
            donors=donors,
            target=division.target,
            saturated=division.saturated or self.demand >= self.room - bool(division.probes),
            settled=not closes and self._settled(division, needs),
        )

    def _settled(self, division: _Division, needs: dict[int, int]) -> bool:
        """Whether the rest of the surplus, if any, is in use, and no move under way."""
        stuck = self.connected == 1 and self.free == 0 and not self.closing
        if not stuck and any(not self.fails[i] for i in needs):
            return False  # the last connection never moves, so that it is not waited for
        if self.dialling and any(
            dials and not fails
            for dials, fails in zip(self.dialling_to, self.fails, strict=True)
        ):  # fmt: skip
            return False
        # What is being checked may be surplus.
        return self.connected <= division.target or not any(
            view.connected > share and view.connected > view.unclaimed + view.claimed
            for view, share in zip(self.views, division.shares, strict=True)
        )

    def _apportion(self) -> _Division:
        """Divide the demand, or as much of it as there is room for."""
        division = self._divide(min(self.demand, self.room))
        if division.probes and sum(division.shares) == self.room > 1:
            # One slot is kept back for probing, but never the only one, and only if with
            # one less to divide there is still somebody to be probed.
            fewer = self._divide(self.room - 1)
            if fewer.probes:
                division = fewer
        budget = min(self.failing_limit, self.room - sum(division.shares))
        division.probes = nsmallest(max(0, budget), division.probes, key=self._turn)
        return division

    def _turn(self, i: int) -> tuple[tuple[float, float], int]:
        view = self.views[i]
        return view.turn, view.rank

    def _divide(self, total: int) -> _Division:
        """Divide `total` over the best priority that works, and probe those before it."""
        views = self.views
        shares = [0] * len(views)
        candidates: list[tuple[int, float]] = []
        left = total
        capacity = 0
        for tier in self._tiers():
            bounds = [views[i].limit for i in tier]
            limits = [
                min(bound, self.connected_to[i])
                if self.fails[i]
                else max(0, bound - self.closing_at[i])
                for i, bound in zip(tier, bounds, strict=True)
            ]
            weights = [views[i].share for i in tier]
            parts = apportion(left, weights, limits, [views[i].rank for i in tier])
            average = left / sum(weights)
            candidates += [(i, average * views[i].share) for i in tier if self.fails[i]]
            for i, part in zip(tier, parts, strict=True):
                shares[i] = part
            left -= sum(parts)
            capacity += sum(bounds)
            # The next priority is for when none of this one works, not for when it is
            # full. It is looked at for so long as this one does not.
            if any(self.connected_to[i] or not self.fails[i] for i in tier):
                break
        probes = [
            i
            for i, fair in candidates
            if self.connected_to[i] < views[i].limit
            and not views[i].on_probation
            and (left or self.connected_to[i] < fair)
        ]
        return _Division(shares, probes, min(total, capacity), saturated=left > 0)

    def _tiers(self) -> list[list[int]]:
        """The views of each priority, best first."""
        tiers: dict[int, list[int]] = {}
        for i, view in enumerate(self.views):
            tiers.setdefault(view.priority, []).append(i)
        return [tiers[priority] for priority in sorted(tiers)]

    def _needs(self, wanted: list[int]) -> dict[int, int]:
        """How many slots each view lacks, as far as its limit lets it have them."""
        needs = {}
        have = zip(wanted, self.connected_to, self.dialling_to, strict=True)
        for i, (want, connected, dialling) in enumerate(have):
            if want > connected + dialling:
                most = min(want, self.views[i].limit - self.closing_at[i])
                if most > connected + dialling:
                    needs[i] = most - connected - dialling
        return needs

    def _opens(self, needs: dict[int, int]) -> list[tuple[int, int]]:
        """Fill the free slots, the views that have least for their weight first."""
        free = self.free
        probes = self.failing_limit - sum(
            [self.dialling_to[i] + self.closing_at[i] for i in self.failing if needs]
        )
        opens = []
        for i in sorted(needs, key=self._fullness):
            count = min(needs[i], free)
            if self.fails[i]:
                count = min(count, probes)
                probes -= max(0, count)
            if count > 0:
                opens.append((i, count))
                free -= count
        return opens

    def _fullness(self, i: int) -> tuple[float, int]:
        view = self.views[i]
        return (view.connected + view.connecting) / view.share, view.rank

    def _aborts(self, wanted: list[int], shortage: int) -> list[tuple[int, int]]:
        """Dials at failing backends that others need the room of, the latest due first.

        A dial beyond its backend's part began before the backend was known to fail. It
        may yet succeed, so it is left alone while its room is not needed. And while
        nothing is online, the older half of those that seem to hang goes on: perhaps
        all backends are just slow, and to give each a turn would let none finish.
        """
        views = self.views
        dialling = sum([self.dialling_to[i] for i in self.failing])
        # Those that are closing will be free in a moment.
        excess = max(shortage, dialling - self.failing_limit) - self.closing
        if excess <= 0:
            return []
        patient = 0 if self.connected else self.room // 2
        hung = sum(views[i].connecting for i in self.failing if views[i].hung)
        aborts = []
        for i in sorted(self.failing, key=lambda i: views[i].turn, reverse=True):
            view = views[i]
            count = min(excess, view.connecting - max(0, wanted[i] - view.connected))
            if view.hung:
                count = min(count, hung - patient)
                hung -= max(0, count)
            if count > 0:
                aborts.append((i, count))
                excess -= count
        return aborts

    def _surplus(self, division: _Division) -> list[tuple[int, int]]:
        """Spares beyond their backend's share that are not needed in its place."""
        excess = self.connected - division.target
        if excess <= 0:
            return []
        shares = division.shares
        views = self.views
        closes = []
        for i in sorted(
            range(len(views)),
            key=lambda i: (shares[i] - views[i].connected) / views[i].share,
        ):
            if excess <= 0:
                break
            count = min(excess, views[i].unclaimed, views[i].connected - shares[i])
            if count > 0 and not views[i].on_probation:
                closes.append((i, count))
                excess -= count
        return closes

    def _donors(self, wanted: list[int], needs: dict[int, int], *, rebalance: bool) -> list[int]:
        """Who might give a connection of a full cap, for a probe or for one that has too few.

        One at a time: the next follows when what took its place has worked or failed. Where
        nobody has a spare to give, because claimants wait for whatever comes back, it is
        the next connection that does: or else overload would keep all others out.
        """
        views = self.views
        if not needs or self.free > 0 or self.closing or self.connected < 2:
            return []
        probing = any(views[i].connecting or views[i].on_probation for i in self.failing)
        moving = any(
            dials and not fails
            for dials, fails in zip(self.dialling_to, self.fails, strict=True)
        )  # fmt: skip
        wanting = any(
            (not probing) if views[i].failing else (rebalance and not moving) for i in needs
        )
        if not wanting:
            return []
        return [
            i
            for i, connected in enumerate(self.connected_to)
            if connected > wanted[i] and not views[i].on_probation
        ]

    def _fullest(self, donors: list[int], wanted: list[int]) -> int:
        """The one that has most beyond its part; of equals, that of the lowest rank."""
        return max(donors, key=lambda i: (self.connected_to[i] - wanted[i], -self.views[i].rank))


def next_turn(views: Sequence[View], plan: Plan) -> tuple[int, int] | None:
    """With more backends than slots: whose spare should move to whom.

    Of those that hold a spare, and of the sound ones of the same priority that have
    nothing, the ones of the lowest rank. The caller sends the former to the end of the
    line, so that by and by each backend has its turn.
    """
    without = {
        i: v.priority
        for i, (v, wanted) in enumerate(zip(views, plan.wanted, strict=True))
        if not (wanted or v.failing or v.connected or v.connecting)
    }
    tiers = set(without.values())
    donors = [
        i for i, v in enumerate(views) if plan.wanted[i] and v.unclaimed and v.priority in tiers
    ]
    if not donors:
        return None
    donor = min(donors, key=lambda i: views[i].rank)
    takers = [i for i, priority in without.items() if priority == views[donor].priority]
    return donor, min(takers, key=lambda i: views[i].rank)
