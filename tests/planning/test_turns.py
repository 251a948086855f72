"""The turns of many pools, and of one over a long time."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager

import pytest
import trio
from trio.testing import MockClock

from qorb_trio import FixedResolver, Policy, open_pool
from qorb_trio._planning.make_plan import make_plan
from qorb_trio._planning.plan import Demand
from qorb_trio._planning.rotation import RotationOrder, next_rotation
from qorb_trio.testing import FakeConnection, FakeConnector

from .situations import View


class Pool:
    """A pool whose dials succeed at once, and which has a turn at each rebalance."""

    def __init__(self, seed: int, weights: Mapping[str, float], slots: int) -> None:
        self.order = RotationOrder(seed)
        self.names: dict[View, str] = {}
        self.demand = Demand(max_slots=slots, spares=slots)
        self.connects = 0
        for name, weight in weights.items():
            self.add(name, weight)
        self.carry_out(rebalance=True)

    def add(self, name: str, weight: float) -> View:
        """Add a backend."""
        view = View(effective_weight=weight, rotation_key=self.order.key(name, weight))
        self.names[view] = name
        return view

    def carry_out(self, *, rebalance: bool) -> None:
        """Plan until nothing is left to do."""
        views = list(self.names)
        while True:
            plan = make_plan(views, self.demand, rebalance=rebalance)
            for step in plan.closes:
                step.view.idle -= step.count
            for step in plan.opens:
                step.view.idle += step.count
                self.connects += step.count
            if not plan.closes and not plan.opens:
                return

    def turn(self) -> None:
        """Let a rebalance pass."""
        views = list(self.names)
        move = next_rotation(views, make_plan(views, self.demand))
        if move is not None:
            donor, _ = move
            donor.rotation_key = self.order.end_turn(self.names[donor], donor.effective_weight)
        self.carry_out(rebalance=True)

    def held(self) -> Counter[str]:
        """Return the number of connections to each backend that has any."""
        return Counter({name: view.idle for view, name in self.names.items() if view.idle})


@pytest.mark.parametrize("first", [0, 50, 100])
def test_fifty_pools_spread_over_a_hundred_backends(first: int) -> None:
    """50 pools of 4 slots over 100 equal backends use at least 80 of them, with at most 8
    connections each, at once and after ten minutes."""
    weights = {f"10.0.0.{i}:80": 1.0 for i in range(100)}
    pools = [Pool(seed, weights, 4) for seed in range(first, first + 50)]
    for minutes in (0, 10):
        for pool in pools:
            for _ in range(minutes):
                pool.turn()
        held = sum((pool.held() for pool in pools), Counter[str]())
        assert held.total() == 200
        assert len(held) >= 80
        assert max(held.values()) <= 8


def test_weights_hold_while_the_turns_come_round() -> None:
    """With weights 1:2:4 and 16 slots for 120 backends, the share of the light ones is near a
    seventh at any time: after ten turns as when the heavy ones come round, and later."""
    weights = {f"10.0.0.{i}:80": (1.0, 2.0, 4.0)[i % 3] for i in range(120)}
    found: Counter[int] = Counter()
    for seed in range(300):
        for turns, light in light_holders(RotationOrder(seed), weights, 16, (0, 10, 120)):
            found[turns] += light
    deviations = {turns: light / (300 * 16 / 7) - 1 for turns, light in found.items()}
    assert all(abs(deviation) < 0.15 for deviation in deviations.values()), deviations


def light_holders(
    order: RotationOrder, weights: Mapping[str, float], slots: int, at: Sequence[int]
) -> Iterator[tuple[int, int]]:
    """Yield some numbers of turns, and how many slots the light backends hold after them."""
    keys = sorted((order.key(name, weight), name) for name, weight in weights.items())
    holders, others = keys[:slots], keys[slots:]
    for turns in range(max(at) + 1):
        if turns in at:
            yield turns, sum(weights[name] == 1 for _, name in holders)
        _, name = heapq.heappop(holders)
        place = order.end_turn(name, weights[name]), name
        heapq.heappush(holders, heapq.heappushpop(others, place))


def test_light_backends_have_their_share_of_the_turns() -> None:
    """With weights 1:2, five backends each, and 4 slots, over four hours the light ones hold
    33 % of the spare-minutes, give or take 5 %."""
    weights = {f"10.0.0.{i}:80": 1.0 + i % 2 for i in range(10)}
    shares = []
    for seed in range(20):
        pool = Pool(seed, weights, 4)
        minutes: Counter[str] = Counter()
        for _ in range(240):
            pool.turn()
            minutes += pool.held()
        light = sum(count for name, count in minutes.items() if weights[name] == 1)
        assert minutes.total() == 4 * 240
        shares.append(light / minutes.total())
    assert all(0.28 <= share <= 0.38 for share in shares)


def test_a_turn_moves_one_connection_at_most() -> None:
    """Each rebalance connects at most one slot, and in the long run most of them do."""
    pool = Pool(1, {f"b{i}:1": 1.0 for i in range(10)}, 4)
    for _ in range(100):
        before = pool.connects
        pool.turn()
        assert pool.connects - before <= 1
    assert pool.connects > 80


def test_a_turn_that_leads_to_the_same_backend_moves_nothing() -> None:
    """The first backend stays if its new key is still the smallest that is free."""
    pool = Pool(1, {"a:1": 1.0, "b:1": 1e-3, "c:1": 1e-3}, 1)
    pool.demand = Demand(max_slots=2, spares=1)
    while pool.held() != Counter({"a:1": 1}):
        pool.turn()
    connects = pool.connects
    for _ in range(3):
        pool.turn()
    assert pool.connects == connects


@pytest.mark.parametrize("seed", range(5))
def test_a_newcomer_displaces_at_most_one(seed: int) -> None:
    """One more equal backend costs at most one of the others a connection."""
    pool = Pool(seed, {f"b{i}:1": 1.0 for i in range(10)}, 4)
    for _ in range(20):
        pool.turn()
        before = pool.held()
        pool.add(f"new{len(pool.names)}:1", 1)
        pool.carry_out(rebalance=True)
        assert (before - pool.held()).total() <= 1


# ------------------------------------------------------------------------- real pools


class NotingConnector(FakeConnector):
    """A connector that notes when each connection is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.closed: list[float] = []

    async def disconnect(self, conn: FakeConnection) -> None:
        """Close a connection."""
        self.closed.append(trio.current_time())
        await super().disconnect(conn)


async def test_turns_of_pools_that_started_together_drift_apart(autojump_clock: MockClock) -> None:
    """Each turn makes the next one late by up to a tenth of the interval, at random."""
    connectors = [NotingConnector(), NotingConnector()]
    policy = Policy(spares_wanted=4, max_slots=4)
    backends = FixedResolver([(f"b{i}.test", 1) for i in range(40)])
    async with trio.open_nursery() as nursery:
        for seed, connector in enumerate(connectors):
            rng = random.Random(seed)
            pool = open_pool(nursery, backends, connector, policy=policy, rng=rng)
            nursery.start_soon(hold_open, pool)
        await trio.sleep(20 * 66)
        nursery.cancel_scope.cancel()
    first, second = ([time for time in it.closed if time < 20 * 66] for it in connectors)
    gaps = [after - before for before, after in itertools.pairwise(first)]
    late = [gap - 60 for gap in gaps if gap < 120]  # in between, a turn may move nothing
    assert len(late) > 10
    assert 0 <= min(late) < 2
    assert 4 < max(late) <= 6
    shared = {round(time) for time in first} & {round(time) for time in second}
    assert len(shared) <= 4


async def hold_open(pool: AbstractAsyncContextManager[object]) -> None:
    """Keep a pool open."""
    async with pool:
        await trio.sleep_forever()
