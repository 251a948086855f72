"""More claimants than connections: the dials for them, and the connections afterwards."""

from __future__ import annotations

import contextlib
from functools import partial
from itertools import pairwise

import pytest
import trio
from trio.testing import MockClock

from qorb_trio import AllClaimsUsedError, ClaimTimeoutError, Policy, Pool, SetConfig

from ..harness import LedgerConnection
from ..harness.fates import (
    FatedConnector,
    a_pool,
    assert_consistent,
    connected,
    hold,
    hold_many,
    make_backends,
    pass_time,
    run_load,
    settle,
    watch,
)


async def test_ff42_a_spike_is_served_by_what_is_there(autojump_clock: MockClock) -> None:
    """Fifty short claims are served by five idle connections before any dial is done."""
    connector = FatedConnector()
    async with a_pool(connector, make_backends(1), Policy(spares_wanted=5)) as rig:
        await pass_time(1)
        connector.fate("b0").connect_delay = 0.150
        start = trio.current_time()
        await hold_many(rig.pool, 50, 0.002)
        assert trio.current_time() - start == pytest.approx(0.020)
        assert rig.stats().claims == 50
        assert 5 < len(connector.dials) <= 16
        await pass_time(1)
        assert connector.closed == []
        await pass_time(120)
        assert connected(rig.stats()) == {"b0": 5}


@pytest.mark.parametrize(
    ("waiting", "spares", "cap", "connecting"),
    [(1, 0, 16, 1), (5, 0, 16, 5), (5, 8, 16, 13), (12, 8, 16, 16), (50, 0, 16, 16), (3, 1, 2, 2)],
)
async def test_waiting_claimants_are_demand(
    waiting: int, spares: int, cap: int, connecting: int, autojump_clock: MockClock
) -> None:
    """The pool dials for every waiting claimant and every spare wanted, within the cap."""
    connector = FatedConnector(connect_delay=5.0)
    policy = Policy(spares_wanted=spares, max_slots=cap, set_config=SetConfig(max_count=64))
    async with a_pool(connector, make_backends(2), policy) as rig:
        await settle()
        async with trio.open_nursery() as nursery:
            for _ in range(waiting):
                nursery.start_soon(hold, rig.pool, 1.0)
            await settle()
            stats = rig.stats()
            assert stats.waiting == waiting
            assert sum(each.connecting for each in stats.backends.values()) == connecting
            assert sum(each.wanted for each in stats.backends.values()) == connecting


@pytest.mark.parametrize("claimed", [1, 8, 12, 16])
async def test_spares_are_kept_beyond_what_is_claimed(
    claimed: int, autojump_clock: MockClock
) -> None:
    """Beyond the claimed connections, the pool keeps the spares wanted, within the cap."""
    connector = FatedConnector(connect_delay=0.01)
    async with a_pool(connector, make_backends(3)) as rig, trio.open_nursery() as nursery:
        await pass_time(1)
        for _ in range(claimed):
            nursery.start_soon(hold, rig.pool, 5.0)
        await pass_time(1)
        stats = rig.stats().backends.values()
        assert sum(each.claimed for each in stats) == claimed
        assert sum(each.unclaimed for each in stats) == min(8, 16 - claimed)


async def test_no_spares_wanted_means_none_without_a_claim(autojump_clock: MockClock) -> None:
    """With ``spares_wanted=0`` a claim is what opens a connection, and rest closes it."""
    connector = FatedConnector(connect_delay=0.01)
    policy = Policy(spares_wanted=0)
    async with a_pool(connector, make_backends(3), policy) as rig:
        await pass_time(10)
        assert connector.dials == []
        await hold(rig.pool, 1.0)
        await settle()
        assert (len(connector.dials), len(connector.open)) == (1, 1)
        await hold(rig.pool, 1.0)
        assert len(connector.dials) == 1
        await pass_time(120)
        assert connector.open == []


@pytest.mark.parametrize("since_open", [0.0, 10.0])
async def test_ff06_claimants_that_give_up_are_no_demand_any_more(
    since_open: float, autojump_clock: MockClock
) -> None:
    """A crowd that gave up before the dials were done causes no dials beyond those."""
    connector = FatedConnector(connect_delay=0.06)
    policy = Policy(spares_wanted=2)
    async with a_pool(connector, make_backends(1), policy) as rig:
        await trio.sleep(since_open)
        for _ in range(20):
            async with trio.open_nursery() as nursery:
                for _ in range(100):
                    nursery.start_soon(_claim_in_haste, rig.pool)
        await pass_time(1)
        assert len(connector.dials) == 16
        assert rig.stats().waiting == 0
        await pass_time(120)
        assert connected(rig.stats()) == {"b0": 2}


async def _claim_in_haste(pool: Pool[LedgerConnection]) -> None:
    with contextlib.suppress(ClaimTimeoutError):
        await hold(pool, 0.0, 0.05)


@pytest.mark.parametrize("recycle_delay", [0.0, 0.005])
async def test_a_pool_under_permanent_overload_stays_at_its_cap(
    recycle_delay: float, autojump_clock: MockClock
) -> None:
    """A hundred claimants for four slots: four connections, opened once, all in use."""
    connector = FatedConnector(connect_delay=0.01, recycle_delay=recycle_delay)
    async with a_pool(connector, make_backends(2), Policy(max_slots=4)) as rig:
        served = await run_load(rig.pool, claimants=100, seconds=10, work=0.005, timeout=5)
        per_second = 4 / (0.005 + recycle_delay)
        assert served.total >= 0.95 * 10 * per_second
        assert len(connector.dials) == 4
        assert_consistent(rig)


async def test_the_error_of_an_overloaded_pool_says_so(autojump_clock: MockClock) -> None:
    """A claim that times out while all connections are in use raises `AllClaimsUsedError`."""
    connector = FatedConnector()
    async with a_pool(connector, make_backends(1), Policy(max_slots=2)) as rig:
        claims = [await rig.pool.acquire() for _ in range(2)]
        with pytest.raises(AllClaimsUsedError) as info:
            await rig.pool.acquire(timeout=1)
        assert info.value.stats.backends["b0"].claimed == 2
        for claim in claims:
            claim.release()


async def test_overload_keeps_no_new_backend_out(autojump_clock: MockClock) -> None:
    """Under sustained overload a new backend gets its share, one connection after the other,
    and no connection moves after that."""
    old, new = make_backends(2)
    connector = FatedConnector(connect_delay=0.01)
    counts: list[int] = []
    async with a_pool(connector, [old], Policy(max_slots=4)) as rig:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(run_load, rig.pool, claimants=12, seconds=200, work=0.1))
            await trio.sleep(10)
            rig.resolver.set([old, new])
            await watch(1, 0.01, lambda: counts.append(sum(connected(rig.stats()).values())))
            assert connected(rig.stats()) == {"b0": 2, "b1": 2}
            assert min(counts) == 3, "more than one moves at a time"
            await trio.sleep(180)
        assert len(connector.dials) == 4 + 2


async def test_overload_keeps_no_dead_backend_from_its_probes(autojump_clock: MockClock) -> None:
    """Under sustained overload the pool probes a better backend and notices its recovery."""
    (best,), (other,) = make_backends(1, "best"), make_backends(1, "other", priority=1)
    connector = FatedConnector(connect_delay=0.01)
    policy = Policy(max_slots=4, set_config=SetConfig(max_connection_backoff=5))
    async with a_pool(connector, [other], policy) as rig:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(run_load, rig.pool, claimants=12, seconds=200, work=0.1))
            await trio.sleep(10)
            connector.crash(best)
            rig.resolver.set([best, other])
            await trio.sleep(50)
            assert connected(rig.stats()) == {"best0": 0, "other0": 3}
            probes = [dial.started for dial in connector.dials_to(best)]
            assert all(later - before < 5.1 for before, later in pairwise(probes))
            connector.recover(best)
            await trio.sleep(70)
            assert connected(rig.stats()) == {"best0": 4, "other0": 0}
