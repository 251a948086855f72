"""Shares of the claims in simulated time, with backends that differ."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from qorb_trio import LeastLoaded, PeakEwma, RoundRobin
from qorb_trio._balancing.strategy import Balancer

from .kit import Item, Simulation

#: Seconds for which a claim on a usual backend is held.
HOLDS = [0.025, 0.05, 0.1]


def share_of_the_slow_one(balancer: Balancer, hold: float, seed: int, jitter: bool) -> float:
    """Part of the claims that a backend gets which is ten times slower than three others.

    There are 40 claims per second for 120 s, at regular or at random times.
    """
    chance = random.Random(seed)

    def seconds(item: Item) -> float:
        mean = hold * (1 if item.name else 10)
        return chance.expovariate(1 / mean) if jitter else mean

    simulation = Simulation(balancer, [Item(name, slots=32) for name in range(4)], seed=seed)
    time = 0.0
    while time < 120:
        simulation.sleep_until(time)
        simulation.claim(seconds)
        time += chance.expovariate(40) if jitter else 1 / 40
    return simulation.claims[0] / simulation.claims.total()


@pytest.mark.parametrize("jitter", [False, True], ids=["regular", "random"])
@pytest.mark.parametrize("hold", HOLDS)
@pytest.mark.parametrize(
    ("balancer", "least", "most"),
    [(PeakEwma(), 0.0005, 0.03), (LeastLoaded(), 0.03, 0.09), (RoundRobin(), 0.24, 0.26)],
    ids=["PeakEwma", "LeastLoaded", "RoundRobin"],
)
def test_a_slow_backend(
    balancer: Balancer, least: float, most: float, hold: float, jitter: bool
) -> None:
    """A backend that is ten times slower gets few claims, but for `RoundRobin`, and never none."""
    shares = [share_of_the_slow_one(balancer, hold, seed, jitter) for seed in range(3)]
    assert least <= min(shares)
    assert max(shares) <= most


@pytest.mark.parametrize("seed", range(3))
def test_a_slow_backend_that_recovers(seed: int) -> None:
    """With `PeakEwma`, a backend that was slow for a while has its share again a minute later."""
    simulation = Simulation(PeakEwma(), [Item(name) for name in range(4)], seed=seed)

    def seconds(item: Item) -> float:
        return 1.0 if item.name == 0 and simulation.now < 30 else 0.05

    for tick in range(120 * 40):
        simulation.sleep_until(tick / 40)
        if tick == 90 * 40:
            simulation.claims.clear()
        simulation.claim(seconds)
    assert simulation.claims[0] / simulation.claims.total() > 0.15


@pytest.mark.parametrize("balancer", [PeakEwma(), LeastLoaded(), RoundRobin()], ids=repr)
@pytest.mark.parametrize("seed", range(3))
def test_equal_backends_have_equal_parts(balancer: Balancer, seed: int) -> None:
    """Backends that are alike get the same number of claims, within a fifth."""
    chance = random.Random(seed)
    simulation = Simulation(balancer, [Item(name) for name in range(4)], seed=seed)
    time = 0.0
    while time < 60:
        simulation.sleep_until(time)
        simulation.claim(lambda _: chance.expovariate(10))
        time += chance.expovariate(40)
    fair = simulation.claims.total() / 4
    assert all(abs(count - fair) < fair / 5 for count in simulation.claims.values())


@pytest.mark.parametrize("seed", range(3))
def test_a_fast_failer_attracts_no_claims(seed: int) -> None:
    """With `PeakEwma`, a backend that fails at once does not get most of the claims."""
    simulation = Simulation(PeakEwma(), [Item(name) for name in range(4)], seed=seed)

    def fails(item: Item) -> bool:
        return item.name == 0 and simulation.now > 5

    for tick in range(120 * 40):
        simulation.sleep_until(tick / 40)
        simulation.claim(lambda it: 0.001 if fails(it) else 0.05, failed=fails)
    assert simulation.claims[0] < 0.4 * simulation.claims.total()


@pytest.mark.parametrize("balancer", [PeakEwma(), LeastLoaded(), RoundRobin()], ids=repr)
def test_many_backends_share_the_claims(balancer: Balancer) -> None:
    """With a thousand backends, none is left out, although the balancer sees eight at once."""
    simulation = Simulation(balancer, [Item(name) for name in range(1000)], seed=1)
    for tick in range(20_000):
        simulation.sleep_until(tick / 10_000)
        simulation.claim(lambda _: 0.05)
    assert len(simulation.claims) == 1000
    assert max(simulation.claims.values()) <= 60


def test_the_weights_of_round_robin_hold_in_a_pool() -> None:
    """`RoundRobin` gives each backend its part by weight while its spares suffice."""
    items = [Item(name, weight=1 + name) for name in range(4)]
    simulation = Simulation(RoundRobin(), items, seed=1)
    for tick in range(1000):
        simulation.sleep_until(tick / 40)
        simulation.claim(lambda _: 0.1)
    assert simulation.claims == Counter({0: 100, 1: 200, 2: 300, 3: 400})
