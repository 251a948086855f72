"""The delays between tries: they double, they have jitter, and they never run away."""

from __future__ import annotations

import itertools
import math

import pytest
import trio
from trio.testing import MockClock

from qorb_trio import Backend, Policy, SetConfig

from ..harness.fates import FatedConnector, a_pool, assert_consistent, make_backends, pass_time

ONE = Policy(spares_wanted=1, max_slots=1)


def gaps(connector: FatedConnector, backend: Backend) -> list[float]:
    """The times between the dials to one backend."""
    times = [dial.started for dial in connector.dials_to(backend)]
    return [after - before for before, after in itertools.pairwise(times)]


@pytest.mark.parametrize("spread", [0.0, 0.02, 5.0])
async def test_delays_double_up_to_the_longest_with_jitter_at_each(
    spread: float, autojump_clock: MockClock
) -> None:
    """Each delay is twice the one before, plus a jitter of up to a half of it, and at least of
    `spread`; at the longest delay, the jitter is taken away."""
    (backend,) = make_backends(1)
    connector = FatedConnector(connect="fail")
    policy = Policy(spares_wanted=1, max_slots=1, set_config=SetConfig(spread=spread))
    async with a_pool(connector, [backend], policy):
        await pass_time(1000)
    found = gaps(connector, backend)
    assert len(found) >= 30
    for turn, gap in enumerate(found):
        delay = min(0.02 * 2.0**turn, 30)
        jitter = max(spread, delay / 2)
        least = min(delay, 30 - jitter)
        assert least - 1e-6 <= gap <= min(30, least + jitter) + 1e-6
    assert len({round(gap, 6) for gap in found[12:]}) > 20


@pytest.mark.parametrize("seed", range(3))
async def test_ff44_backends_do_not_retry_in_step(seed: int, autojump_clock: MockClock) -> None:
    """Long into an outage that began for all at once, no two backends are tried together."""
    backends = make_backends(8)
    connector = FatedConnector(connect="fail")
    async with a_pool(connector, backends, seed=seed):
        await pass_time(600)
        last = [connector.dials_to(backend)[-1].started for backend in backends]
        assert len(set(last)) == len(backends)
        for backend in backends:
            assert len({round(gap, 6) for gap in gaps(connector, backend)[-6:]}) > 1


async def test_ff45_ten_thousand_failures_overflow_nothing(autojump_clock: MockClock) -> None:
    """After 10,000 failures in a row the delay is still the longest, and recovery is found."""
    connector = FatedConnector(connect="fail")
    config = SetConfig(min_connection_backoff=0.02, max_connection_backoff=0.02, spread=0.0)
    policy = Policy(spares_wanted=1, max_slots=1, rebalance_interval=math.inf, set_config=config)
    async with a_pool(connector, make_backends(1), policy) as rig:
        await pass_time(201)
        assert 10_000 <= len(connector.dials) <= 10_100
        assert rig.stats().backends["b0"].failures <= 60 / 0.02 + 60
        connector.fate("b0").connect = "ok"
        await pass_time(0.03)
        assert rig.stats().backends["b0"].unclaimed == 1


async def test_ff46_everything_switched_off_works(autojump_clock: MockClock) -> None:
    """With every interval and timeout at infinity, a pool serves, rests and recovers."""
    connector = FatedConnector(connect="fail")
    config = SetConfig(
        max_connection_backoff=math.inf,
        health_interval=math.inf,
        health_check_timeout=math.inf,
        connect_timeout=math.inf,
        disconnect_timeout=math.inf,
    )
    policy = Policy(
        rebalance_interval=math.inf,
        claim_timeout=math.inf,
        drain_timeout=math.inf,
        set_config=config,
    )
    async with a_pool(connector, make_backends(2), policy) as rig:
        await pass_time(5)
        connector.fate("b0").connect = connector.fate("b1").connect = "ok"
        async with rig.pool.claim():
            assert trio.current_time() <= 11
        await pass_time(100)
        # A check may prove that a probe works, but no idle connection is checked.
        checks = [list(conn.checks) for conn in connector.conns]
        await pass_time(100_000)
        assert_consistent(rig)
        assert 8 <= sum(each.unclaimed for each in rig.stats().backends.values()) <= 16
        assert [conn.checks for conn in connector.conns] == checks
        assert sum(len(each) for each in checks) <= 2
        assert connector.closed == []


async def test_an_endless_longest_backoff_goes_on_doubling(autojump_clock: MockClock) -> None:
    """Without a longest delay, an outage of a year costs a few dozen tries."""
    connector = FatedConnector(connect="fail")
    config = SetConfig(max_connection_backoff=math.inf, health_interval=math.inf)
    policy = Policy(spares_wanted=1, max_slots=1, rebalance_interval=math.inf, set_config=config)
    async with a_pool(connector, make_backends(1), policy):
        await pass_time(365 * 86400)
        assert 25 <= len(connector.dials) <= 32
        connector.fate("b0").connect = "ok"
        await pass_time(365 * 86400)
        assert len(connector.open) == 1


async def test_ff47_a_jump_of_the_clock_is_one_pass(autojump_clock: MockClock) -> None:
    """After the clock jumps by an hour each connection is checked once, and none is replaced."""
    connector = FatedConnector(check_delay=0.01)
    async with a_pool(connector, make_backends(4)) as rig:
        await pass_time(10)
        autojump_clock.jump(3600)
        await pass_time(5)
        assert [len(conn.checks) for conn in connector.conns] == [1] * 8
        assert (len(connector.dials), connector.closed) == (8, [])
        assert_consistent(rig)
        await pass_time(20)
        assert [len(conn.checks) for conn in connector.conns] == [1] * 8


async def test_ff47_a_jump_of_the_clock_in_an_outage_is_one_try(
    autojump_clock: MockClock,
) -> None:
    """After a leap of an hour each dead backend is tried once, not once per delay missed."""
    backends = make_backends(4)
    connector = FatedConnector(connect="fail")
    async with a_pool(connector, backends):
        await pass_time(100)
        before = len(connector.dials)
        autojump_clock.jump(3600)
        await pass_time(20)
        assert len(connector.dials) - before <= len(backends)


async def test_the_backoff_of_one_backend_is_not_that_of_another(
    autojump_clock: MockClock,
) -> None:
    """A backend that failed for long does not delay the first tries of one that is new."""
    old, new = make_backends(2)
    connector = FatedConnector(connect="fail")
    async with a_pool(connector, [old], ONE) as rig:
        await pass_time(300)
        rig.resolver.set([new])
        await pass_time(1)
        assert len(connector.dials_to(new)) >= 5
