"""`SetConfig.slow_start`: backends that come online serve few claims at first."""

from __future__ import annotations

import math
from collections import Counter

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from qorb_trio import Backend, PeakEwma, Policy, Pool, RoundRobin, SetConfig, open_pool
from qorb_trio.testing import FakeConnection, FakeConnector, ManualResolver

OLD, NEW = Backend(("old", 80), name="old"), Backend(("new", 80), name="new", weight=2)
POLICY = Policy(
    spares_wanted=8, max_slots=8, rebalance_interval=1, set_config=SetConfig(slow_start=20)
)


def weights(pool: Pool[FakeConnection]) -> dict[str, float]:
    """The weight of each backend for the balancer."""
    return {
        name: slot_set.balancing_weight for name, slot_set in pool._parts.registry.active.items()
    }


async def shares(pool: Pool[FakeConnection], claims: int = 1000) -> Counter[str]:
    """The number of claims that each backend serves, at one instant."""
    served: Counter[str] = Counter()
    for _ in range(claims):
        async with pool.claim() as connection:
            served[connection.backend.name] += 1
    return served


async def test_a_newcomer_gets_its_claims_in_ten_steps(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """The claims on a new backend rise from a tenth of its share to all of it, in ten steps."""
    resolver = ManualResolver([OLD])
    async with open_pool(
        nursery, resolver, FakeConnector(), policy=POLICY, balancer=RoundRobin()
    ) as pool:
        await pool.wait_ready(8)
        await trio.sleep(100)
        assert weights(pool) == {"old": 1}
        resolver.set([OLD, NEW])
        began = trio.current_time()
        await wait_all_tasks_blocked()
        for step in range(11):
            await trio.sleep_until(began + 2 * step)
            await wait_all_tasks_blocked()
            weight = 2 * (0.1 + 0.09 * step)
            assert weights(pool) == {"old": 1, "new": pytest.approx(weight)}
            if step in {1, 10}:
                served = await shares(pool)
                assert served["new"] == pytest.approx(1000 * weight / (1 + weight), abs=15)
        # The connections are spread by the whole weight.
        assert pool.stats().backends["new"].wanted >= 5
        await trio.sleep(1000)
        assert weights(pool) == {"old": 1, "new": 2}


async def test_the_newcomers_connections_do_not_wait(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """A new backend gets its connections by its whole weight at once."""
    resolver = ManualResolver([OLD])
    async with open_pool(nursery, resolver, FakeConnector(), policy=POLICY) as pool:
        await pool.wait_ready(8)
        resolver.set([OLD, NEW])
        await trio.sleep(1.5)
        assert weights(pool)["new"] < 0.5
        assert pool.stats().backends["new"].wanted >= 5
        # A change of its weight keeps the part of it that has been reached.
        resolver.set([OLD, Backend(("new", 80), name="new", weight=10)])
        await wait_all_tasks_blocked()
        assert weights(pool)["new"] == pytest.approx(1)


async def test_each_time_that_a_backend_comes_online(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """A backend that was offline starts slowly again."""
    connector = FakeConnector()
    async with open_pool(nursery, ManualResolver([OLD]), connector, policy=POLICY) as pool:
        await pool.wait_ready(8)
        await trio.sleep(30)
        assert weights(pool) == {"old": 1}
        connector.crash(OLD)
        for _ in range(8):
            with pytest.raises(trio.WouldBlock):
                pool.claim_nowait()
        connector.heal(OLD)
        await pool.wait_ready()
        assert weights(pool) == {"old": pytest.approx(0.1)}


async def test_off_by_default(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Without `slow_start`, a backend has its weight at once."""
    policy = attrs.evolve(POLICY, set_config=SetConfig())
    async with open_pool(
        nursery, ManualResolver([OLD, NEW]), FakeConnector(), policy=policy
    ) as pool:
        await pool.wait_ready(8)
        assert weights(pool) == {"old": 1, "new": 2}


async def test_a_slow_start_ends_when_it_is_switched_off(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """`reconfigure` to no slow start gives a new backend its weight at once."""
    async with open_pool(nursery, ManualResolver([OLD]), FakeConnector(), policy=POLICY) as pool:
        await pool.wait_ready(8)
        assert weights(pool) == {"old": pytest.approx(0.1)}
        pool.reconfigure(attrs.evolve(POLICY, set_config=SetConfig()))
        await wait_all_tasks_blocked()
        assert weights(pool) == {"old": 1}


async def test_keys_follow_the_weight(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """At each step some keys move to the new backend, those that were seen before too."""
    resolver = ManualResolver([OLD])
    async with open_pool(nursery, resolver, FakeConnector(), policy=POLICY) as pool:
        await pool.wait_ready(8)
        await trio.sleep(100)
        resolver.set([OLD, NEW])
        await trio.sleep(17)
        before = await favourites(pool)
        await trio.sleep(2)
        assert weights(pool)["new"] == pytest.approx(1.82)
        after = await favourites(pool)
        moved = [key for key, name in before.items() if after[key] != name]
        assert 5 <= len(moved) <= 50
        assert {after[key] for key in moved} == {"new"}


async def favourites(pool: Pool[FakeConnection], keys: int = 1000) -> dict[int, str]:
    """The backend that serves each key, at one instant."""
    served = {}
    for key in range(keys):
        async with pool.claim(key=key) as connection:
            served[key] = connection.backend.name
    return served


async def test_peak_ewma_follows_the_weight(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """`PeakEwma` follows each step of a weight, and a change of the backend's own."""
    resolver = ManualResolver([OLD, NEW])
    async with open_pool(
        nursery, resolver, FakeConnector(), policy=POLICY, balancer=PeakEwma()
    ) as pool:
        await pool.wait_ready(8)
        await shares(pool, 10)
        known = pool._parts.registry.active["new"]
        for _ in range(3):
            await trio.sleep(2)
            assert known.candidate is not None
            assert known.candidate.log_weight == math.log2(known.balancing_weight) < 1
        resolver.set([OLD, Backend(("new", 80), name="new", weight=7)])
        await trio.sleep(100)
        assert known.candidate is not None
        assert known.candidate.log_weight == math.log2(7)
