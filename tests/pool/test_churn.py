"""Backends that are added, removed, added again and moved, and resolvers that fail."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection

import pytest
import trio
from trio.testing import MockClock

from qorb_trio import Backend, NoBackendsError, Policy, SetConfig, open_pool
from qorb_trio.abc import Instrument, Resolver
from qorb_trio.testing import ManualResolver

from ..harness.fates import (
    Act,
    FatedConnector,
    Recorder,
    a_pool,
    assert_consistent,
    connected,
    hold,
    make_backends,
    pass_time,
    run_load,
    settle,
    watch,
)


async def test_a_removed_backend_loses_its_spares_at_once(autojump_clock: MockClock) -> None:
    """In the instant in which a backend leaves, its spares are closed and replaced elsewhere."""
    a, b = make_backends(2)
    connector = FatedConnector()
    async with a_pool(connector, [a, b]) as rig:
        await pass_time(1)
        rig.resolver.set([b])
        await settle()
        assert trio.current_time() == 1
        assert connector.open_to(a) == []
        assert len(connector.open_to(b)) == 8
        stats = rig.stats()
        assert (set(stats.backends), stats.departed, stats.slots) == ({b.name}, 0, 8)
        await pass_time(600)
        assert len(connector.dials_to(a)) == 4


@pytest.mark.parametrize("end", ["release", "discard"])
async def test_claims_on_a_removed_backend_finish_and_are_closed(
    end: str, autojump_clock: MockClock
) -> None:
    """A claim outlives its backend; given back, its connection is closed and not lent again."""
    a, b = make_backends(2)
    connector = FatedConnector()
    async with a_pool(connector, [a]) as rig:
        claim = await rig.pool.acquire()
        conn = claim.connection
        rig.resolver.set([b])
        await pass_time(500)
        assert connector.open_to(a) == [conn]
        assert claim.backend == a
        assert rig.stats().departed == 1
        getattr(claim, end)()
        await settle()
        assert connector.open_to(a) == []
        assert rig.stats().departed == 0


async def test_a_dial_to_a_removed_backend_is_cancelled(autojump_clock: MockClock) -> None:
    """Dials to a backend are cancelled in the instant in which it is removed."""
    a, b = make_backends(2)
    connector = FatedConnector()
    connector.fate(a).connect = "hang"
    async with a_pool(connector, [a]) as rig:
        await pass_time(1)
        assert connector.dialling(a) == 8
        rig.resolver.set([b])
        await settle()
        assert connector.dialling(a) == 0
        assert len(connector.open_to(b)) == 8
        assert rig.stats().departed == 0


async def test_a_backoff_of_a_removed_backend_is_given_up(autojump_clock: MockClock) -> None:
    """A backend in back-off that leaves is not dialled again."""
    (a,) = make_backends(1)
    connector = FatedConnector(connect="fail")
    async with a_pool(connector, [a]) as rig:
        await pass_time(100)
        rig.resolver.set([])
        await settle()
        dials = len(connector.dials)
        assert rig.stats().slots == 0
        await pass_time(100)
        assert len(connector.dials) == dials


async def test_a_backend_that_comes_back_is_fresh(autojump_clock: MockClock) -> None:
    """A backend that is added again is dialled at once, without its earlier back-off."""
    (a,) = make_backends(1)
    connector = FatedConnector(connect="fail")
    async with a_pool(connector, [a], Policy(spares_wanted=4)) as rig:
        await pass_time(500)
        rig.resolver.set([])
        await settle()
        connector.recover(a)
        rig.resolver.set([a])
        await pass_time(0.1)
        stats = rig.stats().backends[a.name]
        assert (stats.unclaimed, stats.failures, stats.last_error) == (4, 0, None)


async def test_what_was_claimed_before_a_backend_left_is_not_lent_after_it_is_back(
    autojump_clock: MockClock,
) -> None:
    """A connection claimed before its backend left is closed on release, even if it is back."""
    (a,) = make_backends(1)
    connector = FatedConnector()
    async with a_pool(connector, [a], Policy(spares_wanted=2)) as rig:
        claim = await rig.pool.acquire()
        conn = claim.connection
        rig.resolver.set([])
        await settle()
        rig.resolver.set([a])
        await pass_time(1)
        stats = rig.stats()
        assert (stats.departed, stats.backends[a.name].claimed) == (1, 0)
        assert stats.backends[a.name].unclaimed == 2
        claim.release()
        await settle()
        assert not conn.is_open
        assert rig.stats().backends[a.name].total_claims == 0


@pytest.mark.parametrize("close_delay", [0.0, 0.05, 0.3])
@pytest.mark.parametrize("connect_delay", [0.0, 0.2])
async def test_ff29_add_remove_add_while_slots_are_stopping(
    connect_delay: float, close_delay: float, autojump_clock: MockClock
) -> None:
    """A backend that flaps faster than its connections close ends up with what it should have."""
    a, b = make_backends(2)
    connector = FatedConnector(connect_delay=connect_delay, close_delay=close_delay)
    async with a_pool(connector, [a, b], Policy(spares_wanted=6, max_slots=6)) as rig:
        for turn in range(40):
            rig.resolver.set([a, b] if turn % 2 else [a])
            await pass_time(0.11 * (turn % 4))
            assert_consistent(rig)
        rig.resolver.set([b])
        await pass_time(1)
        rig.resolver.set([a, b])
        await pass_time(200)
        assert connected(rig.stats()) == {a.name: 3, b.name: 3}
        assert rig.stats().departed == 0


async def test_sets_that_follow_each_other_without_a_pause_are_all_obeyed(
    autojump_clock: MockClock,
) -> None:
    """The last set of a burst holds, and what was in none of them is never dialled."""
    backends = make_backends(6)
    connector = FatedConnector(connect_delay=0.01)
    async with a_pool(connector, backends[:1]) as rig:
        await pass_time(1)
        for turn in range(100):
            rig.resolver.set(backends[turn % 3 : turn % 3 + 2])
        rig.resolver.set(backends[3:5])
        await pass_time(1)
        assert set(rig.stats().backends) == {"b3", "b4"}
        assert connected(rig.stats()) == {"b3": 4, "b4": 4}
        assert connector.dials_to(backends[5]) == []
        assert len(connector.open) == 8


async def test_ff30_a_known_name_at_a_new_address_is_a_new_backend(
    autojump_clock: MockClock,
) -> None:
    """The connections to the old address are closed, and the new address is dialled."""
    old = Backend(("10.0.0.1", 80), name="www")
    new = Backend(("10.0.0.2", 80), name="www")
    connector = FatedConnector()
    async with a_pool(connector, [old]) as rig:
        await pass_time(1)
        claim = await rig.pool.acquire()
        rig.resolver.set([new])
        await settle()
        assert [conn.backend for conn in connector.open] == [old] + [new] * 8
        stats = rig.stats()
        assert stats.backends["www"].backend.address == ("10.0.0.2", 80)
        assert (stats.departed, stats.backends["www"].claimed) == (1, 0)
        claim.release()
        await settle()
        assert connector.open_to(old) == []
        async with rig.pool.claim(timeout=0) as conn:
            assert conn.backend == new


async def test_equal_backends_count_once(autojump_clock: MockClock) -> None:
    """A resolver that names one backend three times has named one backend."""
    (a,) = make_backends(1)
    connector = FatedConnector()
    policy = Policy(set_config=SetConfig(max_count=3))
    async with a_pool(connector, [a, a, *make_backends(1)], policy) as rig:
        await pass_time(100)
        assert len(connector.dials) == 3
        assert list(rig.stats().backends) == [a.name]


async def test_an_empty_set_and_a_return_from_it(autojump_clock: MockClock) -> None:
    """Without backends claims wait, or fail saying so; with the next set they are served."""
    connector = FatedConnector()
    async with a_pool(connector, make_backends(2)) as rig, trio.open_nursery() as nursery:
        await pass_time(1)
        rig.resolver.set([])
        await settle()
        assert (connector.open, rig.stats().slots, dict(rig.stats().backends)) == ([], 0, {})
        nursery.start_soon(hold, rig.pool, 1.0)
        with pytest.raises(NoBackendsError):
            await rig.pool.acquire(timeout=5)
        rig.resolver.set(make_backends(1))
        await settle()
        assert rig.stats().backends["b0"].claimed == 1


async def test_rolling_replacement_of_all_backends_fails_no_claim(
    autojump_clock: MockClock,
) -> None:
    """While every backend is replaced one by one, claims go on and end at the newest ones."""
    backends = make_backends(12)
    connector = FatedConnector(connect_delay=0.02, close_delay=0.1)
    async with a_pool(connector, backends[:3]) as rig, trio.open_nursery() as nursery:

        async def churn() -> None:
            for first in range(1, 10):
                await trio.sleep(7)
                rig.resolver.set(backends[first : first + 3])

        nursery.start_soon(churn)
        nursery.start_soon(watch, 70, 0.37, lambda: assert_consistent(rig))
        served = await run_load(rig.pool, claimants=8, seconds=70, work=0.1, timeout=1)
        assert set(served.by_backend) == {each.name for each in backends}
        assert set(connected(rig.stats())) == {"b9", "b10", "b11"}


@pytest.mark.parametrize("seed", range(3))
async def test_random_churn_leaves_the_right_connections(
    seed: int, autojump_clock: MockClock
) -> None:
    """After any history of sets, the pool has the connections that the last set calls for."""
    rng = random.Random(seed)
    backends = make_backends(10)
    connector = FatedConnector(connect_delay=(0.0, 0.3), close_delay=0.2, seed=seed)
    async with a_pool(connector, backends, seed=seed) as rig:
        for _ in range(100):
            rig.resolver.set(rng.sample(backends, rng.randrange(11)))
            await pass_time(rng.choice([0.0, 0.01, 0.1, 1.0]))
            assert_consistent(rig)
        rig.resolver.set(backends[:4])
        await pass_time(300)
        assert connected(rig.stats()) == dict.fromkeys(("b0", "b1", "b2", "b3"), 2)
        assert len(connector.open) == 8


async def test_instruments_hear_of_backends_that_come_and_go(autojump_clock: MockClock) -> None:
    """Each backend goes online once, and offline once when it has left."""
    a, b = make_backends(2)
    connector = FatedConnector()
    recorder = Recorder()
    async with a_pool(connector, [a, b], instruments=[recorder]) as rig:
        await pass_time(1)
        assert sorted(name for _, name in recorder.online) == [a.name, b.name]
        assert recorder.offline == []
        rig.resolver.set([b])
        await settle()
        assert recorder.offline == [(1, a.name)]


# ------------------------------------------------------------ resolvers that end


async def test_a_resolver_that_returns_has_had_the_last_word(autojump_clock: MockClock) -> None:
    """After `run` returns the pool carries on with the last set, through an outage too."""
    connector = FatedConnector()
    (backend,) = make_backends(1)
    async with a_pool(connector, [backend]) as rig:
        rig.resolver.finish()
        await pass_time(1000)
        assert connected(rig.stats()) == {backend.name: 8}
        connector.crash(backend)
        await pass_time(100)
        connector.recover(backend)
        served = await run_load(rig.pool, claimants=2, seconds=10, work=0.1, timeout=40)
        assert served.total > 0


async def _crash(
    resolver: ManualResolver, connector: FatedConnector, cause: Callable[[], None]
) -> BaseExceptionGroup[BaseException]:
    """Open a pool, let `cause` befall it, and give back what came out of the nursery."""
    with pytest.raises(BaseExceptionGroup) as info:
        async with trio.open_nursery() as nursery, open_pool(nursery, resolver, connector) as pool:
            async with pool.claim():
                pass
            claim = await pool.acquire()
            cause()
            with trio.fail_after(60):
                await trio.sleep_forever()
    claim.release()
    connector.assert_clean()
    return info.value


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for each in group.exceptions:
        found += _leaves(each) if isinstance(each, BaseExceptionGroup) else [each]
    return found


@pytest.mark.parametrize("kind", [ValueError, OSError, BaseException])
async def test_a_resolver_that_raises_crashes_the_pool(
    kind: type[BaseException], autojump_clock: MockClock
) -> None:
    """The resolver's exception comes out of the caller's nursery, unchanged and alone."""
    resolver = ManualResolver(make_backends(2))
    boom = kind("the resolver is at its end")
    group = await _crash(resolver, FatedConnector(), lambda: resolver.fail(boom))
    assert _leaves(group) == [boom]
    assert trio.current_time() < 2


async def test_two_addresses_under_one_name_crash_the_pool(autojump_clock: MockClock) -> None:
    """Such a set is a bug of the resolver: a `ValueError` that names the name."""
    twins = [Backend(("10.0.0.1", 80), name="twin"), Backend(("10.0.0.2", 80), name="twin")]
    resolver = ManualResolver(make_backends(2))
    group = await _crash(resolver, FatedConnector(), lambda: resolver.set(twins))
    (error,) = _leaves(group)
    assert isinstance(error, ValueError)
    assert "twin" in str(error)


class _Careless(Resolver):
    """Sends what is no set of backends."""

    def __init__(self, bad: object) -> None:
        self.bad = bad

    async def run(self, updates: trio.MemorySendChannel[Collection[Backend]]) -> None:
        await updates.send(self.bad)  # type: ignore[arg-type]  # that is the point


@pytest.mark.parametrize("error_type", [ValueError, TypeError])
@pytest.mark.parametrize("bad", [None, "host:80", ("host", 80), 7])
@pytest.mark.parametrize("in_a_set", [False, True])
async def test_something_else_than_a_backend_crashes_the_pool(
    error_type: type[Exception], bad: object, in_a_set: bool, autojump_clock: MockClock
) -> None:
    """Anything but a set of backends is a bug of the resolver, and the error says what it is."""
    resolver = _Careless([bad] if in_a_set else bad)
    connector = FatedConnector()
    with pytest.raises(BaseExceptionGroup) as info:
        async with trio.open_nursery() as nursery, open_pool(nursery, resolver, connector):
            with trio.fail_after(60):
                await trio.sleep_forever()
    (error,) = _leaves(info.value)
    assert isinstance(error, error_type)
    first = bad if in_a_set or not isinstance(bad, str | tuple) else bad[0]
    assert repr(first) in str(error)
    connector.assert_clean()


async def test_claimants_of_a_crashed_pool_do_not_hang(autojump_clock: MockClock) -> None:
    """A claimant in another nursery than the pool's is told when the pool has crashed."""
    resolver = ManualResolver([])
    outcome: list[BaseException] = []
    async with trio.open_nursery() as outer:
        with pytest.raises(BaseExceptionGroup):
            async with (
                trio.open_nursery() as nursery,
                open_pool(nursery, resolver, FatedConnector()) as pool,
            ):

                async def claim() -> None:
                    try:
                        await hold(pool, 1.0)
                    except Exception as exc:
                        outcome.append(exc)

                outer.start_soon(claim)
                await settle()
                resolver.fail(OSError("gone"))
                await trio.sleep_forever()
        await settle()
        assert [type(exc).__name__ for exc in outcome] == ["PoolTerminatedError"]


@pytest.mark.parametrize("close", ["ok", "hang"])
async def test_closing_of_a_removed_backend_delays_its_successor_once(
    close: Act, autojump_clock: MockClock
) -> None:
    """At the cap, the successor is dialled when the old connections are closed: all together."""
    a, b = make_backends(2)
    connector = FatedConnector(close=close, close_delay=0.6)
    async with a_pool(connector, [a], Policy(max_slots=8)) as rig:
        await pass_time(1)
        rig.resolver.set([b])
        took = 0.6 if close == "ok" else SetConfig().disconnect_timeout
        await pass_time(took - 0.1)
        assert connector.dials_to(b) == []
        assert (rig.stats().slots, rig.stats().departed) == (8, 8)
        await pass_time(0.2)
        assert len(connector.open_to(b)) == 8


class _Sore(Resolver):
    """Cannot stop without an error."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def run(self, updates: trio.MemorySendChannel[Collection[Backend]]) -> None:
        try:
            await updates.send(make_backends(1))
            await trio.sleep_forever()
        finally:
            raise self.error


@pytest.mark.parametrize("body", [None, ValueError("of the body")])
async def test_a_resolver_that_raises_as_it_stops_is_heard(
    body: Exception | None, autojump_clock: MockClock
) -> None:
    """The resolver's error comes out of the nursery, and the body's still out of the block."""
    error = OSError("cannot stop")
    connector = FatedConnector()
    came_out: Exception | None = None
    with pytest.raises(BaseExceptionGroup) as info:
        async with trio.open_nursery() as nursery:
            try:
                async with open_pool(nursery, _Sore(error), connector) as pool:
                    await pool.wait_ready()
                    if body is not None:
                        raise body
            except ValueError as exc:
                came_out = exc
            connector.assert_clean()
    assert came_out is body
    assert _leaves(info.value) == [error]


async def test_a_crash_during_the_drain_ends_the_drain(autojump_clock: MockClock) -> None:
    """A cancellation of the caller's nursery during the drain ends the wait for claims."""
    connector = FatedConnector()
    boom = RuntimeError("elsewhere")

    async def crash() -> None:
        await trio.sleep(1)
        raise boom

    with pytest.raises(BaseExceptionGroup) as info:
        async with (
            trio.open_nursery() as nursery,
            open_pool(nursery, ManualResolver(make_backends(1)), connector) as pool,
        ):
            claim = await pool.acquire()
            nursery.start_soon(crash)
    assert _leaves(info.value) == [boom]
    assert trio.current_time() == pytest.approx(1)
    connector.assert_clean()
    claim.release()


class Late(Instrument):
    """Lets the clock jump as the first backend is removed, and notes checks that begin then."""

    def __init__(self, clock: MockClock) -> None:
        self.clock = clock
        self.gone: set[Backend] = set()
        self.late: list[Backend] = []

    def backend_removed(self, pool: str, backend: Backend) -> None:
        """Make all checks fall due, before the tasks of the slot sets are cancelled."""
        if not self.gone:
            self.clock.jump(15)
        self.gone.add(backend)

    def health_check_start(self, pool: str, slot_id: int, backend: Backend) -> None:
        """Note."""
        if backend in self.gone:
            self.late.append(backend)


async def test_many_backends_leave_as_their_checks_fall_due(autojump_clock: MockClock) -> None:
    """No check begins on a spare of a removed backend, although there are many to close."""
    old, new = make_backends(250, "old"), make_backends(2, "new")
    connector = FatedConnector()
    late = Late(autojump_clock)
    policy = Policy(spares_wanted=250, max_slots=500, set_config=SetConfig(health_interval=10))
    async with a_pool(connector, old, policy, instruments=[late]) as rig:
        await trio.sleep_until(5)
        rig.resolver.set(new)
        await pass_time(1)
        assert {conn.backend.name for conn in connector.open} == {"new0", "new1"}
        assert late.late == []
        assert trio.current_time() >= 20, "the clock has not jumped"


class LateDials(Instrument):
    """Notes each dial that begins at a backend that has left."""

    def __init__(self) -> None:
        self.gone: set[Backend] = set()
        self.late: list[Backend] = []

    def backend_added(self, pool: str, backend: Backend) -> None:
        """Forget that it had left."""
        self.gone.discard(backend)

    def backend_removed(self, pool: str, backend: Backend) -> None:
        """Note."""
        self.gone.add(backend)

    def connect_start(self, pool: str, slot_id: int, backend: Backend) -> None:
        """Note."""
        if backend in self.gone:
            self.late.append(backend)


async def test_many_backends_leave_as_they_are_dialled(autojump_clock: MockClock) -> None:
    """No dial begins to a removed backend, although there are many dials to cancel."""
    (rest,) = make_backends(1, "rest")
    instrument = LateDials()
    policy = Policy(spares_wanted=250, max_slots=500)
    async with a_pool(FatedConnector(), [rest], policy, instruments=[instrument]) as rig:
        await settle()
        for steps in range(16):
            rig.resolver.set(make_backends(250, f"old{steps}-"))
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            rig.resolver.set([rest])
            await pass_time(1)
            assert connected(rig.stats()) == {rest.name: 16}
    assert len(instrument.gone) == 16 * 250
    assert instrument.late == []
