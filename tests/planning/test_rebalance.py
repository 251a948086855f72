"""Rebalancing: seldom, gently, and never when nothing has changed."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import trio
from trio.testing import MockClock

from qorb_trio import Backend, Policy, SetConfig

from ..harness import LedgerConnection
from ..harness.fates import (
    FatedConnector,
    Recorder,
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


@pytest.mark.parametrize("count", [1, 3, 8])
async def test_nothing_moves_when_nothing_changes(count: int, autojump_clock: MockClock) -> None:
    """A healthy pool at rest opens and closes nothing, for hours."""
    connector = FatedConnector(connect_delay=0.01, check_delay=0.01)
    async with a_pool(connector, make_backends(count)) as rig:
        await pass_time(1)
        await pass_time(6 * 3600)
        assert len(connector.dials) == 8
        assert connector.closed == []
        assert_consistent(rig)


async def test_the_same_set_again_moves_nothing(autojump_clock: MockClock) -> None:
    """A resolver that repeats itself, in whatever order, changes nothing."""
    backends = make_backends(5)
    connector = FatedConnector(connect_delay=0.01)
    async with a_pool(connector, backends) as rig:
        await pass_time(1)
        for turn in range(100):
            rig.resolver.set(backends[turn % 5 :] + backends[: turn % 5])
            await pass_time(5)
        assert len(connector.dials) == 8
        assert connector.closed == []


@pytest.mark.parametrize("interval", [60, 7, math.inf])
async def test_surplus_is_closed_only_at_the_interval(
    interval: float, autojump_clock: MockClock
) -> None:
    """Connections that a burst needed are kept until the next rebalancing, then closed."""
    connector = FatedConnector()
    policy = Policy(spares_wanted=4, rebalance_interval=interval)
    async with a_pool(connector, make_backends(2), policy) as rig:
        await pass_time(1)
        await hold_many(rig.pool, 12, 1.0)
        await settle()
        assert sum(connected(rig.stats()).values()) == 16
        assert connector.closed == []
        await pass_time(min(interval, 600) - 2.5)
        assert connector.closed == []
        await pass_time(2.5 + interval if interval < math.inf else 3600)
        assert sum(connected(rig.stats()).values()) == (4 if interval < math.inf else 16)


async def test_nothing_closes_in_step_with_claims(autojump_clock: MockClock) -> None:
    """Bursts that come and go for an hour close something once per interval at most."""
    connector = FatedConnector(connect_delay=0.01)
    async with a_pool(connector, make_backends(4)) as rig:
        for _ in range(360):
            await hold_many(rig.pool, 12, 1.0)
            await pass_time(9)
        times = Counter(round(conn.closing_at or 0, 3) for conn in connector.closed)
        assert len(times) <= 60
        assert_consistent(rig)


async def test_steady_load_moves_nothing(autojump_clock: MockClock) -> None:
    """A load that stays the same opens what it needs, and then opens and closes nothing."""
    connector = FatedConnector(connect_delay=0.01)
    async with a_pool(connector, make_backends(3)) as rig, trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(hold, rig.pool, 3600)
        await pass_time(3500)
        assert len(connector.dials) == 14
        assert connector.closed == []
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("connect_delay", [0.0, 0.01, 5.0])
async def test_ff31_a_new_backend_works_before_an_old_connection_goes(
    connect_delay: float, autojump_clock: MockClock
) -> None:
    """While there is room, at no moment are there fewer working connections than before."""
    a, b = make_backends(2)
    connector = FatedConnector()
    connector.fate(b).connect_delay = connect_delay
    async with a_pool(connector, [a]) as rig:
        await pass_time(1)
        rig.resolver.set([a, b])

        def look() -> None:
            assert len(connector.open) >= 8
            assert_consistent(rig)

        await watch(200, 0.25, look)
        assert connected(rig.stats()) == {a.name: 4, b.name: 4}
        assert len(connector.dials_to(a)) == 8
        assert len(connector.dials_to(b)) == 4
    first_of_b = connector.dials_to(b)[0].ended
    assert first_of_b is not None
    assert all((conn.closing_at or 0) >= first_of_b for conn in connector.conns)


async def test_ff31_each_new_connection_replaces_an_old_one_at_once(
    autojump_clock: MockClock,
) -> None:
    """Each dial to a new backend that ends closes the connection that it replaces at once."""
    a, b = make_backends(2)
    connector = FatedConnector()
    connector.fate(b).connect_delay = (0.1, 0.9)
    async with a_pool(connector, [a]) as rig:
        await pass_time(1)
        rig.resolver.set([a, b])
        await pass_time(0.95)
        assert connected(rig.stats()) == {a.name: 4, b.name: 4}


@pytest.mark.parametrize("act", ["fail", "hang"])
async def test_ff31_a_new_backend_that_does_not_work_costs_nothing(
    act: str, autojump_clock: MockClock
) -> None:
    """Nothing is closed in favour of a backend that cannot be reached, while there is room."""
    a, b = make_backends(2)
    connector = FatedConnector()
    connector.fate(b).connect = "fail" if act == "fail" else "hang"
    async with a_pool(connector, [a]) as rig:
        await pass_time(1)
        rig.resolver.set([a, b])
        await pass_time(1000)
        assert connector.closed == []
        assert len(connector.open_to(a)) == 8


async def test_ff33_one_new_backend_does_not_drop_the_rest(autojump_clock: MockClock) -> None:
    """A fifth backend takes its own share over, and leaves all the rest as it is."""
    backends = make_backends(5)
    connector = FatedConnector(connect_delay=0.01)
    policy = Policy(spares_wanted=20, max_slots=40)
    async with a_pool(connector, backends[:4], policy) as rig:
        await pass_time(1)
        assert len(connector.dials) == 20
        rig.resolver.set(backends)
        await watch(200, 0.3, lambda: _assert_at_least(connector, 20))
        assert len(connector.dials) == 24
        assert len(connector.closed) == 4
        assert connected(rig.stats()) == dict.fromkeys((each.name for each in backends), 4)


def _assert_at_least(connector: FatedConnector, count: int) -> None:
    assert len(connector.open) >= count


@pytest.mark.parametrize("interval", [60, math.inf])
async def test_a_new_weight_alone_closes_nothing(
    interval: float, autojump_clock: MockClock
) -> None:
    """A change of weights alone closes no connection before the next rebalance."""
    a, b = make_backends(2)
    connector = FatedConnector(connect_delay=0.01)
    async with a_pool(connector, [a, b], Policy(rebalance_interval=interval)) as rig:
        await pass_time(1)
        rig.resolver.set([a, Backend(b.address, name=b.name, weight=3)])
        await pass_time(50)
        assert connector.closed == []
        assert rig.stats().backends[b.name].backend.weight == 3


async def test_a_new_weight_is_followed_in_the_end(autojump_clock: MockClock) -> None:
    """Rebalancing brings the shares to the new weights, without a gap."""
    a, b = make_backends(2)
    connector = FatedConnector(connect_delay=0.01)
    async with a_pool(connector, [a, b]) as rig:
        await pass_time(1)
        rig.resolver.set([a, Backend(b.address, name=b.name, weight=3)])
        await watch(600, 0.9, lambda: _assert_at_least(connector, 7))
        assert connected(rig.stats()) == {a.name: 2, b.name: 6}


@pytest.mark.parametrize("seed", range(2))
async def test_with_more_backends_than_slots_at_most_one_spare_moves(
    seed: int, autojump_clock: MockClock
) -> None:
    """Of 24 healthy backends 8 have a connection; per interval at most one of them moves on."""
    connector = FatedConnector(connect_delay=0.01, seed=seed)
    async with a_pool(connector, make_backends(24), seed=seed) as rig:
        await pass_time(1)
        for _ in range(60):
            dials = len(connector.dials)
            await watch(60, 2.5, lambda: _assert_at_least(connector, 7))
            assert len(connector.dials) - dials <= 1
            assert len(connector.closed) <= len(connector.dials) - 7
            assert sum(connected(rig.stats()).values()) in {8, 9}


async def test_removing_a_backend_closes_nothing_elsewhere(autojump_clock: MockClock) -> None:
    """The others keep their connections, and get those that are missing."""
    backends = make_backends(4)
    connector = FatedConnector(connect_delay=0.01)
    async with a_pool(connector, backends) as rig:
        await pass_time(1)
        rig.resolver.set(backends[:3])
        await pass_time(300)
        assert {conn.backend for conn in connector.closed} == {backends[3]}
        assert len(connector.dials) == 10
        assert sum(connected(rig.stats()).values()) == 8


async def test_a_backend_back_online_gets_its_share_again(autojump_clock: MockClock) -> None:
    """After an outage of one backend the spread becomes even again, at the next interval."""
    a, b = make_backends(2)
    connector = FatedConnector(connect_delay=0.01)
    async with a_pool(connector, [a, b]) as rig:
        await pass_time(1)
        connector.crash(a)
        await run_load(rig.pool, claimants=4, seconds=100, work=0.1)
        assert connected(rig.stats())[a.name] == 0
        assert len(connector.open_to(b)) >= 8
        connector.recover(a)
        await pass_time(30 + 2 * 60 + 1)
        assert connected(rig.stats()) == {a.name: 4, b.name: 4}


class Counting(Recorder):
    """A recorder that counts plans from a mark on."""

    def plans_since(self, mark: int) -> int:
        """Return the number of plans begun since there were `mark` of them."""
        return len(self.plans) - mark


async def test_a_burst_of_claims_is_planned_for_once(autojump_clock: MockClock) -> None:
    """A thousand claimants that park at the same instant cause a few plans, not a thousand."""
    connector = FatedConnector(connect_delay=1.0)
    recorder = Counting()
    policy = Policy(spares_wanted=0, max_slots=2000, set_config=SetConfig(max_count=2000))
    async with a_pool(connector, make_backends(1), policy, instruments=[recorder]) as rig:
        await settle()
        mark = len(recorder.plans)
        async with trio.open_nursery() as nursery:
            for _ in range(1000):
                nursery.start_soon(hold, rig.pool, 10.0)
            await settle()
            assert rig.stats().waiting == 1000
            assert rig.stats().backends["b0"].connecting == 1000
            assert 1 <= recorder.plans_since(mark) <= 3


async def test_a_thousand_status_changes_are_planned_for_a_few_times(
    autojump_clock: MockClock,
) -> None:
    """A thousand backends that come online in one instant cause a few plans, not a thousand."""
    connector = FatedConnector(connect_delay=0.5)
    recorder = Counting()
    policy = Policy(spares_wanted=1000, max_slots=1000)
    async with a_pool(connector, make_backends(1000), policy, instruments=[recorder]) as rig:
        await settle()
        mark = len(recorder.plans)
        await pass_time(1.5)
        assert len(recorder.online) == 1000
        assert sum(connected(rig.stats()).values()) == 1000
        assert recorder.plans_since(mark) <= 5


async def test_a_pool_at_rest_plans_at_the_interval_only(autojump_clock: MockClock) -> None:
    """Claims that find a spare, and an hour of rest, cause no more plans than intervals."""
    connector = FatedConnector()
    recorder = Counting()
    async with a_pool(connector, make_backends(4), instruments=[recorder]):
        await pass_time(1)
        mark = len(recorder.plans)
        await pass_time(3600)
        assert recorder.plans_since(mark) <= 61


@pytest.mark.parametrize("max_slots", [1, 4])
async def test_claims_cause_no_plans_while_a_rebalance_cannot_go_on(
    max_slots: int, autojump_clock: MockClock
) -> None:
    """Claims that end cause no plans while a rebalance waits for a slow dial, or while the
    last connection cannot move to a better backend."""
    (best,), (other,) = make_backends(1, "best"), make_backends(1, "other", priority=1)
    connector = FatedConnector(recycle_delay=0.001)
    recorder = Counting()
    policy = Policy(max_slots=max_slots)
    async with a_pool(connector, [other], policy, instruments=[recorder]) as rig:
        await pass_time(1)
        connector.fate(best).connect_delay = 0.9
        rig.resolver.set([best, other])
        await pass_time(0.1)
        mark = len(recorder.plans)
        served = await run_load(rig.pool, claimants=1, seconds=0.7, work=0.01)
        assert served.by_backend == {other.name: served.total}
        assert served.total > 50
        assert recorder.plans_since(mark) <= 5


@pytest.mark.parametrize("interval", [60, math.inf])
async def test_broken_spares_are_replaced_without_waiting_for_the_interval(
    interval: float, autojump_clock: MockClock
) -> None:
    """A connection that is found broken is replaced at once: that is no rebalancing."""
    connector = FatedConnector()
    policy = Policy(spares_wanted=4, rebalance_interval=interval)
    async with a_pool(connector, make_backends(1), policy) as rig:
        await pass_time(1)
        broken: list[LedgerConnection] = connector.open[:2]
        for conn in broken:
            conn.broken = True
        await hold_many(rig.pool, 4, 0.1)
        await pass_time(1)
        assert all(not conn.is_open for conn in broken)
        assert sum(connected(rig.stats()).values()) >= 4


async def test_surplus_is_what_was_idle_for_longest(autojump_clock: MockClock) -> None:
    """A rebalance closes connections that nobody has used for long, not those of a moment ago."""
    connector = FatedConnector()
    # Without health checks: what is being checked is not closed.
    config = SetConfig(health_interval=math.inf)
    policy = Policy(spares_wanted=2, rebalance_interval=55, set_config=config)
    async with a_pool(connector, make_backends(1), policy) as rig:
        await hold_many(rig.pool, 6, 1)
        await pass_time(104)
        async with rig.pool.claim() as conn:
            await pass_time(0.1)  # a plan must see it
        await pass_time(10)
        assert len(connector.closed) == 5  # what is kept is one for the claim, and two spares
        assert conn.is_open


async def test_claims_that_end_during_a_rebalance_close_nothing(autojump_clock: MockClock) -> None:
    """Claims that end during a rebalance do not make it close connections."""
    a, b = make_backends(2)
    connector = FatedConnector()
    connector.fate(b).connect_delay = 0.9
    async with a_pool(connector, [a], Policy(spares_wanted=4)) as rig:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hold_many, rig.pool, 8, 1.5)
            await pass_time(1)
            rig.resolver.set([a, b])
        await pass_time(2)
        found = connected(rig.stats())
        assert sum(found.values()) == 12
        assert min(found.values()) >= 4
