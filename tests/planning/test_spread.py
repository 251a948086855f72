"""Slots and claims are spread by weight, within the best priority that has any online."""

from __future__ import annotations

import pytest
from trio.testing import MockClock

from qorb_trio import Backend, Policy, SetConfig

from ..harness.fates import (
    FatedConnector,
    Recorder,
    a_pool,
    assert_consistent,
    connected,
    make_backends,
    pass_time,
    run_load,
)


def weighted(*weights: int) -> list[Backend]:
    """Backends ``b0``, ``b1``, ... of these weights."""
    return [
        Backend((f"b{number}.test", 1000), name=f"b{number}", weight=weight)
        for number, weight in enumerate(weights)
    ]


@pytest.mark.parametrize(
    ("weights", "slots", "shares"),
    [
        ((1, 1), 8, [(4, 4), (4, 4)]),
        ((1, 1, 1), 8, [(2, 3)] * 3),
        ((1, 3, 6), 10, [(1, 1), (3, 3), (6, 6)]),
        ((10, 30, 60), 10, [(1, 1), (3, 3), (6, 6)]),
        ((0, 100), 10, [(0, 1), (9, 10)]),
        ((0, 0), 10, [(5, 5), (5, 5)]),
        ((0, 0, 0, 0, 0), 10, [(2, 2)] * 5),
        ((65535, 65535, 0), 10, [(4, 5), (4, 5), (0, 1)]),
    ],
)
@pytest.mark.parametrize("delay", [0.0, 0.01])
async def test_spares_follow_weight(
    delay: float,
    weights: tuple[int, ...],
    slots: int,
    shares: list[tuple[int, int]],
    autojump_clock: MockClock,
) -> None:
    """Each backend holds its share of the spares one second after the start, and keeps it."""
    connector = FatedConnector(connect_delay=delay)
    policy = Policy(spares_wanted=slots, max_slots=20)
    async with a_pool(connector, weighted(*weights), policy) as rig:
        for wait in (1, 120):
            await pass_time(wait)
            found = connected(rig.stats())
            assert sum(found.values()) == slots
            for number, (least, most) in enumerate(shares):
                assert least <= found[f"b{number}"] <= most
        assert len(connector.dials) <= slots + len(weights)


async def test_what_one_backend_may_not_take_goes_to_the_others(
    autojump_clock: MockClock,
) -> None:
    """A share above ``max_count`` is cut, and the rest goes to those that have room."""
    connector = FatedConnector()
    policy = Policy(spares_wanted=8, max_slots=8, set_config=SetConfig(max_count=5))
    async with a_pool(connector, weighted(1, 98), policy) as rig:
        await pass_time(1)
        assert connected(rig.stats()) == {"b0": 3, "b1": 5}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("claimants", "spares"), [(1, 8), (4, 8), (8, 8), (20, 8)])
async def test_claims_are_shared_evenly_among_equals(
    claimants: int, spares: int, seed: int, autojump_clock: MockClock
) -> None:
    """Of four backends of one weight each serves about a quarter of the claims."""
    connector = FatedConnector()
    async with a_pool(connector, make_backends(4), Policy(spares_wanted=spares), seed=seed) as rig:
        await pass_time(1)
        served = await run_load(rig.pool, claimants=claimants, seconds=20, work=0.02)
        assert served.total >= 800
        for number in range(4):
            assert 0.18 <= served.by_backend[f"b{number}"] / served.total <= 0.32


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("claimants", [1, 5, 20])
async def test_claims_follow_weight(claimants: int, seed: int, autojump_clock: MockClock) -> None:
    """With weights of 1, 3 and 6, claims are shared about like that, at any load."""
    connector = FatedConnector()
    policy = Policy(spares_wanted=10, max_slots=10)
    async with a_pool(connector, weighted(1, 3, 6), policy, seed=seed) as rig:
        await pass_time(1)
        served = await run_load(rig.pool, claimants=claimants, seconds=30, work=0.03)
        shares = [served.by_backend[f"b{number}"] / served.total for number in range(3)]
        assert served.total >= 900
        assert 0.03 <= shares[0] <= 0.22
        assert 0.15 <= shares[1] <= 0.42
        assert 0.42 <= shares[2] <= 0.78


async def test_total_claims_are_counted_by_backend(autojump_clock: MockClock) -> None:
    """The statistics count each claim once, where it was served."""
    connector = FatedConnector()
    async with a_pool(connector, make_backends(3)) as rig:
        served = await run_load(rig.pool, claimants=5, seconds=5, work=0.1)
        stats = rig.stats()
        assert stats.claims == served.total
        for name, backend in stats.backends.items():
            assert backend.total_claims == served.by_backend[name]


async def test_claims_go_to_the_least_loaded_backend(autojump_clock: MockClock) -> None:
    """Claims held at the same time are as even over the backends as they can be."""
    connector = FatedConnector()
    async with a_pool(connector, make_backends(4), Policy(spares_wanted=16)) as rig:
        await pass_time(1)
        claims = []
        for held in range(1, 17):
            claims.append(await rig.pool.acquire(timeout=0))
            claimed = [each.claimed for each in rig.stats().backends.values()]
            assert sum(claimed) == held
            assert max(claimed) - min(claimed) <= 1
        for claim in claims:
            claim.release()


def tiers() -> tuple[list[Backend], list[Backend]]:
    """Two backends of priority 0, and two of priority 10."""
    return make_backends(2, "best"), make_backends(2, "rest", priority=10)


async def test_only_the_best_tier_is_used_while_it_is_online(autojump_clock: MockClock) -> None:
    """Backends of a lower priority get neither claims nor connections while others work."""
    best, rest = tiers()
    connector = FatedConnector(connect_delay=0.01)
    async with a_pool(connector, rest + best) as rig:
        await pass_time(1)
        served = await run_load(rig.pool, claimants=12, seconds=130, work=0.1)
        assert set(served.by_backend) == {each.name for each in best}
        assert connector.dials_to(*rest) == []
        assert connected(rig.stats())["best0"] == connected(rig.stats())["best1"] >= 4


async def test_one_survivor_keeps_the_best_tier_in_use(autojump_clock: MockClock) -> None:
    """As long as any backend of the best priority is online, the others are not used."""
    best, rest = tiers()
    connector = FatedConnector(connect_delay=0.01)
    connector.crash(best[0])
    async with a_pool(connector, best + rest) as rig:
        await rig.pool.wait_ready()
        await pass_time(1)
        served = await run_load(rig.pool, claimants=8, seconds=130, work=0.1)
        assert set(served.by_backend) == {best[1].name}


@pytest.mark.parametrize("act", ["fail", "hang"])
async def test_the_next_tier_takes_over_and_gives_back(act: str, autojump_clock: MockClock) -> None:
    """Claims go to the next tier when the best one dies, and back when it recovers."""
    best, rest = tiers()
    connector = FatedConnector(connect_delay=0.01)
    recorder = Recorder()
    async with a_pool(connector, best + rest, instruments=[recorder]) as rig:
        await pass_time(100)
        connector.crash(*best)
        if act == "hang":
            connector.fate(best[0]).connect = connector.fate(best[1]).connect = "hang"
        served = await run_load(rig.pool, claimants=4, seconds=60, work=0.1)
        assert set(served.by_backend) <= {each.name for each in rest}
        assert served.longest_wait < (1 if act == "fail" else 11)
        assert_consistent(rig)
        connector.recover(*best)
        await run_load(rig.pool, claimants=4, seconds=200, work=0.1)
        served = await run_load(rig.pool, claimants=4, seconds=60, work=0.1)
        assert set(served.by_backend) == {each.name for each in best}
        found = connected(rig.stats())
        assert found["best0"] + found["best1"] >= 8
        assert found["rest0"] + found["rest1"] == 0


async def test_a_dead_best_tier_at_the_start_is_passed_over(autojump_clock: MockClock) -> None:
    """If nothing of the best tier can be had, the first claims are served by the next."""
    best, rest = tiers()
    connector = FatedConnector(connect_delay=0.01)
    connector.crash(*best)
    async with a_pool(connector, best + rest) as rig, rig.pool.claim(timeout=1) as conn:
        assert conn.backend in rest


async def test_a_change_of_priority_is_followed_without_a_new_connection(
    autojump_clock: MockClock,
) -> None:
    """A backend that changes its priority is the same backend, in another tier."""
    best, rest = tiers()
    connector = FatedConnector()
    policy = Policy(spares_wanted=4)
    async with a_pool(connector, best, policy) as rig:
        await pass_time(1)
        kept = connector.open_to(best[0])
        rig.resolver.set([best[0], with_priority(best[1], priority=5), *rest])
        await pass_time(200)
        found = connected(rig.stats())
        assert found == {"best0": 4, "best1": 0, "rest0": 0, "rest1": 0}
        assert all(conn.is_open for conn in kept)
        assert rig.stats().backends["best1"].backend.priority == 5


def with_priority(backend: Backend, *, priority: int) -> Backend:
    """The same backend with another priority."""
    return Backend(backend.address, name=backend.name, priority=priority, weight=backend.weight)


async def test_claims_on_the_next_tier_outlive_the_recovery_of_the_best(
    autojump_clock: MockClock,
) -> None:
    """Connections in use on the next tier stay open until their release after a recovery."""
    best, rest = tiers()
    connector = FatedConnector(connect_delay=0.01)
    connector.crash(*best)
    async with a_pool(connector, best + rest) as rig:
        claims = [await rig.pool.acquire() for _ in range(3)]
        connector.recover(*best)
        await pass_time(300)
        assert all(claim.connection.is_open for claim in claims)
        assert {claim.backend.name for claim in claims} <= {each.name for each in rest}
        found = connected(rig.stats())
        assert found["best0"] + found["best1"] >= 8
        assert found["rest0"] + found["rest1"] == 3
        for claim in claims:
            claim.release()
        await pass_time(61)
        found = connected(rig.stats())
        assert found["rest0"] + found["rest1"] == 0


@pytest.mark.parametrize("claimants", [1, 5])
async def test_a_weight_of_nothing_is_a_very_small_share_of_claims(
    claimants: int, autojump_clock: MockClock
) -> None:
    """Beside a weight of 100, a weight of 0 serves next to nothing."""
    connector = FatedConnector()
    async with a_pool(connector, weighted(0, 100), Policy(spares_wanted=10)) as rig:
        await pass_time(1)
        served = await run_load(rig.pool, claimants=claimants, seconds=20, work=0.03)
        assert served.by_backend["b0"] <= 0.05 * served.total
