"""Simulated backends, and a planner that is asked in each round of them."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import attrs

from qorb_trio._planning.high_watermark import HighWatermark
from qorb_trio._planning.make_plan import make_plan
from qorb_trio._planning.plan import Demand, Plan
from qorb_trio._planning.rotation import RotationOrder, next_rotation

from .situations import SOME_WEIGHTS, View, used_by

#: Maximum number of rounds before a refused backend is dialled again.
LONGEST_BACKOFF = 8
#: Number of rounds after which a dial seems to hang, and after which it fails.
SUSPICIOUS = 3
CONNECT_TIMEOUT = 9


@attrs.define(eq=False)
class Connection:
    """One connection of a simulated backend."""

    born: int
    due_at: float = math.inf
    expires_at: float = math.inf
    is_claimed: bool = False


@attrs.define(eq=False)
class Host:
    """One backend: the planner's view of it, and its behaviour."""

    view: View
    fate: str = "works"  # or "refuses", "hangs", "whims"
    #: Number of rounds that a successful dial takes; None for a number by chance.
    connect_time: int | None = None
    lifetime: float = math.inf
    dials: list[int] = attrs.field(factory=list)
    connections: list[Connection] = attrs.field(factory=list)
    streak: int = 0
    retry_at: int = 0
    dialled: list[int] = attrs.field(factory=list)
    #: Ages at which connections were closed.
    ages: list[int] = attrs.field(factory=list)

    def begin(self, now: int) -> None:
        """Start a dial; at a failing backend it waits for its back-off."""
        self.dials.append(max(now, self.retry_at) if self.streak else now)

    def ends(self, begun: int, now: int, rng: random.Random) -> str | None:
        """Return how a dial ends in this round, if it does."""
        fate = rng.choice(["works", "refuses"]) if self.fate == "whims" else self.fate
        if now - begun >= CONNECT_TIMEOUT and self.connect_time is None:
            return "refuses"
        if fate == "hangs":
            return None
        if self.connect_time is not None:
            return fate if now - begun >= self.connect_time else None
        return None if rng.random() < 0.4 else fate

    def connect(self, begun: int, rng: random.Random) -> None:
        """Add a connection that was dialled at a time."""
        connection = Connection(begun)
        if self.lifetime < math.inf:
            age = min(self.lifetime * (1 - 0.25 * rng.random()), self.lifetime - 3)
            connection.due_at = begun + age
            connection.expires_at = begun + self.lifetime
        self.connections.append(connection)

    def idle(self, now: int) -> list[Connection]:
        """Return the spares, the ones to be closed first in front."""
        spares = [connection for connection in self.connections if not connection.is_claimed]
        return sorted(spares, key=lambda spare: (spare.due_at > now, spare.born))

    def close(self, connection: Connection, now: int) -> None:
        """Close a connection. Its slot is free in the next round."""
        self.connections.remove(connection)
        self.view.closing += 1
        self.ages.append(now - connection.born)

    def failed(self, now: int) -> None:
        """Note a failure."""
        self.streak += 1
        self.retry_at = now + min(2 ** min(self.streak, 10), LONGEST_BACKOFF)

    def refresh(self, now: int) -> None:
        """Let the planner see how things stand."""
        view = self.view
        idle = self.idle(now)
        claimed = [connection for connection in self.connections if connection.is_claimed]
        view.idle, view.claimed = len(idle), len(claimed)
        view.retiring_idle = sum(connection.due_at <= now for connection in idle)
        view.retiring_claimed = sum(connection.due_at <= now for connection in claimed)
        view.connecting = len(self.dials)
        seems_to_hang = bool(self.dials) and now - min(self.dials) >= SUSPICIOUS
        view.is_hung = seems_to_hang and self.connect_time is None
        view.is_failing = view.is_hung or self.streak > 0
        view.probe_order = (math.inf, min(self.dials)) if view.is_hung else (self.retry_at, 0)


class Fleet:
    """Backends, and a planner that is asked in each round."""

    def __init__(self, hosts: Sequence[Host], demand: Demand, rng: random.Random) -> None:
        self.hosts = hosts
        self.by_view = {host.view: host for host in hosts}
        self.views = [host.view for host in hosts]
        self.demand = demand
        self.rng = rng
        self.order = RotationOrder(rng.getrandbits(64))
        for i, view in enumerate(self.views):
            view.rotation_key = self.order.key(str(i), view.effective_weight)
        self.watermark = HighWatermark()
        self.waiting = 0
        self.now = 0
        self.rebalance = True
        self.closed = 0
        self.connects = 0
        self.steps = 0

    @property
    def connected(self) -> list[int]:
        """The number of connections to each backend."""
        return [len(host.connections) for host in self.hosts]

    def run(self, rounds: int) -> None:
        """Let some rounds pass."""
        for _ in range(rounds):
            self.round()

    def settle(self) -> None:
        """Let all come to rest. A backend that recovers meanwhile waits for the next rebalance."""
        for _ in range(3):
            self.rebalance = True
            self.run(30 + 10 * self.demand.max_slots)

    def round(self, *, turn: bool = False, damped: bool = False) -> None:
        """Plan and act, and let dials proceed; with `turn`, the rebalance interval is over."""
        self.now += 1
        self.rebalance = self.rebalance or turn
        if turn and damped:
            self.watermark.begin_rebalance()
        for host in self.hosts:
            self.expire(host)
            host.refresh(self.now)
        plan = self.plan(turn=turn, retained=self.watermark.retained if damped else 0)
        self.watermark.record(plan.demand)
        if plan.is_settled:
            self.rebalance = False
        self.carry_out(plan)
        for host in self.hosts:
            self.go_on(host)
            host.refresh(self.now)
        self.check()

    def plan(self, *, turn: bool, retained: int) -> Plan[View]:
        """Make a plan, and let one spare move if a turn has ended."""
        demand = attrs.evolve(self.demand, waiting=self.waiting, retained=retained)
        plan = make_plan(self.views, demand, rebalance=self.rebalance)
        move = next_rotation(self.views, plan) if turn else None
        if move is None:
            return plan
        donor, _ = move
        name = str(self.views.index(donor))
        donor.rotation_key = self.order.end_turn(name, donor.effective_weight)
        return make_plan(self.views, demand, rebalance=True)

    def expire(self, host: Host) -> None:
        """Close spares that are too old."""
        for connection in host.idle(self.now):
            if connection.expires_at <= self.now:
                host.close(connection, self.now)

    def carry_out(self, plan: Plan[View]) -> None:
        """Take the steps of a plan; what was closing before is closed by now."""
        self.steps += len(plan.opens) + len(plan.aborts) + len(plan.closes)
        for view in self.views:
            view.closing = 0
        for step in plan.aborts:
            host = self.by_view[step.view]
            host.dials = sorted(host.dials)[: len(host.dials) - step.count]
            host.view.closing += step.count
            if host.view.is_hung:
                host.failed(self.now)
        for step in plan.closes:
            host = self.by_view[step.view]
            for connection in host.idle(self.now)[: step.count]:
                host.close(connection, self.now)
                self.closed += 1
        for step in plan.opens:
            for _ in range(step.count):
                self.by_view[step.view].begin(self.now)

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
                host.connect(begun, self.rng)
                self.connects += 1
                host.streak = 0
            elif end is not None:
                host.failed(self.now)

    def check(self) -> None:
        """Check that the caps hold, as after every round."""
        assert used_by(self.views) <= self.demand.max_slots - self.demand.draining
        assert all(view.slots <= view.limit for view in self.views)

    def claim(self, count: int) -> None:
        """Let claimants take spares; those that find none wait."""
        for _ in range(count):
            spares = [spare for host in self.hosts for spare in host.idle(self.now)]
            if spares:
                spares[-1].is_claimed = True
            else:
                self.waiting += 1

    def serve(self) -> int:
        """Give spares to those that wait; return how many were served."""
        served = 0
        for host in self.hosts:
            for spare in host.idle(self.now):
                if self.waiting:
                    spare.is_claimed = True
                    self.waiting -= 1
                    served += 1
        return served

    def release(self) -> None:
        """End all claims. A due connection is closed as it comes back."""
        for host in self.hosts:
            for connection in list(host.connections):
                if connection.is_claimed:
                    connection.is_claimed = False
                    if connection.due_at <= self.now:
                        host.close(connection, self.now)

    def shake(self, most_claims: int) -> None:
        """End all claims and begin others at random; let some connections break."""
        rng = self.rng
        claims = rng.randint(0, most_claims)
        self.release()
        for host in self.hosts:
            if host.connections and rng.random() < 0.05:
                host.connections.pop()
                host.failed(self.now)
        for _ in range(claims):
            free = [host for host in self.hosts if host.idle(self.now)]
            if free:
                rng.choice(free).idle(self.now)[0].is_claimed = True


def troubled_fleet(rng: random.Random, *, backends: int, slots: int) -> Fleet:
    """Return a fleet that was erratic for a while, and works from now on."""
    views = [View(effective_weight=rng.choice(SOME_WEIGHTS)) for _ in range(backends)]
    for view in views:
        view.limit = rng.choice([slots, max(1, slots // 2), 1])
    spares = rng.randint(1, slots)
    hosts = [Host(view, fate="whims") for view in views]
    fleet = Fleet(hosts, Demand(max_slots=slots, spares=spares), rng)
    for _ in range(30):
        fleet.shake(max(0, slots - 2))
        fleet.round(turn=rng.random() < 0.05)
    fleet.release()
    for host in fleet.hosts:
        host.fate = "works"
    return fleet
