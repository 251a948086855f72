"""A pool that opens settles: on the connections that it wants, and on nothing more."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from qorb_trio import (
    Backend,
    Connector,
    FixedResolver,
    NoBackendsError,
    Policy,
    PoolTerminatedError,
    SetConfig,
    open_pool,
)

from ..harness.fates import (
    FatedConnector,
    Recorder,
    a_pool,
    assert_consistent,
    connected,
    hold,
    make_backends,
    pass_time,
    pass_time_to,
    run_load,
    settle,
    tries_within,
)

#: Connects that take as long as those between machines of one site.
LAN = (0.005, 0.025)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("claimants", [0, 4, 12, 30])
@pytest.mark.parametrize("count", [1, 8, 16, 24])
async def test_ff28_healthy_backends_settle(
    count: int, claimants: int, seed: int, autojump_clock: MockClock
) -> None:
    """The default policy connects to any number of healthy backends once, and serves."""
    connector = FatedConnector(connect_delay=LAN, seed=seed)
    recorder = Recorder()
    async with a_pool(connector, make_backends(count), instruments=[recorder], seed=seed) as rig:
        await run_load(rig.pool, claimants=claimants, seconds=5, work=0.05)
        await pass_time_to(trio.current_time() + 50)
        assert 8 <= len(connector.dials) <= min(16, claimants + 8)
        assert connector.closed == []
        assert recorder.offline == []
        assert sum(connected(rig.stats()).values()) == len(connector.dials)
        assert_consistent(rig)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("claimants", [0, 8])
async def test_refusing_backends_do_not_take_the_others_down(
    claimants: int, seed: int, autojump_clock: MockClock
) -> None:
    """With 10 of 24 backends refusing, the live ones carry on, and the dead ones are probed."""
    backends = make_backends(24)
    dead, live = backends[:10], backends[10:]
    connector = FatedConnector(connect_delay=LAN, seed=seed)
    connector.crash(*dead)
    recorder = Recorder()
    async with a_pool(connector, backends, instruments=[recorder], seed=seed) as rig:
        await run_load(rig.pool, claimants=claimants, seconds=5, work=0.05)
        await pass_time(50)
        wanted = 8 + claimants
        assert len(connector.dials_to(*live)) <= wanted
        assert len(connector.dials) <= wanted + len(dead) * tries_within(55)
        assert recorder.offline == []
        assert connector.closed == []
        assert sum(connected(rig.stats()).values()) >= 8
        assert_consistent(rig)


@pytest.mark.parametrize("seed", range(3))
async def test_ff28_many_dead_one_live(seed: int, autojump_clock: MockClock) -> None:
    """Eight dead backends leave the one live backend its connections, and claims are served."""
    backends = make_backends(9)
    dead, live = backends[:8], backends[8]
    connector = FatedConnector(connect_delay=LAN, seed=seed)
    connector.crash(*dead)
    recorder = Recorder()
    async with a_pool(connector, backends, instruments=[recorder], seed=seed) as rig:
        served = await run_load(rig.pool, claimants=6, seconds=300, work=0.5)
        assert served.longest_wait < 0.2
        assert recorder.offline == []
        assert len(connector.dials_to(live)) <= 16
        # A slot that was refused moves on to where nothing is known yet, and in the end to
        # the live backend; from then on there is one probe per backend and back-off.
        early = sum(dial.started < 1 for dial in connector.dials)
        assert early <= 3 * 16 + 8 * tries_within(1)
        assert len(connector.dials) - early <= 8 * (tries_within(301) - tries_within(1) + 1)
        await settle()
        stats = rig.stats()
        assert sum(stats.backends[each.name].connecting for each in dead) <= 8
        assert stats.backends[live.name].unclaimed >= 8


@pytest.mark.parametrize("claimants", [0, 8, 20])
@pytest.mark.parametrize("count", [1, 4, 16, 24])
@pytest.mark.parametrize("delay", [1.0, 1.5, (0.9, 3.0), (2.0, 8.0)])
async def test_slow_but_healthy_backends_settle(
    delay: float | tuple[float, float], count: int, claimants: int, autojump_clock: MockClock
) -> None:
    """Connects that take seconds, but less than their timeout, are waited for."""
    dials = 0
    # A single run may exceed the number of dials by chance.
    for seed in range(3):
        begin = trio.current_time()
        connector = FatedConnector(connect_delay=delay, seed=seed)
        async with a_pool(connector, make_backends(count), seed=seed) as rig:
            served = await run_load(rig.pool, claimants=claimants, seconds=50, work=0.5)
            await pass_time_to(begin + 52)
            assert served.longest_wait <= 12
            assert len(connector.conns) <= 2 * 16
            assert sum(connected(rig.stats()).values()) >= 8
            assert_consistent(rig)
        dials += len(connector.dials)
    assert dials <= 3 * (2 * 16 + count)


async def test_opening_does_not_wait_for_a_backend(autojump_clock: MockClock) -> None:
    """The block is entered at once, even if the resolver never answers."""
    async with a_pool(FatedConnector(), None) as rig:
        assert trio.current_time() == 0
        stats = rig.stats()
        assert (stats.slots, stats.claims, stats.waiting, dict(stats.backends)) == (0, 0, 0, {})
        with pytest.raises(NoBackendsError) as info:
            await rig.pool.acquire(timeout=2)
        assert trio.current_time() == pytest.approx(2)
        assert info.value.pool == "pool"


async def test_a_claim_made_before_the_first_answer_is_served_by_it(
    autojump_clock: MockClock,
) -> None:
    """A claimant that waits while no backend is known is served as soon as one is."""
    connector = FatedConnector(connect_delay=0.5)
    async with a_pool(connector, None) as rig, trio.open_nursery() as nursery:
        nursery.start_soon(hold, rig.pool, 1.0)
        await pass_time(3)
        assert rig.stats().waiting == 1
        rig.resolver.set(make_backends(1))
        await pass_time(0.6)
        stats = rig.stats()
        assert (stats.waiting, stats.backends["b0"].claimed) == (0, 1)


async def test_the_first_plan_is_carried_out_at_once(autojump_clock: MockClock) -> None:
    """All the spares wanted are being dialled in the instant in which backends are known."""
    connector = FatedConnector(connect_delay=1.0)
    async with a_pool(connector, make_backends(4)) as rig:
        await settle()
        stats = rig.stats()
        assert {name: each.connecting for name, each in stats.backends.items()} == {
            "b0": 2,
            "b1": 2,
            "b2": 2,
            "b3": 2,
        }
        assert not any(each.online for each in stats.backends.values())
        assert sum(each.wanted for each in stats.backends.values()) == 8


async def test_wait_ready_returns_when_so_many_are_connected(autojump_clock: MockClock) -> None:
    """`wait_ready` waits for the count that it is asked for, and not for more."""
    connector = FatedConnector()
    a, b = make_backends(2)
    connector.fate(a).connect_delay = 0.1
    connector.fate(b).connect_delay = 0.3
    async with a_pool(connector, [a, b], Policy(spares_wanted=4)) as rig:
        await rig.pool.wait_ready()
        assert trio.current_time() == pytest.approx(0.1)
        await rig.pool.wait_ready(2)
        assert trio.current_time() == pytest.approx(0.1)
        await rig.pool.wait_ready(slots=3)
        assert trio.current_time() == pytest.approx(0.3)


async def test_wait_ready_for_more_than_a_new_policy_allows(autojump_clock: MockClock) -> None:
    """A lowered `max_slots` ends the wait for more at once, with the error of a new call."""
    connector = FatedConnector()
    [a] = make_backends(1)
    connector.fate(a).connect_delay = 5
    async with a_pool(connector, [a], Policy(max_slots=8)) as rig, trio.open_nursery() as nursery:
        nursery.start_soon(rig.pool.wait_ready, 3)

        async def wait_for_more() -> None:
            with pytest.raises(ValueError, match=r"at most max_slots \(3\), not 6"):
                await rig.pool.wait_ready(6)
            assert trio.current_time() == pytest.approx(1)

        nursery.start_soon(wait_for_more)
        await trio.sleep(1)
        rig.pool.reconfigure(Policy(max_slots=3))


async def test_wait_ready_outlasts_a_policy_that_is_replaced_at_once(
    autojump_clock: MockClock,
) -> None:
    """A lower `max_slots` that nobody has seen, because it is raised again, changes nothing."""
    connector = FatedConnector()
    [a] = make_backends(1)
    connector.fate(a).connect_delay = 5
    async with a_pool(connector, [a], Policy(max_slots=8)) as rig, trio.open_nursery() as nursery:
        nursery.start_soon(rig.pool.wait_ready, 6)
        await trio.sleep(1)
        rig.pool.reconfigure(Policy(max_slots=3))
        rig.pool.reconfigure(Policy(max_slots=8))
    assert trio.current_time() >= 5


async def test_wait_ready_counts_no_backend_that_has_left(autojump_clock: MockClock) -> None:
    """A connection that is still held at a backend that has left does not make a pool ready."""
    a, b = make_backends(2)
    async with a_pool(FatedConnector(), [a]) as rig:
        async with rig.pool.claim():
            rig.resolver.set([])
            await pass_time(1)
            with trio.move_on_after(5) as scope:
                await rig.pool.wait_ready()
            assert scope.cancelled_caught
            rig.resolver.set([b])
            await rig.pool.wait_ready()
            assert connected(rig.stats())[b.name] >= 1


async def test_wait_ready_fails_when_the_pool_ends_first(autojump_clock: MockClock) -> None:
    """`wait_ready` raises `PoolTerminatedError` if the pool ends before or during the call."""
    async with a_pool(FatedConnector(connect="hang"), make_backends(1)) as rig:
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                with pytest.raises(PoolTerminatedError):
                    await rig.pool.wait_ready()

            nursery.start_soon(wait)
            await settle()
            await rig.pool.terminate()
        with pytest.raises(PoolTerminatedError):
            await rig.pool.wait_ready()


@pytest.mark.parametrize(("spares", "slots"), [(2, 12), (0, 1), (8, 16)])
async def test_wait_ready_has_opened_what_it_waits_for(
    spares: int, slots: int, autojump_clock: MockClock
) -> None:
    """`wait_ready` opens more connections than the spares wanted, and these close later."""
    connector = FatedConnector(connect_delay=0.01)
    async with a_pool(connector, make_backends(3), Policy(spares_wanted=spares)) as rig:
        await rig.pool.wait_ready(slots)
        assert trio.current_time() < 1
        assert sum(connected(rig.stats()).values()) >= slots
        await pass_time(130)
        assert sum(connected(rig.stats()).values()) == spares


async def test_wait_ready_later_opens_too(autojump_clock: MockClock) -> None:
    """`wait_ready` on a pool that has long been at rest opens the connections it waits for."""
    connector = FatedConnector(connect_delay=0.01)
    async with a_pool(connector, make_backends(3), Policy(spares_wanted=0)) as rig:
        await pass_time(10)
        assert connector.dials == []
        await rig.pool.wait_ready(4)
        assert trio.current_time() < 11


async def test_a_large_order_of_dials_does_not_begin_all_at_once(
    autojump_clock: MockClock,
) -> None:
    """A thousand dials of one backend that take no time never need a thousand tasks."""
    tasks: list[int] = []

    class Counting(Connector[object]):
        async def connect(self, backend: Backend) -> object:
            tasks.append(trio.lowlevel.current_statistics().tasks_living)
            return object()

    policy = Policy(max_slots=1000, spares_wanted=1000, set_config=SetConfig(max_count=1000))
    resolver = FixedResolver(make_backends(1))
    async with (
        trio.open_nursery() as nursery,
        open_pool(nursery, resolver, Counting(), policy=policy) as pool,
    ):
        await pool.wait_ready(1000)
        assert len(tasks) == 1000
        assert max(tasks) < 300
