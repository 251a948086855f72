"""The planner's plans one after another: what becomes of a fleet if they are carried out."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence

import attrs
import pytest

from qorb_trio._planning.planner import GUEST, Demand, Plan, apportion, make_plan, next_turn

from .views import SOME_SHARES, View, ranked

#: A refused backend is dialled again after so many rounds at most.
LONGEST_BACKOFF = 8
#: A dial seems to hang after so many rounds, and fails after so many.
SUSPICIOUS = 3
CONNECT_TIMEOUT = 9


@attrs.define
class Host:
    """One backend: what the planner sees of it, and what it does."""

    view: View
    fate: str = "works"  # or "refuses", "hangs", "whims"
    dials: list[int] = attrs.field(factory=list)
    streak: int = 0
    retry_at: int = 0
    dialled: list[int] = attrs.field(factory=list)

    def begin(self, now: int) -> None:
        """Start a dial; of a failing backend it waits for its back-off."""
        self.dials.append(max(now, self.retry_at) if self.streak else now)

    def ends(self, begun: int, now: int, rng: random.Random) -> str | None:
        """How a dial ends in this round, if it does."""
        fate = rng.choice(["works", "refuses"]) if self.fate == "whims" else self.fate
        if now - begun >= CONNECT_TIMEOUT:
            return "refuses"
        return None if fate == "hangs" or rng.random() < 0.4 else fate

    def failed(self, now: int) -> None:
        """Note a failure."""
        self.streak += 1
        self.retry_at = now + min(2 ** min(self.streak, 10), LONGEST_BACKOFF)

    def refresh(self, now: int) -> None:
        """Let the planner see how things stand."""
        view = self.view
        view.connecting = len(self.dials)
        view.hung = bool(self.dials) and now - min(self.dials) >= SUSPICIOUS
        view.failing = view.hung or self.streak > 0
        view.turn = (math.inf, min(self.dials)) if view.hung else (self.retry_at, 0)


class Fleet:
    """Backends, and a planner that is asked in each round."""

    def __init__(self, hosts: Sequence[Host], demand: Demand, rng: random.Random) -> None:
        self.hosts = hosts
        self.views = [host.view for host in hosts]
        self.demand = demand
        self.rng = rng
        self.now = 0
        self.rebalance = True
        self.closed = 0
        self.steps = 0

    @property
    def connected(self) -> list[int]:
        """How many connections each backend has."""
        return [view.connected for view in self.views]

    def run(self, rounds: int) -> None:
        """Let so many rounds pass."""
        for _ in range(rounds):
            self.round()

    def settle(self) -> None:
        """Let all come to rest. What recovers meanwhile waits for the next rebalance."""
        for _ in range(3):
            self.rebalance = True
            self.run(30 + 10 * self.demand.max_slots)

    def round(self, *, turn: bool = False) -> None:
        """Plan and act, and let what is under way go on; `turn`: the interval has come."""
        self.now += 1
        self.rebalance = self.rebalance or turn
        for host in self.hosts:
            host.refresh(self.now)
        plan = make_plan(self.views, self.demand, rebalance=self.rebalance)
        move = next_turn(self.views, plan) if turn else None
        if move is not None:
            donor, taker = move
            self.views[donor].rank = max(view.rank for view in self.views) + 1
            turned = make_plan(self.views, self.demand, rebalance=True)
            if turned.wanted == plan.wanted:
                self.views[taker].rank = GUEST
                turned = make_plan(self.views, self.demand, rebalance=True)
            plan = turned
        if plan.settled:
            self.rebalance = False
        self.carry_out(plan)
        for host in self.hosts:
            self.go_on(host)
            host.refresh(self.now)
        self.check()

    def carry_out(self, plan: Plan) -> None:
        """Take the steps of a plan; what was closing before is closed by now."""
        self.steps += len(plan.opens + plan.aborts + plan.closes)
        for view in self.views:
            view.closing = 0
        for i, count in plan.aborts:
            host = self.hosts[i]
            host.dials = sorted(host.dials)[: len(host.dials) - count]
            host.view.closing += count
            if host.view.hung:
                host.failed(self.now)
        for i, count in plan.closes:
            self.views[i].unclaimed -= count
            self.views[i].closing += count
            self.closed += count
        for i, count in plan.opens:
            for _ in range(count):
                self.hosts[i].begin(self.now)

    def go_on(self, host: Host) -> None:
        """Let the dials of one backend go on by a round."""
        for begun in list(host.dials):
            if begun > self.now:
                continue
            if begun == self.now or not host.dialled or host.dialled[-1] < begun:
                host.dialled.append(begun)
            end = host.ends(begun, self.now, self.rng)
            if end is not None:
                host.dials.remove(begun)
            if end == "works":
                host.view.unclaimed += 1
                host.streak = 0
            elif end is not None:
                host.failed(self.now)

    def check(self) -> None:
        """The caps hold after every round."""
        demand = self.demand
        assert sum(view.slots for view in self.views) <= demand.max_slots - demand.departed
        assert all(view.slots <= view.limit for view in self.views)

    def shake(self, most_claims: int) -> None:
        """Claims end and others begin, all over the place; connections break."""
        rng = self.rng
        claims = rng.randint(0, most_claims)
        for host in self.hosts:
            view = host.view
            view.unclaimed, view.claimed = view.connected, 0
            if view.unclaimed and rng.random() < 0.05:
                view.unclaimed -= 1
                host.failed(self.now)
        for _ in range(claims):
            free = [view for view in self.views if view.unclaimed]
            if free:
                view = rng.choice(free)
                view.unclaimed -= 1
                view.claimed += 1

    def calm(self) -> None:
        """All claims end."""
        for view in self.views:
            view.unclaimed, view.claimed = view.unclaimed + view.claimed, 0


def a_fleet(rng: random.Random, *, backends: int, slots: int) -> Fleet:
    """A fleet that has seen whims for a while, in which everything works from now on."""
    views = ranked([View(share=rng.choice(SOME_SHARES)) for _ in range(backends)])
    for view in views:
        view.limit = rng.choice([slots, max(1, slots // 2), 1])
    spares = rng.randint(1, slots)
    fleet = Fleet(
        [Host(view, fate="whims") for view in views],
        Demand(max_slots=slots, spares=spares),
        rng,
    )
    for _ in range(30):
        fleet.shake(max(0, slots - 2))
        fleet.round(turn=rng.random() < 0.05)
    fleet.calm()
    for host in fleet.hosts:
        host.fate = "works"
    return fleet


def fair_parts(fleet: Fleet, living: Sequence[int], slots: int) -> list[int]:
    """What each of the living should have in the end."""
    views = [fleet.views[i] for i in living]
    return apportion(
        slots, [v.share for v in views], [v.limit for v in views], [v.rank for v in views]
    )


@pytest.mark.parametrize("seed", range(25))
def test_a_healthy_fleet_comes_to_rest(seed: int) -> None:
    """When all work, each gets its fair part, and then nothing moves any more."""
    rng = random.Random(seed)
    backends, slots = rng.randint(1, 6), rng.randint(2, 10)
    fleet = a_fleet(rng, backends=backends, slots=slots)
    fleet.settle()
    parts = fair_parts(fleet, range(backends), min(fleet.demand.spares, slots))
    assert fleet.connected == parts
    assert not fleet.rebalance
    before = fleet.steps
    fleet.run(20)
    fleet.rebalance = True
    fleet.run(20)
    assert fleet.steps == before


@pytest.mark.parametrize("seed", range(25))
def test_each_of_the_dead_is_probed(seed: int) -> None:
    """However the rest die, those that live keep what is theirs, and each dead one is
    dialled again and again."""
    rng = random.Random(seed)
    living, dead, slots = rng.randint(1, 3), rng.randint(1, 5), rng.randint(2, 10)
    fleet = a_fleet(rng, backends=living + dead, slots=slots)
    fleet.settle()
    for host in fleet.hosts[living:]:
        host.fate = rng.choice(["refuses", "hangs"])
        host.view.unclaimed = 0
        host.failed(fleet.now)
    fleet.settle()
    begun, closed = fleet.now, fleet.closed
    longest = dead * (LONGEST_BACKOFF + CONNECT_TIMEOUT + 3)
    target = min(fleet.demand.spares, slots - 1)
    parts = fair_parts(fleet, range(living), target)
    for _ in range(3 * longest):
        fleet.round()
        assert fleet.connected[:living] == parts
    assert fleet.closed == closed
    for host in fleet.hosts[living:]:
        times = [begun, *(time for time in host.dialled if time > begun), fleet.now]
        gaps = [after - before for before, after in itertools.pairwise(times)]
        assert max(gaps) <= longest


@pytest.mark.parametrize("seed", range(25))
def test_the_dead_that_come_back_are_used(seed: int) -> None:
    """Once all that were dead live again, the fleet is as if nothing had happened."""
    rng = random.Random(seed)
    backends, slots = rng.randint(1, 6), rng.randint(2, 10)
    fleet = a_fleet(rng, backends=backends, slots=slots)
    for host in fleet.hosts:
        host.fate = rng.choice(["works", "refuses", "hangs"])
    fleet.run(100)
    for host in fleet.hosts:
        host.fate = "works"
    fleet.settle()
    parts = fair_parts(fleet, range(backends), min(fleet.demand.spares, slots))
    assert fleet.connected == parts


@pytest.mark.parametrize(("backends", "slots"), [(3, 1), (3, 2), (5, 2), (7, 6), (12, 4)])
def test_with_more_backends_than_slots_each_has_its_turn(backends: int, slots: int) -> None:
    """At each interval one connection moves to a backend that has none, and so each has
    its turn; nothing moves in between."""
    hosts = [Host(view) for view in ranked([View() for _ in range(backends)])]
    fleet = Fleet(hosts, Demand(max_slots=slots, spares=slots), random.Random(1))
    fleet.run(30)
    fleet.closed = 0
    seen = {i for i, count in enumerate(fleet.connected) if count}
    assert len(seen) == slots
    for interval in range(1, 2 * backends):
        fleet.round(turn=True)
        fleet.run(20)
        assert fleet.closed == (interval if slots > 1 else 0)
        assert sum(fleet.connected) == slots
        seen |= {i for i, count in enumerate(fleet.connected) if count}
    assert len(seen) == (backends if slots > 1 else 1)


@pytest.mark.parametrize("shares", [[10, 10, 1], [3, 2, 1], [2, 2, 1, 1]])
def test_the_lightest_have_their_turn_too(shares: list[float]) -> None:
    """With more backends than slots, a light one is connected now and then."""
    hosts = [Host(view) for view in ranked([View(share=share) for share in shares])]
    fleet = Fleet(hosts, Demand(max_slots=2, spares=2), random.Random(1))
    fleet.run(30)
    seen: set[int] = set()
    for _ in range(8 * len(shares)):
        before = fleet.closed
        fleet.round(turn=True)
        fleet.run(20)
        assert fleet.closed - before <= 1
        seen |= {i for i, count in enumerate(fleet.connected) if count}
    assert len(seen) == len(shares)
