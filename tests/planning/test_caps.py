"""The caps hold at every instant: ``max_slots``, and ``max_count`` for each backend.

The connector of the harness looks at each dial whether the caps are passed.
"""

from __future__ import annotations

import itertools
import math

import pytest
import trio
from trio.testing import MockClock

from qorb_trio import Backend, Policy, SetConfig

from ..harness.fates import (
    FatedConnector,
    Rig,
    a_pool,
    assert_consistent,
    connected,
    hold_many,
    make_backends,
    pass_time,
    run_load,
    settle,
    watch,
)


@pytest.mark.parametrize("dead", [0, 1, 2])
@pytest.mark.parametrize("count", [3, 5, 7])
async def test_ff23_rounding_and_probes_never_pass_the_cap(
    count: int, dead: int, autojump_clock: MockClock
) -> None:
    """Neither rounding up shares nor probing dead backends passes the cap, which is used up."""
    backends = make_backends(count)
    connector = FatedConnector(connect_delay=0.01, close_delay=0.3)
    connector.crash(*backends[:dead])
    policy = Policy(max_slots=4, rebalance_interval=10)
    async with a_pool(connector, backends, policy) as rig:
        for _ in range(3):
            await run_load(rig.pool, claimants=6, seconds=11, work=0.5)
            assert_consistent(rig)
        assert rig.stats().slots == 4
    assert connector.peak == 4


async def test_ff24_claims_on_a_removed_backend_keep_their_places(
    autojump_clock: MockClock,
) -> None:
    """A new backend gets a slot only as each claim on the removed one is given back."""
    a, b = make_backends(2)
    connector = FatedConnector()
    policy = Policy(spares_wanted=4, max_slots=4)
    async with a_pool(connector, [a], policy) as rig:
        claims = [await rig.pool.acquire() for _ in range(4)]
        rig.resolver.set([b])
        await pass_time(200)
        assert connector.dials_to(b) == []
        stats = rig.stats()
        assert (stats.slots, stats.departed) == (4, 4)
        for done, claim in enumerate(claims, 1):
            claim.release()
            await settle()
            assert (len(connector.open_to(a)), len(connector.open_to(b))) == (4 - done, done)
            assert rig.stats().departed == 4 - done


@pytest.mark.parametrize("max_slots", [4, 8])
async def test_ff24_claims_count_against_the_same_backend_when_it_comes_back(
    max_slots: int, autojump_clock: MockClock
) -> None:
    """Claims held from before a backend left use up its ``max_count`` when it is back."""
    (a,) = make_backends(1)
    connector = FatedConnector()
    policy = Policy(spares_wanted=8, max_slots=max_slots, set_config=SetConfig(max_count=4))
    async with a_pool(connector, [a], policy) as rig:
        claims = [await rig.pool.acquire() for _ in range(4)]
        rig.resolver.set([])
        await settle()
        rig.resolver.set([a])
        await pass_time(100)
        assert len(connector.dials) == 4
        assert rig.stats().departed == 4
        for done, claim in enumerate(claims, 1):
            claim.release()
            await settle()
            assert len(connector.dials) == 4 + done
            assert rig.stats().departed == 4 - done
        assert rig.stats().backends[a.name].unclaimed == 4


async def test_ff25_failing_recycles_do_not_push_the_size_past_the_cap(
    autojump_clock: MockClock,
) -> None:
    """Connections that cannot be recycled make room before others take their place."""
    connector = FatedConnector(recycle="fail", connect_delay=0.01, close_delay=0.05)
    policy = Policy(max_slots=4)
    async with a_pool(connector, make_backends(2), policy) as rig:
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(_claim_times, rig, 5)
        assert rig.stats().claims == 40
        assert_consistent(rig)
    assert len(connector.conns) >= 40


async def _claim_times(rig: Rig, times: int) -> None:
    for _ in range(times):
        async with rig.pool.claim(timeout=math.inf):
            await trio.sleep(0.01)


async def test_ff26_the_replacement_waits_until_the_old_one_has_closed(
    autojump_clock: MockClock,
) -> None:
    """At the cap, a discarded connection is replaced when it is closed, and not before."""
    connector = FatedConnector(close_delay=5.0)
    policy = Policy(spares_wanted=2, max_slots=2, set_config=SetConfig(disconnect_timeout=20))
    async with a_pool(connector, make_backends(1), policy) as rig:
        for claim in [await rig.pool.acquire() for _ in range(2)]:
            claim.discard()
        await pass_time(4.9)
        assert len(connector.dials) == 2
        assert rig.stats().slots == 2
        await pass_time(0.2)
        assert len(connector.dials) == 4
        assert rig.stats().backends["b0"].unclaimed == 2


@pytest.mark.parametrize("stubborn", [False, True])
async def test_a_cancelled_dial_keeps_its_place_until_it_has_ended(
    stubborn: bool, autojump_clock: MockClock
) -> None:
    """A dial that is slow to give up counts until it has, and what it still opens is closed."""
    a, b = make_backends(2)
    connector = FatedConnector()
    connector.fate(a).connect = "hang"
    connector.fate(a).connect_linger = 2.0
    connector.fate(a).connect_stubborn = stubborn
    async with a_pool(connector, [a], Policy(spares_wanted=2, max_slots=2)) as rig:
        await pass_time(1)
        rig.resolver.set([b])
        await pass_time(1.9)
        assert connector.dials_to(b) == []
        await pass_time(0.2)
        assert len(connector.open_to(b)) == 2
        assert connector.open_to(a) == []


@pytest.mark.parametrize("max_count", [1, 3])
@pytest.mark.parametrize("count", [1, 2])
async def test_max_count_bounds_each_backend_under_a_burst(
    count: int, max_count: int, autojump_clock: MockClock
) -> None:
    """A backend gets at most ``max_count`` connections for any number of claimants."""
    backends = make_backends(count)
    connector = FatedConnector(connect_delay=0.01)
    policy = Policy(set_config=SetConfig(max_count=max_count))
    async with a_pool(connector, backends, policy) as rig:
        await hold_many(rig.pool, 20, 0.1)
        await settle()
        assert connected(rig.stats()) == {each.name: max_count for each in backends}
        assert_consistent(rig)


async def test_hung_disconnects_count_until_they_are_cut_short(autojump_clock: MockClock) -> None:
    """A close that hangs keeps its place for ``disconnect_timeout``, and then gives it up."""
    connector = FatedConnector(close="hang")
    policy = Policy(spares_wanted=3, max_slots=3)
    async with a_pool(connector, make_backends(1), policy) as rig:
        for claim in [await rig.pool.acquire() for _ in range(3)]:
            claim.discard()
        await pass_time(0.9)
        assert rig.stats().backends["b0"].closing == 3
        assert len(connector.dials) == 3
        await pass_time(0.2)
        assert rig.stats().backends["b0"].unclaimed == 3


INF = math.inf
ENDLESS = SetConfig(
    health_interval=INF,
    health_check_timeout=INF,
    connect_timeout=INF,
    disconnect_timeout=INF,
    max_connection_backoff=INF,
)


@pytest.mark.parametrize(
    ("policy", "count", "at_rest"),
    [
        pytest.param(Policy(max_slots=1), 3, 1, id="max_slots=1"),
        pytest.param(Policy(max_slots=1, spares_wanted=0), 3, 0, id="one-and-no-spares"),
        pytest.param(Policy(spares_wanted=0), 3, 0, id="spares_wanted=0"),
        pytest.param(Policy(spares_wanted=20, max_slots=4), 3, 4, id="spares-above-slots"),
        pytest.param(Policy(set_config=SetConfig(max_count=1)), 3, 3, id="max_count=1"),
        pytest.param(Policy(rebalance_interval=INF, set_config=ENDLESS), 3, 8, id="all-inf"),
        pytest.param(Policy(set_config=SetConfig(spread=0.0)), 1, 8, id="no-spread"),
        pytest.param(Policy(set_config=SetConfig(disconnect_timeout=0.0)), 1, 8, id="no-goodbye"),
    ],
)
async def test_extreme_policies_are_obeyed_and_serve(
    policy: Policy, count: int, at_rest: int, autojump_clock: MockClock
) -> None:
    """Under an extreme policy the pool keeps its spares at rest and serves every claimant."""
    connector = FatedConnector(connect_delay=0.01)
    async with a_pool(connector, make_backends(count), policy) as rig:
        await pass_time(1)
        assert sum(connected(rig.stats()).values()) == at_rest
        served = await run_load(rig.pool, claimants=20, seconds=1, work=0.01)
        assert served.total >= 20
        assert_consistent(rig)
        if policy.rebalance_interval < INF:
            await pass_time(2 * policy.rebalance_interval)
            assert sum(connected(rig.stats()).values()) == at_rest


async def test_stats_never_show_more_slots_than_allowed(autojump_clock: MockClock) -> None:
    """At every quiescent moment of a troubled hour, slots of all kinds keep within the caps."""
    backends = make_backends(7)
    connector = FatedConnector(connect_delay=(0.0, 0.5), close_delay=0.4)
    policy = Policy(spares_wanted=5, max_slots=9, set_config=SetConfig(max_count=2))
    async with a_pool(connector, backends, policy) as rig, trio.open_nursery() as nursery:
        nursery.start_soon(_trouble, rig.connector, backends)
        await watch(3600, 7.3, lambda: assert_consistent(rig))
        nursery.cancel_scope.cancel()


async def _trouble(connector: FatedConnector, backends: list[Backend]) -> None:
    for turn in itertools.count():
        if turn % 3:
            connector.crash(backends[turn % len(backends)])
        else:
            connector.recover(*backends)
        await trio.sleep(11)
