"""Dead and hung backends: they are probed, in turns, and never at the cost of the live ones."""

from __future__ import annotations

import itertools
import math

import pytest
import trio
from trio.testing import MockClock

from qorb_trio import (
    Backend,
    ClaimTimeoutError,
    Connector,
    Instrument,
    NoBackendsOnlineError,
    Policy,
    Pool,
    SetConfig,
)

from ..harness import LedgerConnection
from ..harness.fates import (
    Act,
    FatedConnector,
    Recorder,
    Rig,
    a_pool,
    assert_consistent,
    connected,
    hold,
    make_backends,
    pass_time,
    run_load,
    settle,
    tries_within,
    watch,
)

MAX_BACKOFF = SetConfig().max_connection_backoff


def gaps(times: list[float]) -> list[float]:
    """The differences between neighbours."""
    return [after - before for before, after in itertools.pairwise(times)]


def dial_times(connector: FatedConnector, backend: Backend, since: float = 0.0) -> list[float]:
    """Return the times at which dials to `backend` began, from `since` on."""
    return [dial.started for dial in connector.dials_to(backend) if dial.started >= since]


@pytest.mark.parametrize("count", [1, 4])
async def test_an_outage_of_all_backends_is_survived(count: int, autojump_clock: MockClock) -> None:
    """An outage of all backends causes few probes, and service resumes by itself after it."""
    backends = make_backends(count)
    connector = FatedConnector(connect_delay=(0.005, 0.025))
    async with a_pool(connector, backends) as rig, trio.open_nursery() as nursery:
        await pass_time(100)
        connector.crash(*backends)
        before = len(connector.dials)
        nursery.start_soon(hold, rig.pool, 1.0)
        nursery.start_soon(hold, rig.pool, 1.0)
        await pass_time(600)
        assert rig.stats().waiting == 2
        # While nothing is online and somebody waits, each is tried about every second at most.
        assert len(connector.dials) - before <= 10 + count * 2 * 600
        connector.recover(*backends)
        await pass_time(MAX_BACKOFF + 0.1)
        assert rig.stats().waiting == 0
        served = await run_load(rig.pool, claimants=8, seconds=10)
        assert served.longest_wait < 0.1
        assert sum(connected(rig.stats()).values()) >= 8


async def test_a_claim_in_an_outage_fails_with_the_cause(autojump_clock: MockClock) -> None:
    """The error of a claim names the last connect error as its cause."""
    connector = FatedConnector(connect="fail")
    async with a_pool(connector, make_backends(2)) as rig:
        with pytest.raises(NoBackendsOnlineError) as info:
            await rig.pool.acquire(timeout=3)
        assert isinstance(info.value.__cause__, ConnectionRefusedError)
        stats = rig.stats()
        assert all(each.failures > 0 for each in stats.backends.values())
        assert all(
            isinstance(each.last_error, ConnectionRefusedError) for each in stats.backends.values()
        )


@pytest.mark.parametrize("live", [True, False])
async def test_each_dead_backend_is_probed_within_the_longest_backoff(
    live: bool, autojump_clock: MockClock
) -> None:
    """As long as there is room for all, no dead backend waits longer than its back-off."""
    backends = make_backends(8)
    dead = backends[:7] if live else backends
    connector = FatedConnector()
    connector.crash(*dead)
    async with a_pool(connector, backends):
        await pass_time(600)
        for backend in dead:
            times = [*dial_times(connector, backend), trio.current_time()]
            assert max(gaps(times)) <= MAX_BACKOFF + 0.1
            assert len(times) <= 8 + tries_within(600)


@pytest.mark.parametrize(("count", "slots"), [(4, 4), (8, 4), (5, 1)])
async def test_ff27_dead_backends_take_turns_inside_the_cap(
    count: int, slots: int, autojump_clock: MockClock
) -> None:
    """Dead backends that outnumber the slots are all probed, and the first to live is found."""
    backends = make_backends(count)
    connector = FatedConnector(connect="fail")
    async with a_pool(connector, backends, Policy(max_slots=slots)) as rig:
        turn = MAX_BACKOFF * math.ceil(count / slots)
        await pass_time(10 * turn)
        for backend in backends:
            times = [*dial_times(connector, backend), trio.current_time()]
            assert max(gaps(times)) <= MAX_BACKOFF + turn
        connector.fate(backends[-1]).connect = "ok"
        claim = await rig.pool.acquire(timeout=MAX_BACKOFF + turn)
        assert claim.backend == backends[-1]
        claim.release()


async def test_more_dead_backends_than_probes_take_turns_beside_a_live_one(
    autojump_clock: MockClock,
) -> None:
    """39 dead backends share half of 8 slots: every one gets its turn, and the live one works."""
    backends = make_backends(40)
    live, dead = backends[17], backends[:17] + backends[18:]
    connector = FatedConnector(connect_delay=0.01)
    connector.crash(*dead)
    recorder = Recorder()
    policy = Policy(max_slots=8, spares_wanted=4)
    async with a_pool(connector, backends, policy, instruments=[recorder]) as rig:
        await rig.pool.wait_ready()
        turn = MAX_BACKOFF * math.ceil(len(dead) / 4)
        await pass_time(60)
        await watch(1800, 9.7, lambda: assert_probes_leave_half(rig, dead))
        for backend in dead:
            times = [*dial_times(connector, backend), trio.current_time()]
            assert max(gaps(times)) <= MAX_BACKOFF + turn
        assert recorder.offline == []
        assert len(connector.dials_to(live)) <= 8
        connector.recover(dead[5])
        await pass_time(MAX_BACKOFF + turn)
        assert rig.stats().backends[dead[5].name].online


def assert_probes_leave_half(rig: Rig, dead: list[Backend]) -> None:
    """Check that at most half of the cap is spent on dead backends."""
    stats = rig.stats()
    probes = sum(stats.backends[each.name].connecting for each in dead)
    assert probes <= max(1, rig.pool.policy.max_slots // 2)


async def _claim_in_vain(pool: Pool[LedgerConnection]) -> None:
    while True:
        try:
            async with pool.claim(timeout=5):
                await trio.sleep(0.01)
        except ClaimTimeoutError:
            pass


async def test_accept_then_close_is_no_tight_loop(autojump_clock: MockClock) -> None:
    """A server that accepts and hangs up at once is tried with back-off like a dead one."""
    connector = FatedConnector(born_broken=True)
    async with a_pool(connector, make_backends(1)) as rig, trio.open_nursery() as nursery:
        nursery.start_soon(_claim_in_vain, rig.pool)
        nursery.start_soon(_claim_in_vain, rig.pool)
        await pass_time(300)
        assert rig.stats().claims == 0
        assert len(connector.dials) <= 16 + 2 * 300  # since somebody waits
        connector.fate("b0").born_broken = False
        await pass_time(MAX_BACKOFF + 0.1)
        assert rig.stats().claims > 0
        nursery.cancel_scope.cancel()


async def test_accept_then_close_beside_a_live_backend_costs_no_claim(
    autojump_clock: MockClock,
) -> None:
    """Claims go to the backend that works, and the other one is tried with back-off."""
    bad, good = make_backends(2)
    connector = FatedConnector()
    connector.fate(bad).born_broken = True
    async with a_pool(connector, [bad, good]) as rig:
        served = await run_load(rig.pool, claimants=4, seconds=300, work=0.1)
        assert set(served.by_backend) == {good.name}
        assert served.longest_wait < 0.1
        assert len(connector.dials_to(bad)) <= 16 + tries_within(301)
        assert len(connector.dials_to(good)) <= 16


async def test_a_connect_alone_does_not_reset_the_backoff(autojump_clock: MockClock) -> None:
    """After a long outage, connections that die at birth go on being tried seldom."""
    connector = FatedConnector(connect="fail")
    policy = Policy(spares_wanted=1, max_slots=1)
    async with a_pool(connector, make_backends(1), policy) as rig, trio.open_nursery() as nursery:
        nursery.start_soon(_claim_in_vain, rig.pool)
        await pass_time(200)
        fate = connector.fate("b0")
        fate.connect, fate.born_broken = "ok", True
        since = trio.current_time()
        await pass_time(200)
        times = dial_times(connector, make_backends(1)[0], since)
        assert len(times) >= 5
        assert min(gaps(times)) >= 0.5  # and not more, since somebody waits
        nursery.cancel_scope.cancel()


async def test_a_connection_that_has_proved_itself_resets_the_backoff(
    autojump_clock: MockClock,
) -> None:
    """After claims were served for a while, the first retry comes soon again."""
    (backend,) = make_backends(1)
    connector = FatedConnector(connect="fail")
    policy = Policy(spares_wanted=1, max_slots=1)
    async with a_pool(connector, [backend], policy) as rig:
        await pass_time(200)
        connector.recover(backend)
        await rig.pool.wait_ready()
        await run_load(rig.pool, claimants=1, seconds=100, work=0.5, pause=0.5)
        connector.crash(backend)
        since = trio.current_time()
        with pytest.raises(NoBackendsOnlineError):
            await rig.pool.acquire(timeout=1)
        assert len(dial_times(connector, backend, since)) >= 4


class Silent(FatedConnector):
    """A connector without checks, so that only use and time prove a connection."""

    is_valid = Connector.is_valid
    is_broken = Connector.is_broken
    on_recycle = Connector.on_recycle


async def test_a_claim_that_was_served_ends_the_probation(autojump_clock: MockClock) -> None:
    """A backend that is back is dialled for others as soon as a connection has served a claim."""

    (backend,) = make_backends(1)
    connector = Silent(connect="fail")
    policy = Policy(spares_wanted=0, set_config=SetConfig(min_connection_backoff=10))
    async with a_pool(connector, [backend], policy) as rig:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hold, rig.pool, 0)
            await pass_time(1)
            connector.recover(backend)
        since = trio.current_time()
        async with rig.pool.claim(), rig.pool.claim():
            assert trio.current_time() == since
        assert connected(rig.stats()) == {backend.name: 2}


async def test_a_proof_is_good_for_those_who_wait(autojump_clock: MockClock) -> None:
    """The pool dials for waiting claimants once a claim has proved a backend to be back."""
    (backend,) = make_backends(1)
    connector = Silent(connect="fail", connect_delay=0.1)
    policy = Policy(spares_wanted=0, set_config=SetConfig(min_connection_backoff=10))
    async with a_pool(connector, [backend], policy) as rig:
        async with trio.open_nursery() as nursery:
            for seconds in (0, 5, 5):
                nursery.start_soon(hold, rig.pool, seconds)
                await settle()
            await pass_time(1)
            connector.recover(backend)
        assert trio.current_time() < 15 + 5 + 1  # the back-off is jittered by a half


async def test_slow_backends_that_take_turns_get_longer_each_time(
    autojump_clock: MockClock,
) -> None:
    """The pool waits long enough for one of several slow backends, after a few dials."""
    connector = FatedConnector(connect_delay=3)
    policy = Policy(spares_wanted=1, max_slots=1)
    async with a_pool(connector, make_backends(3), policy) as rig:
        with trio.fail_after(60):
            await rig.pool.wait_ready()
        assert len(connector.dials) <= 10


@pytest.mark.parametrize("stubborn", [False, True])
async def test_a_dial_is_given_up_for_others(stubborn: bool, autojump_clock: MockClock) -> None:
    """A dial that the pool abandons is no error of the backend; if it still connects, the
    connection is closed, and never claimed."""
    errors: list[BaseException] = []

    class Errors(Instrument):
        def connect_failed(self, *args: object) -> None:
            assert isinstance(args[-1], BaseException)
            errors.append(args[-1])

    hung, live = make_backends(2)
    connector = FatedConnector()
    connector.fate(hung).connect = "hang"
    connector.fate(hung).connect_stubborn = stubborn
    policy = Policy(spares_wanted=4, max_slots=4)
    async with a_pool(connector, [hung], policy, instruments=[Errors()]) as rig:
        await pass_time(2)
        assert connector.dialling(hung) == 4
        rig.resolver.set([hung, live])
        await settle()
        assert connector.open_to(live)
        assert {conn.backend for conn in connector.closed} == ({hung} if stubborn else set())
        assert connector.open_to(hung) == []
        assert all(isinstance(error, ConnectionAbortedError) for error in errors)
        assert bool(errors) is not stubborn
        assert rig.stats().backends[hung.name].last_error is None


async def test_a_probe_that_lasts_proves_itself(autojump_clock: MockClock) -> None:
    """A backend that is back gets its share though nobody claims, and before any check is due."""
    (backend,) = make_backends(1)
    connector = FatedConnector(connect="fail", connect_delay=0.1)
    policy = Policy(set_config=SetConfig(min_connection_backoff=10))
    async with a_pool(connector, [backend], policy) as rig:
        await pass_time(1)
        connector.recover(backend)
        await pass_time(19)
        assert connected(rig.stats()) == {backend.name: 8}


async def test_a_probe_lasts_whatever_else_is_due(autojump_clock: MockClock) -> None:
    """The steps of a slow start do not end the time for which a probe has to last."""
    (backend,) = make_backends(1)
    connector = FatedConnector(connect="fail", connect_delay=0.1)
    policy = Policy(set_config=SetConfig(min_connection_backoff=10, slow_start=0.5))
    async with a_pool(connector, [backend], policy) as rig:
        await pass_time(1)
        connector.recover(backend)
        await rig.pool.wait_ready()
        await pass_time(0.9)
        assert connected(rig.stats()) == {backend.name: 1}
        await pass_time(0.3)
        assert connected(rig.stats()) == {backend.name: 8}


@pytest.mark.parametrize("connect_timeout", [10, math.inf])
async def test_ff32_hung_backends_leave_half_to_the_live_one(
    connect_timeout: float, autojump_clock: MockClock
) -> None:
    """Dials that never return take at most half of the cap, and claims are served all along."""
    backends = make_backends(4)
    live, hung = backends[3], backends[:3]
    connector = FatedConnector(connect_delay=0.01)
    for backend in hung:
        connector.fate(backend).connect = "hang"
    policy = Policy(max_slots=8, set_config=SetConfig(connect_timeout=connect_timeout))
    recorder = Recorder()
    async with a_pool(connector, backends, policy, instruments=[recorder]) as rig:
        served = await run_load(rig.pool, claimants=2, seconds=30, work=0.5)
        assert served.longest_wait < 0.1

        def look() -> None:
            assert_probes_leave_half(rig, hung)
            assert connector.dialling(*hung) <= 4
            assert len(connector.open_to(live)) >= 4
            assert_consistent(rig)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, 300, 0.7, look)
            served = await run_load(rig.pool, claimants=4, seconds=300, work=0.5)
        assert served.longest_wait < 0.1
        assert recorder.offline == []
        assert len(connector.dials_to(live)) <= 8


@pytest.mark.parametrize("connect_timeout", [10, math.inf])
async def test_a_live_backend_is_found_among_many_hung_ones(
    connect_timeout: float, autojump_clock: MockClock
) -> None:
    """Sixteen hung backends fill the cap, and still a claim reaches the live one in its time."""
    backends = make_backends(17)
    connector = FatedConnector(connect="hang")
    connector.fate(backends[16]).connect = "ok"
    policy = Policy(set_config=SetConfig(connect_timeout=connect_timeout))
    async with a_pool(connector, backends, policy) as rig:
        async with rig.pool.claim(timeout=30) as conn:
            assert conn.backend == backends[16]
        await pass_time(60)
        served = await run_load(rig.pool, claimants=8, seconds=60, work=0.5)
        assert served.longest_wait < 0.1
        assert_probes_leave_half(rig, backends[:16])


async def test_a_backend_that_begins_to_hang_does_not_use_up_the_cap(
    autojump_clock: MockClock,
) -> None:
    """A backend whose connections break and whose redials hang leaves the load to the other."""
    a, b = make_backends(2)
    connector = FatedConnector(connect_delay=0.01)
    async with a_pool(connector, [a, b], Policy(max_slots=8)) as rig:
        await pass_time(100)
        connector.crash(a)
        connector.fate(a).connect = "hang"
        served = await run_load(rig.pool, claimants=4, seconds=120, work=0.5)
        assert served.longest_wait < 1.0
        assert len(connector.open_to(b)) >= 4
        assert_probes_leave_half(rig, [a])


@pytest.mark.parametrize("cap", [2, 4])
@pytest.mark.parametrize("act", ["fail", "hang"])
async def test_one_spare_gives_way_to_a_probe(
    act: Act, cap: int, autojump_clock: MockClock
) -> None:
    """One of the live spares that fill the cap is closed for the probe of a new backend."""
    a, b = make_backends(2)
    connector = FatedConnector(connect_delay=0.01)
    connector.fate(b).connect = act
    policy = Policy(spares_wanted=cap, max_slots=cap)
    async with a_pool(connector, [a], policy) as rig:
        await pass_time(100)
        assert len(connector.open_to(a)) == cap
        rig.resolver.set([a, b])

        def look() -> None:
            assert len(connector.open_to(a)) >= cap - max(1, cap // 2)
            assert len(connector.open_to(a)) >= 1

        await watch(600, 1.1, look)
        assert len(dial_times(connector, b)) >= 600 / (MAX_BACKOFF + 60 + 10)
        assert len(connector.open_to(a)) >= cap - 1
        connector.fate(b).connect = "ok"
        await pass_time(MAX_BACKOFF + 10 + 120)
        assert rig.stats().backends[b.name].online


@pytest.mark.parametrize("act", ["ok", "fail", "hang"])
async def test_the_last_connected_slot_never_gives_way(act: Act, autojump_clock: MockClock) -> None:
    """With a cap of one, the connection that works stays, whatever other backends there are."""
    a, b = make_backends(2)
    connector = FatedConnector(connect_delay=0.01)
    connector.fate(b).connect = act
    async with a_pool(connector, [a], Policy(spares_wanted=1, max_slots=1)) as rig:
        await pass_time(10)
        rig.resolver.set([a, b])
        await watch(600, 1.1, lambda: _assert_only(connector, a))
        async with rig.pool.claim(timeout=0) as conn:
            assert conn.backend == a


def _assert_only(connector: FatedConnector, backend: Backend) -> None:
    assert [conn.backend for conn in connector.open] == [backend]
    assert connector.closed == []


async def test_a_cap_of_one_passes_over_hung_and_dead_backends(autojump_clock: MockClock) -> None:
    """With a single slot, it goes from backend to backend until one of them answers."""
    backends = make_backends(4)
    connector = FatedConnector(connect="hang")
    connector.fate(backends[1]).connect = "fail"
    connector.fate(backends[3]).connect = "ok"
    async with a_pool(connector, backends, Policy(spares_wanted=1, max_slots=1)) as rig:
        claim = await rig.pool.acquire(timeout=math.inf)
        assert claim.backend == backends[3]
        assert trio.current_time() <= 3 * 10 + 1
        claim.release()


async def test_a_backend_that_hangs_only_now_and_then_comes_back(
    autojump_clock: MockClock,
) -> None:
    """A hung dial is cut off at ``connect_timeout``, and the next one may work."""
    connector = FatedConnector(connect="hang")
    policy = Policy(spares_wanted=1, max_slots=1, set_config=SetConfig(connect_timeout=2))
    async with a_pool(connector, make_backends(1), policy) as rig:
        await pass_time(1.9)
        connector.fate("b0").connect = "ok"
        await settle()
        assert connector.open == []
        await pass_time(0.5)
        assert len(connector.open) == 1
        stats = rig.stats().backends["b0"]
        assert stats.failures == 1
        assert isinstance(stats.last_error, Exception)


@pytest.mark.parametrize("cure", [None, 150.0])
@pytest.mark.parametrize(("count", "cap"), [(2, 2), (2, 16), (4, 2), (4, 4), (40, 8)])
async def test_a_probe_that_connects_is_given_the_time_to_prove_itself(
    count: int, cap: int, cure: float | None, autojump_clock: MockClock
) -> None:
    """Backends that accept but fail their check are tried seldom, whatever room there is."""
    backends = make_backends(count)
    bad = backends[count // 2 :]
    connector = FatedConnector(connect_delay=0.01)
    for backend in bad:
        connector.fate(backend).check = "fail"
    async with a_pool(connector, backends, Policy(max_slots=cap, spares_wanted=cap)) as rig:
        await pass_time(cure or 300)
        before = len(connector.dials)
        assert before <= 4 * cap + len(bad) * tries_within(300) + count
        for backend in bad:
            connector.fate(backend).check = "ok"
        await pass_time(607)
        # Now all are well: spares move, one at each interval, and nothing else does.
        assert len(connector.dials) - before <= 2 * cap + 2 * count + 10
        assert sum(connected(rig.stats()).values()) >= cap
        dials = len(connector.dials)
        await pass_time(600)
        assert len(connector.dials) - dials <= 10


@pytest.mark.parametrize("connect_timeout", [10, math.inf])
@pytest.mark.parametrize("live", [True, False])
async def test_a_hung_backend_is_probed_again(
    live: bool, connect_timeout: float, autojump_clock: MockClock
) -> None:
    """A dial that hangs is not waited for for ever: its backend is found when it is back."""
    backends = make_backends(2 if live else 1)
    hung = backends[0]
    connector = FatedConnector()
    connector.fate(hung).connect = "hang"
    policy = Policy(set_config=SetConfig(connect_timeout=connect_timeout))
    async with a_pool(connector, backends, policy) as rig:
        await pass_time(100)
        connector.fate(hung).connect = "ok"
        await pass_time(MAX_BACKOFF + 12)
        assert rig.stats().backends[hung.name].online


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("claimants", [0, 4])
@pytest.mark.parametrize("count", [1, 2])
async def test_dials_of_one_backend_that_end_differently(
    count: int, claimants: int, seed: int, autojump_clock: MockClock
) -> None:
    """Some of the first dials are refused and others succeed: soon all is as it should be."""
    connector = FatedConnector(connect="fail", connect_delay=(0.05, 0.5), seed=seed)
    backends = make_backends(count)
    async with a_pool(connector, backends, seed=seed) as rig, trio.open_nursery() as nursery:
        for _ in range(claimants):
            nursery.start_soon(hold, rig.pool, 3.0)
        await pass_time(0.2)
        connector.recover(*backends)
        await pass_time(100)
        found = connected(rig.stats())
        assert sum(found.values()) >= 8
        assert all(found.values())
        await pass_time(120)
        assert connected(rig.stats()) == {each.name: 8 // count for each in backends}
