"""The numbers that the rules for traffic promise, measured on whole pools in virtual time."""

from __future__ import annotations

import random
from collections import Counter

import attrs
import pytest
import trio
from trio.testing import MockClock

from qorb_trio import Backend, NoBackendsOnlineError, Policy, open_pool
from qorb_trio.testing import ManualResolver

from ..harness.fates import (
    FatedConnector,
    a_pool,
    connected,
    hold,
    make_backends,
    pass_time,
    pass_time_to,
    watch,
)
from ..harness.sets import policy_of

# The order of the backends.


def spread_of(connectors: list[FatedConnector]) -> Counter[Backend]:
    """The number of open connections to each backend."""
    return Counter(conn.backend for connector in connectors for conn in connector.open)


async def test_fifty_pools_do_not_choose_the_same_backends(autojump_clock: MockClock) -> None:
    """50 pools of 4 slots over 100 equal backends: at least 80 distinct ones, at most 8
    connections to one, at once and after ten minutes of turns."""
    backends, connectors = make_backends(100), [FatedConnector() for _ in range(50)]
    policy = Policy(max_slots=4, spares_wanted=4)
    async with trio.open_nursery() as nursery:

        async def run(seed: int, connector: FatedConnector) -> None:
            resolver = ManualResolver(backends)
            async with (
                trio.open_nursery() as own,
                open_pool(own, resolver, connector, policy=policy, rng=random.Random(seed)),
            ):
                await trio.sleep_forever()

        for seed, connector in enumerate(connectors):
            nursery.start_soon(run, seed, connector)
        for moment in (1, 601):
            await pass_time_to(moment)
            spread = spread_of(connectors)
            assert spread.total() == 200
            assert len(spread) >= 80
            assert max(spread.values()) <= 8
        nursery.cancel_scope.cancel()


async def test_light_backends_have_their_share_of_the_spares(autojump_clock: MockClock) -> None:
    """Weights 1:2, five backends each, 4 slots, 4 hours: light ones hold 33 ± 5 % of the
    spare-minutes, over three pools together."""
    light = make_backends(5, "light")
    heavy = [attrs.evolve(it, weight=2) for it in make_backends(5, "heavy")]
    minutes: Counter[bool] = Counter()
    for seed in range(3):
        connector = FatedConnector(seed=seed)
        policy = Policy(max_slots=4, spares_wanted=4)
        async with a_pool(connector, light + heavy, policy, seed=seed) as rig:
            for _ in range(240):
                await pass_time(60)
                for name, count in connected(rig.stats()).items():
                    minutes[name.startswith("light")] += count
    assert 0.28 <= minutes[True] / minutes.total() <= 0.38


async def test_a_new_priority_is_planned_for_at_once(autojump_clock: MockClock) -> None:
    """A standby that is given the best priority gets its share while there is room."""
    main, standby = make_backends(1, "main"), make_backends(1, "standby", priority=1)
    policy = Policy(max_slots=16, spares_wanted=8, rebalance_interval=3600)
    async with a_pool(FatedConnector(), main + standby, policy) as rig:
        await pass_time(10)
        assert connected(rig.stats()) == {"main0": 8, "standby0": 0}
        rig.resolver.set(main + [attrs.evolve(it, priority=0) for it in standby])
        await pass_time(1)
        assert connected(rig.stats())["standby0"] == 4


# Connections that grow old.


async def test_one_busy_slot_is_never_lent_when_it_is_expired(autojump_clock: MockClock) -> None:
    """A single slot that is claimed every 10 ms for ten lifetimes: never lent at that age, and
    dialled 10 to 14 times."""
    connector = FatedConnector(connect_delay=0.05)
    policy = policy_of(max_slots=1, spares_wanted=1, max_lifetime=10)
    async with a_pool(connector, make_backends(1), policy) as rig:
        while trio.current_time() < 100:
            async with rig.pool.claim() as conn:
                assert trio.current_time() - conn.opened < 10
            await trio.sleep(0.01)
    assert 10 <= len(connector.dials) <= 14


async def test_nobody_claims_for_an_hour(autojump_clock: MockClock) -> None:
    """No connection is older than its lifetime at any instant, and the spares stay."""
    connector = FatedConnector(connect_delay=0.05)
    policy = policy_of(max_slots=6, spares_wanted=4, max_lifetime=100)
    async with a_pool(connector, make_backends(1), policy):
        await pass_time(1)

        def look() -> None:
            assert len(connector.open) >= 4
            assert all(trio.current_time() - conn.opened <= 100 for conn in connector.open)

        await watch(3600, 0.5, look)


# Size.


async def test_users_that_pause_cost_no_connects(autojump_clock: MockClock) -> None:
    """14 users hold for 50 s and pause for 20 s: 16 to 18 connects suffice in 660 s."""
    connector = FatedConnector(connect_delay=0.05)
    async with a_pool(connector, make_backends(1), Policy(max_slots=16, spares_wanted=2)) as rig:

        async def user() -> None:
            while True:
                async with rig.pool.claim():
                    await trio.sleep(50)
                await trio.sleep(20)

        async with trio.open_nursery() as nursery:
            for _ in range(14):
                nursery.start_soon(user)
            await trio.sleep(660)
            nursery.cancel_scope.cancel()
            assert len(connector.dials) <= 18


async def test_a_lowered_cap_leaves_deadlines_alone(autojump_clock: MockClock) -> None:
    """Claimants that wait as `reconfigure` changes `claim_timeout` keep their own deadline."""
    policy = policy_of(max_slots=2, spares_wanted=0, claim_timeout=10)
    async with a_pool(FatedConnector(), make_backends(1), policy) as rig:
        waits: list[float] = []

        async def wait() -> None:
            began = trio.current_time()
            with pytest.raises(trio.TooSlowError):
                await rig.pool.acquire()
            waits.append(trio.current_time() - began)

        async with trio.open_nursery() as nursery, rig.pool.claim(), rig.pool.claim():
            nursery.start_soon(wait)
            await pass_time(1)
            rig.pool.reconfigure(attrs.evolve(policy, max_slots=1, claim_timeout=2))
            nursery.start_soon(wait)
            await trio.sleep(20)
        assert waits == pytest.approx([2, 10])


async def test_a_raised_cap_serves_those_who_wait(autojump_clock: MockClock) -> None:
    """Claimants that wait for a full pool are served at once when its cap is raised."""
    policy, connector = policy_of(max_slots=1, spares_wanted=0), FatedConnector()
    async with a_pool(connector, make_backends(1), policy) as rig:
        async with trio.open_nursery() as nursery, rig.pool.claim():
            for _ in range(3):
                nursery.start_soon(hold, rig.pool, 1)
            await pass_time(1)
            assert rig.stats().waiting == 3
            connector.max_slots = 4
            rig.pool.reconfigure(attrs.evolve(policy, max_slots=4))
            await pass_time(0.1)
            assert rig.stats().waiting == 0


# After the loss of the last backend.


@pytest.mark.parametrize("seed", range(5))
async def test_the_first_claim_after_a_failover(autojump_clock: MockClock, seed: int) -> None:
    """The standby has been down for an hour, and comes back in the instant in which the last
    online backend dies: with default numbers the first claim is served within 0.1 s."""
    primary, standby = backends = make_backends(2)
    connector = FatedConnector(seed=seed, connect_delay=0.01)
    connector.crash(standby)
    async with a_pool(connector, backends, seed=seed) as rig:
        await pass_time(3600)
        connector.recover(standby)
        connector.crash(primary)
        began = trio.current_time()
        async with rig.pool.claim() as conn:
            assert conn.backend == standby
        assert trio.current_time() - began < 0.1


@pytest.mark.parametrize("seed", range(5))
async def test_a_claim_during_an_outage_waits_for_a_second(
    autojump_clock: MockClock, seed: int
) -> None:
    """All backends are down for ten minutes while claimants wait: after the return of one, the
    first claim is served within 1.1 s."""
    backends = make_backends(2)
    connector = FatedConnector(seed=seed, connect_delay=0.01)
    async with a_pool(connector, backends, seed=seed) as rig:
        await pass_time(1)
        connector.crash(*backends)
        with pytest.raises(NoBackendsOnlineError):
            async with rig.pool.claim(timeout=600):
                raise AssertionError("nothing is online")
        connector.recover(backends[1])
        began = trio.current_time()
        async with rig.pool.claim():
            assert trio.current_time() - began < 1.1


class Steps(trio.abc.Instrument):
    """Counts the steps of all tasks."""

    def __init__(self) -> None:
        self.count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Count it."""
        self.count += 1


async def test_backends_without_connections_cost_nothing(autojump_clock: MockClock) -> None:
    """Nothing wakes up for the backends to which a pool has no connection."""
    policy = policy_of(max_slots=4, spares_wanted=4, health_interval=30, rebalance_interval=3600)
    async with a_pool(FatedConnector(), make_backends(100), policy):
        await pass_time(1)
        steps = Steps()
        trio.lowlevel.add_instrument(steps)
        await pass_time(300)
        trio.lowlevel.remove_instrument(steps)
        assert steps.count < 4 * 10 * 10  # four connections, checked ten times
