"""A pool that knows thousands of backends uses a few of them, and serves as with ten."""

from __future__ import annotations

import math
from collections import Counter

import attrs
import pytest
import trio
from trio.testing import MockClock

from qorb_trio import (
    Backend,
    Instrument,
    NoBackendsError,
    NoBackendsOnlineError,
    Policy,
    PoolStats,
    SetConfig,
)
from qorb_trio._planning.selection import ALL_ACTIVE, MIN_ACTIVE, MIN_MAXIMUM
from qorb_trio._pool.membership import CLOSED_FIRST, SAMPLE_SIZE
from qorb_trio._pool.rebalancer import FEW_VIEWS, MAX_OWED, REST_PER_VIEW

from ..harness.fates import (
    FatedConnector,
    Recorder,
    Rig,
    a_pool,
    assert_consistent,
    connected as connections,
    make_backends,
    pass_time,
    run_load,
    settle,
)

#: Number of known backends.
MANY = 2000


def connected(stats: PoolStats) -> dict[str, int]:
    """The number of connections of each backend that has any."""
    return {name: count for name, count in connections(stats).items() if count}


def active(rig: Rig) -> list[str]:
    """The names of the active backends."""
    return list(rig.stats().backends)


async def test_a_few_of_many_are_active(autojump_clock: MockClock) -> None:
    """Of 2,000 backends, 16 are active and 8 have a connection; the statistics count all."""
    connector = FatedConnector()
    backends = make_backends(MANY)
    async with a_pool(connector, backends) as rig:
        await pass_time(1)
        stats = rig.stats()
        assert stats.known == MANY
        assert len(stats.backends) == MIN_ACTIVE
        assert sorted(connected(stats).values()) == [1] * 8
        order = [backend.name for backend in backends]
        assert list(stats.backends) == sorted(stats.backends, key=order.index)
        assert_consistent(rig)


@pytest.mark.parametrize("count", [1, ALL_ACTIVE, ALL_ACTIVE + 1])
async def test_a_few_backends_are_all_active(count: int, autojump_clock: MockClock) -> None:
    """Up to 64 backends are all active, in the resolver's order; of 65, a few."""
    backends = make_backends(count)
    async with a_pool(FatedConnector(), backends) as rig:
        await settle()
        names = [backend.name for backend in backends]
        if count > ALL_ACTIVE:
            assert len(active(rig)) == MIN_ACTIVE
            rig.resolver.set(backends[:-1])
            await settle()
        assert set(active(rig)) == set(names[:ALL_ACTIVE])
        assert active(rig) == names[:ALL_ACTIVE] or count > ALL_ACTIVE


@pytest.mark.parametrize("seed", range(3))
async def test_half_of_many_refuse(seed: int, autojump_clock: MockClock) -> None:
    """With half of 2,000 backends dead, 8 connections are there within 0.3 s, claims are served,
    and after two minutes the dead ones are dialled about twice a second."""
    backends = make_backends(MANY)
    connector = FatedConnector(seed=seed, connect_delay=0.005)
    connector.crash(*backends[::2])
    async with a_pool(connector, backends, seed=seed) as rig:
        await pass_time(0.3)
        assert sum(connected(rig.stats()).values()) >= 8
        served = await run_load(rig.pool, claimants=4, seconds=120, work=0.05)
        assert served.longest_wait < 0.1
        before = len(connector.dials)
        await pass_time(60)
        assert len(connector.dials) - before <= 120
        assert len(active(rig)) <= MIN_MAXIMUM


async def test_others_join_when_the_active_ones_die(autojump_clock: MockClock) -> None:
    """The next in the order serve within a second of the death of all active backends."""
    backends = make_backends(MANY)
    connector = FatedConnector()
    async with a_pool(connector, backends) as rig:
        await pass_time(1)
        first = set(active(rig))
        connector.crash(*[backend for backend in backends if backend.name in first])
        async with rig.pool.claim(timeout=1) as conn:
            assert conn.backend.name not in first
        await pass_time(200)
        assert not first & set(connected(rig.stats()))
        assert len(active(rig)) <= MIN_MAXIMUM
        assert_consistent(rig)


async def test_failing_backends_leave_at_a_turn(autojump_clock: MockClock) -> None:
    """A failing backend that is replaced leaves at the next rebalance, and nothing of it stays."""
    backends = make_backends(MANY)
    connector = FatedConnector()
    recorder = Recorder()
    policy = Policy(rebalance_interval=10)
    async with a_pool(connector, backends, policy, instruments=[recorder]) as rig:
        await pass_time(1)
        victim = next(iter(connected(rig.stats())))
        connector.crash(*[backend for backend in backends if backend.name == victim])
        await run_load(rig.pool, claimants=8, seconds=2)  # one of them finds it broken
        assert victim in active(rig)
        assert len(active(rig)) > MIN_ACTIVE
        await pass_time(25)
        assert victim not in active(rig)
        assert rig.stats().departed == 0


async def test_turns_reach_backends_that_were_inactive(autojump_clock: MockClock) -> None:
    """Each rebalance moves one connection to the next of all known backends."""
    connector = FatedConnector()
    policy = Policy(rebalance_interval=10)
    async with a_pool(connector, make_backends(MANY), policy) as rig:
        await pass_time(1)
        await pass_time(400)
        assert len({dial.backend for dial in connector.dials}) >= 30
        assert len(active(rig)) <= MIN_ACTIVE + 2
        assert sum(connected(rig.stats()).values()) == 8
        assert len(connector.dials) <= 8 + 41


async def test_removed_backends_are_replaced_and_inactive_ones_are_silent(
    autojump_clock: MockClock,
) -> None:
    """Active backends that leave make room for the next; the others just are not known."""
    backends = make_backends(MANY)
    connector = FatedConnector()
    async with a_pool(connector, backends) as rig:
        await pass_time(1)
        before = active(rig)
        rig.resolver.set([it for it in backends if it.name not in before[:5]][:1000])
        await pass_time(1)
        stats = rig.stats()
        assert stats.known == 1000
        assert len(stats.backends) == MIN_ACTIVE
        assert not set(before[:5]) & set(stats.backends)
        assert sum(connected(stats).values()) == 8
        rig.resolver.set([])
        await pass_time(1)
        assert (rig.stats().known, active(rig), connector.open) == (0, [], [])
        with pytest.raises(NoBackendsError):
            await rig.pool.acquire(timeout=0)


async def test_a_large_first_set_is_used_before_it_has_been_read(
    autojump_clock: MockClock,
) -> None:
    """Claims are served before all of 30,000 backends are read, and keep their connections."""
    backends = make_backends(30_000)
    connector = FatedConnector()
    async with a_pool(connector, backends) as rig:
        async with rig.pool.claim() as conn:
            assert rig.stats().known == SAMPLE_SIZE
            assert conn.backend in backends
            before = set(connected(rig.stats()))
            await pass_time(1)
            assert rig.stats().known == len(backends)
            assert conn.closed_at is None
        assert before <= set(connected(rig.stats()))
        numbers = [backends.index(dial.backend) for dial in connector.dials]
        assert max(numbers) - min(numbers) > SAMPLE_SIZE
        assert_consistent(rig)


async def test_the_same_set_again_changes_nothing(autojump_clock: MockClock) -> None:
    """A resolver that repeats a large set closes and opens nothing."""
    backends = make_backends(MANY)
    connector = FatedConnector()
    async with a_pool(connector, backends) as rig:
        await pass_time(1)
        before = active(rig), len(connector.dials)
        rig.resolver.set(backends[::-1])
        await pass_time(1)
        assert (set(active(rig)), len(connector.dials)) == (set(before[0]), before[1])


async def test_errors_tell_active_from_known_backends(autojump_clock: MockClock) -> None:
    """With all of 2,000 backends dead, an error says how many are tried, and of how many."""
    backends = make_backends(MANY)
    connector = FatedConnector()
    connector.crash(*backends)
    async with a_pool(connector, backends) as rig:
        with pytest.raises(NoBackendsOnlineError, match=f"being tried, of {MANY}, is online"):
            await rig.pool.acquire(timeout=5)
        with pytest.raises(NoBackendsOnlineError) as info:
            await rig.pool.acquire(timeout=0)
        assert info.value.stats.known == MANY
        assert isinstance(info.value.__cause__, ConnectionRefusedError)


async def test_active_backends_that_fail_stand_for_all(autojump_clock: MockClock) -> None:
    """`fail_fast_after` does not wait until each of 2,000 dead backends has been tried."""
    backends = make_backends(MANY)
    connector = FatedConnector()
    connector.crash(*backends)
    async with a_pool(connector, backends, Policy(fail_fast_after=3)) as rig:
        with pytest.raises(NoBackendsOnlineError):
            await rig.pool.acquire(timeout=20)
        assert trio.current_time() <= 8
        connector.recover(*backends)
        await pass_time(60)
        async with rig.pool.claim(timeout=1):
            pass


async def test_standbys_serve_when_a_large_priority_is_dead(autojump_clock: MockClock) -> None:
    """With 1,000 dead backends of the best priority, those of the next priority serve."""
    primaries, standbys = make_backends(1000, "p"), make_backends(1000, "s", priority=1)
    connector = FatedConnector()
    connector.crash(*primaries)
    async with a_pool(connector, primaries + standbys, Policy(rebalance_interval=10)) as rig:
        async with rig.pool.claim(timeout=5) as conn:
            assert conn.backend.priority == 1
        connector.recover(*primaries)
        await pass_time(120)
        assert all(
            rig.stats().backends[name].backend.priority == 0 for name in connected(rig.stats())
        )


async def test_keys_stay_with_their_backend(autojump_clock: MockClock) -> None:
    """The same key leads to the same backend, as long as the same ones have a spare."""
    async with a_pool(FatedConnector(), make_backends(MANY)) as rig:
        await pass_time(1)
        async with rig.pool.claim():
            await pass_time(1)  # a claim makes the pool connect to one more backend
        served = Counter[str]()
        for _ in range(30):
            async with rig.pool.claim(key="user 7") as conn:
                served[conn.backend.name] += 1
            await settle()  # it is checked before it is lent again
        assert len(served) == 1
        (favourite,) = served
        avoided = {rig.stats().backends[favourite].backend}
        async with rig.pool.claim(key="user 7", avoid=avoided) as conn:
            assert conn.backend.name != favourite


def wide_policy(backends: int, slots_each: int, **more: float) -> Policy:
    """A policy that wants slots on all backends."""
    slots = backends * slots_each
    config = SetConfig(max_count=slots_each, health_interval=math.inf)
    return Policy(spares_wanted=slots, max_slots=slots, set_config=config, **more)  # type: ignore[arg-type]


async def test_slots_on_a_thousand_backends(autojump_clock: MockClock) -> None:
    """A policy that wants slots on 1,000 backends activates all, and connects to all."""
    connector = FatedConnector()
    async with a_pool(connector, make_backends(1000), wide_policy(1000, 2)) as rig:
        await rig.pool.wait_ready(2000)
        assert len(active(rig)) == 1000
        assert set(connected(rig.stats()).values()) == {2}
    assert len(connector.closed) == 2000


async def test_the_first_dial_of_a_dead_backend_spares_the_others(
    autojump_clock: MockClock,
) -> None:
    """Among many backends with four slots each, one that refuses at once is dialled once."""
    backends = make_backends(FEW_VIEWS + 100)
    dead, alive = set(backends[::2]), len(backends) // 2
    connector = FatedConnector()
    connector.crash(*dead)
    async with a_pool(connector, backends, wide_policy(len(backends), 4)) as rig:
        await rig.pool.wait_ready(4 * alive)
        tries = Counter(dial.backend for dial in connector.dials if dial.backend in dead)
        assert set(tries.values()) == {1}
        assert len(tries) == len(dead)


class Progress(Instrument):
    """Notes how many connections had been closed as each dial began."""

    def __init__(self, connector: FatedConnector) -> None:
        self.connector = connector
        self.closed: list[int] = []

    def connect_start(self, pool: str, slot_id: int, backend: Backend) -> None:
        """Note."""
        self.closed.append(len(self.connector.closed))


async def test_backends_that_come_are_dialled_while_those_that_leave_are_closed(
    autojump_clock: MockClock,
) -> None:
    """Of 500 backends that change, the new ones are dialled before all others are closed."""
    connector = FatedConnector()
    progress = Progress(connector)
    old, new = make_backends(500, "old"), make_backends(500, "new")
    policy = wide_policy(500, 4)
    async with a_pool(connector, old, policy, instruments=[progress]) as rig:
        await rig.pool.wait_ready(2000)
        await pass_time(60)  # so that no rest is owed for plans
        rig.resolver.set(new)
        await pass_time(10)
        assert progress.closed[:2000] == [0] * 2000
        assert CLOSED_FIRST / 2 <= progress.closed[2000] <= 500
        assert len(connector.dials) == 4000
        assert set(connected(rig.stats())) == {backend.name for backend in new}
        assert_consistent(rig)


async def test_many_dead_backends_are_tried_at_a_bounded_rate(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More dead backends than a few are tried at a steady rate in all, each within the maximum."""
    monkeypatch.setattr("qorb_trio._health.backoff.FEW_FAILING", 20)
    monkeypatch.setattr("qorb_trio._health.backoff.MAX_TRIES", 10)
    backends, mean = make_backends(240), (120 - 20) / 10
    connector = FatedConnector()
    connector.crash(*backends[::2])
    async with a_pool(connector, backends, wide_policy(240, 1)) as rig:
        await rig.pool.wait_ready(120)
        await pass_time(3)
        began, before = trio.current_time(), len(connector.dials)
        await pass_time(2 * mean)
        rate = (len(connector.dials) - before) / (2 * mean)
        assert 0.8 * 120 / mean <= rate <= 1.2 * 120 / mean
        tried = {dial.backend for dial in connector.dials if dial.started >= began}
        assert tried == set(backends[::2])


async def test_planning_rests(autojump_clock: MockClock) -> None:
    """Plans over 800 backends, half of them dead, rest for 25 times as long as they take, after
    the first few."""
    backends = make_backends(800)
    connector = FatedConnector()
    connector.crash(*backends[::2])
    recorder = Recorder()
    async with a_pool(connector, backends, wide_policy(800, 1), instruments=[recorder]) as rig:
        await rig.pool.wait_ready(400)
        began, before = trio.current_time(), len(recorder.plans)
        await pass_time(30)
        rest = len(backends) * REST_PER_VIEW
        assert len(recorder.plans) - before <= (trio.current_time() - began + MAX_OWED) / rest + 2
        assert len(backends) > FEW_VIEWS
        assert sum(connected(rig.stats()).values()) == 400


@pytest.mark.parametrize("steps", range(0, 40, 3))
async def test_a_large_set_may_come_as_the_pool_ends(steps: int) -> None:
    """The pool may end at any step of a large set's adoption: all is closed exactly once."""
    connector = FatedConnector()
    async with a_pool(connector, make_backends(700), wide_policy(1500, 1)) as rig:
        await rig.pool.wait_ready(10)
        rig.resolver.set(make_backends(1500, "new"))
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
    assert connector.open == []


@pytest.mark.parametrize("steps", range(0, 50, 7))
async def test_weights_may_change_as_backends_are_activated(
    steps: int, autojump_clock: MockClock
) -> None:
    """A set with other weights may come at any step of an activation: all is in order after."""
    connector = FatedConnector()
    plain = make_backends(700)
    heavy = [Backend(it.address, name=it.name, weight=2) for it in plain]
    policy = wide_policy(700, 1)
    async with a_pool(connector, plain, attrs.evolve(policy, spares_wanted=4)) as rig:
        await rig.pool.wait_ready(4)
        rig.pool.reconfigure(policy)
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
        rig.resolver.set(heavy)
        await pass_time(5)
        assert sum(connected(rig.stats()).values()) == 700


@pytest.mark.parametrize("hang", [False, True])
async def test_backends_may_leave_while_their_surplus_is_closed(
    hang: bool, autojump_clock: MockClock
) -> None:
    """A lower cap closes spares, or gives up dials, in pauses; backends that leave meanwhile
    are left alone."""
    connector = FatedConnector()
    backends = make_backends(FEW_VIEWS + 100)
    if hang:
        for backend in backends:
            connector.fate(backend).connect_delay = 8
    size = len(backends)
    async with a_pool(connector, backends, wide_policy(size, 4)) as rig:
        await pass_time(5)
        rig.pool.reconfigure(wide_policy(size, 1))
        while rig.stats().slots == 4 * size:  # noqa: ASYNC110 - it has to be the first step
            await trio.lowlevel.checkpoint()
        rig.resolver.set(backends[: size // 2])
        await pass_time(60)
        assert sum(connected(rig.stats()).values()) == size // 2
        assert_consistent(rig)


async def test_sets_may_follow_each_other_quickly(autojump_clock: MockClock) -> None:
    """Large sets that come while others are being activated leave the last one in force."""
    connector = FatedConnector()
    async with a_pool(connector, make_backends(700), wide_policy(900, 1)) as rig:
        for number in range(12):
            rig.resolver.set(make_backends(900, f"s{number}-"))
            for _ in range(number):
                await trio.lowlevel.checkpoint()
        await pass_time(5)
        stats = rig.stats()
        assert stats.known == len(stats.backends) == 900
        assert all(name.startswith("s11-") for name in stats.backends)
        assert sum(connected(stats).values()) == 900


async def test_a_crash_of_a_large_pool_closes_all(autojump_clock: MockClock) -> None:
    """Leaving a large pool by an exception, with claims held, closes every connection."""
    connector = FatedConnector()
    crash = RuntimeError()
    with pytest.raises(ExceptionGroup) as info:
        async with a_pool(connector, make_backends(700), wide_policy(700, 1)) as rig:
            await rig.pool.wait_ready(700)
            claim = await rig.pool.acquire()
            raise crash
    claim.release()
    assert info.value.exceptions == (crash,)
    assert len(connector.closed) == 700
    assert connector.open == []


async def test_more_slots_activate_more_backends(autojump_clock: MockClock) -> None:
    """A policy that wants more activates more backends at once, and one that wants less lets
    them go at the next turns."""
    connector = FatedConnector()
    few = Policy(rebalance_interval=10)
    async with a_pool(connector, make_backends(MANY), few) as rig:
        await pass_time(1)
        rig.pool.reconfigure(Policy(spares_wanted=100, max_slots=200, rebalance_interval=10))
        connector.max_slots = 200
        await pass_time(5)
        assert len(active(rig)) == 101
        assert sum(connected(rig.stats()).values()) == 100
        rig.pool.reconfigure(few)
        await pass_time(60)
        assert len(active(rig)) <= MIN_ACTIVE + 2
        assert sum(connected(rig.stats()).values()) == 8
