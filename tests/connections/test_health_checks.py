"""Health checks of idle connections: in time, never of all at once, and bounded."""

from __future__ import annotations

import itertools
import math

import pytest
import trio
from trio.testing import MockClock

from qorb_trio import Connector, Instrument, Policy, SetConfig

from ..harness.fates import (
    Act,
    FatedConnector,
    a_pool,
    assert_consistent,
    connected,
    hold,
    make_backends,
    pass_time,
    run_load,
    watch,
)

INTERVAL = SetConfig().health_interval
TIMEOUT = SetConfig().health_check_timeout


@pytest.mark.parametrize("count", [1, 4])
async def test_each_idle_connection_is_checked_when_due(
    count: int, autojump_clock: MockClock
) -> None:
    """No connection is checked before it was idle for the interval, nor long after."""
    connector = FatedConnector(check_delay=0.01)
    async with a_pool(connector, make_backends(count)):
        await pass_time(3600)
        for conn in connector.conns:
            times = [conn.opened, *conn.checks, trio.current_time()]
            waits = [after - before for before, after in itertools.pairwise(times)]
            assert min(waits[:-1]) >= INTERVAL - 1e-6
            assert max(waits) <= 2 * INTERVAL


async def test_an_interval_of_infinity_means_never(autojump_clock: MockClock) -> None:
    """With the checks switched off, none is made."""
    connector = FatedConnector()
    policy = Policy(set_config=SetConfig(health_interval=math.inf))
    async with a_pool(connector, make_backends(2), policy):
        await pass_time(100_000)
        assert all(conn.checks == [] for conn in connector.conns)
        assert len(connector.conns) == 8


async def test_a_connection_in_use_is_not_checked(autojump_clock: MockClock) -> None:
    """A connection that is claimed, or was idle for less than the interval, is not checked."""
    connector = FatedConnector()
    policy = Policy(spares_wanted=1, max_slots=1)
    async with a_pool(connector, make_backends(1), policy) as rig:
        async with rig.pool.claim():
            await pass_time(100)
        await run_load(rig.pool, claimants=1, seconds=300, work=0.1, pause=INTERVAL - 5)
        assert [conn.checks for conn in connector.conns] == [[]]


async def test_what_was_used_without_a_clean_up_is_not_checked(autojump_clock: MockClock) -> None:
    """Use counts as a check, also where a returned connection is not recycled first."""

    class Cheap(FatedConnector):
        is_valid = Connector.is_valid
        on_recycle = Connector.on_recycle

    class Checks(Instrument):
        times = 0

        def health_check_start(self, *_: object) -> None:
            self.times += 1

    checks = Checks()
    policy = Policy(spares_wanted=1, max_slots=1)
    async with a_pool(Cheap(), make_backends(1), policy, instruments=[checks]) as rig:
        await run_load(rig.pool, claimants=1, seconds=300, work=10, pause=INTERVAL - 5)
        assert checks.times == 0
        await pass_time(INTERVAL)
        assert checks.times == 1


@pytest.mark.parametrize("act", ["ok", "hang"])
@pytest.mark.parametrize("spares", [2, 8, 16])
async def test_never_are_all_spares_in_a_check(
    spares: int, act: Act, autojump_clock: MockClock
) -> None:
    """Although all connections fall due together, some spare can be had at each moment."""
    sick, sound = make_backends(2)
    connector = FatedConnector(check_delay=2.0)
    connector.fate(sick).check = act
    async with a_pool(connector, [sick, sound], Policy(spares_wanted=spares)) as rig:
        await pass_time(1)

        def look() -> None:
            assert len(connector.checking) < len(connector.open)
            assert sum(each.unclaimed for each in rig.stats().backends.values()) >= 1
            assert_consistent(rig)

        await watch(300, 0.5, look)
    assert connector.peak_checking >= 1


@pytest.mark.parametrize("seed", range(3))
async def test_ff43_checks_spread_out(seed: int, autojump_clock: MockClock) -> None:
    """Of connections opened in one instant, never more than half are checked in one."""
    connector = FatedConnector(check_delay=0.1)
    policy = Policy(spares_wanted=16)
    async with a_pool(connector, make_backends(4), policy, seed=seed):
        await pass_time(600)
        assert connector.peak_checking <= 8
        assert all(len(conn.checks) >= 600 / INTERVAL / 2 for conn in connector.conns)


async def test_ff43_what_falls_due_does_not_move(autojump_clock: MockClock) -> None:
    """A check comes when it is due, even if the pool often plans and gets new sets."""
    backends = make_backends(2)
    connector = FatedConnector()
    policy = Policy(rebalance_interval=7)
    async with a_pool(connector, backends, policy) as rig:
        await pass_time(1)

        def look() -> None:
            rig.resolver.set(backends)
            assert_consistent(rig)

        await watch(300, 0.7, look)
        for conn in connector.conns:
            times = [conn.opened, *conn.checks]
            waits = [after - before for before, after in itertools.pairwise(times)]
            assert 6 <= len(waits) <= 10
            assert min(waits) >= INTERVAL
            assert max(waits) <= 1.75 * INTERVAL


@pytest.mark.parametrize("slots", [1, 4])
async def test_a_claim_during_a_check_waits_for_no_more_than_the_check(
    slots: int, autojump_clock: MockClock
) -> None:
    """A claimant that finds spares in a check is served when a check is done, or before."""
    connector = FatedConnector(check_delay=1.0)
    policy = Policy(spares_wanted=slots, max_slots=slots)
    async with a_pool(connector, make_backends(1), policy) as rig:
        await pass_time(1)
        served = await run_load(rig.pool, claimants=1, seconds=600, work=0.1, pause=33)
        assert served.total >= 15
        assert served.longest_wait <= (1.0 if slots == 1 else 0.0)
        assert len(connector.dials) == slots
    assert any(conn.checks for conn in connector.conns)


async def test_a_connection_that_fails_its_check_is_replaced(autojump_clock: MockClock) -> None:
    """A failed check closes the connection, is counted, and the slot connects again."""
    connector = FatedConnector(check="fail")
    policy = Policy(spares_wanted=2, max_slots=2)
    async with a_pool(connector, make_backends(1), policy) as rig:
        await pass_time(1)
        old = connector.open
        await watch(INTERVAL + 2, 0.1, lambda: assert_consistent(rig))
        assert all(not conn.is_open for conn in old)
        connector.fate("b0").check = "ok"
        await pass_time(10)
        stats = rig.stats().backends["b0"]
        assert stats.unclaimed == 2
        assert stats.last_error is not None
        assert all(len(conn.checks) == 1 for conn in connector.closed)


@pytest.mark.parametrize("timeout", [3, 0.5])
async def test_a_check_that_hangs_is_bounded(timeout: float, autojump_clock: MockClock) -> None:
    """A check that does not return in time is a failed check."""
    connector = FatedConnector(check="hang")
    config = SetConfig(health_check_timeout=timeout)
    policy = Policy(spares_wanted=1, max_slots=1, set_config=config)
    async with a_pool(connector, make_backends(1), policy):
        await pass_time(10 * INTERVAL)
        assert len(connector.closed) >= 5
        for conn in connector.closed:
            (began,) = conn.checks
            assert conn.closing_at == pytest.approx(began + timeout)


@pytest.mark.parametrize("slots", [2, 8])
async def test_ff13_a_silent_partition_is_evicted(slots: int, autojump_clock: MockClock) -> None:
    """Connections into a void are gone soon after they fall due, and live ones serve."""
    lost, live = make_backends(2)
    connector = FatedConnector()
    async with a_pool(connector, [lost, live], Policy(spares_wanted=slots)) as rig:
        await pass_time(5)
        victims = connector.open_to(lost)
        assert len(victims) == slots // 2
        connector.fate(lost).check = connector.fate(lost).connect = "hang"
        await pass_time(INTERVAL + len(victims) * TIMEOUT + TIMEOUT)
        assert all(not conn.is_open for conn in victims)
        for conn in victims:
            assert conn.closing_at is not None
            assert conn.closing_at - conn.checks[-1] <= TIMEOUT + 1e-6
        served = await run_load(rig.pool, claimants=4, seconds=100, work=0.1)
        assert set(served.by_backend) == {live.name}
        assert served.longest_wait < 0.1


async def test_an_outage_that_only_checks_notice_ends_in_recovery(
    autojump_clock: MockClock,
) -> None:
    """An idle pool whose backend dies and comes back is whole again without any claim."""
    connector = FatedConnector()
    (backend,) = make_backends(1)
    async with a_pool(connector, [backend], Policy(spares_wanted=4)) as rig:
        await pass_time(5)
        connector.crash(backend)
        await pass_time(3 * INTERVAL)
        assert connected(rig.stats()) == {"b0": 0}
        assert not rig.stats().backends["b0"].online
        connector.recover(backend)
        await pass_time(2 * 30 + 1)
        assert connected(rig.stats()) == {"b0": 4}
        assert rig.stats().backends["b0"].online


async def test_checks_go_on_under_load(autojump_clock: MockClock) -> None:
    """Spares that a steady load never reaches are still checked."""
    connector = FatedConnector(check_delay=0.01)
    async with a_pool(connector, make_backends(2)) as rig:
        await pass_time(1)
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(hold, rig.pool, 1000.0)
            await pass_time(990)
            idle = [conn for conn in connector.open if conn.checks]
            assert len(idle) == 8
            assert all(len(conn.checks) >= 990 / INTERVAL / 2 for conn in idle)
