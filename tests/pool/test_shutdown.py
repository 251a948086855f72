"""Leaving the block, by whatever way and at whatever moment, ends everything in bounded time."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Literal, TypeAlias

import attrs
import pytest
import trio
from trio.testing import MockClock

from qorb_trio import Backend, Claim, Policy, Pool, PoolTerminatedError, SetConfig, open_pool
from qorb_trio.abc import Resolver
from qorb_trio.testing import ManualResolver

from ..harness import LedgerConnection
from ..harness.fates import (
    Act,
    Fate,
    FatedConnector,
    a_pool,
    hold,
    make_backends,
    pass_time,
    run_load,
    settle,
)

Way: TypeAlias = Literal["normally", "by exception", "by cancellation", "terminate"]
WAYS: list[Way] = ["normally", "by exception", "by cancellation", "terminate"]

DRAIN = Policy().drain_timeout
DISCONNECT = SetConfig().disconnect_timeout


@asynccontextmanager
async def left(
    way: Way, resolver: Resolver, connector: FatedConnector, policy: Policy | None = None
) -> AsyncIterator[Pool[LedgerConnection]]:
    """Open a pool for the length of the block, then leave it in this way, and audit it."""
    boom, caught = ValueError("boom"), None
    policy = Policy() if policy is None else policy
    connector.max_slots = policy.max_slots
    connector.max_count = policy.set_config.max_count
    async with trio.open_nursery() as nursery:
        try:
            async with open_pool(nursery, resolver, connector, policy=policy) as pool:
                yield pool
                if way == "by exception":
                    raise boom
                if way == "by cancellation":
                    nursery.cancel_scope.cancel()
                    await trio.sleep_forever()
                if way == "terminate":
                    await pool.terminate()
                    assert not connector.open
        except ValueError as exc:
            caught = exc
        assert caught is (boom if way == "by exception" else None)
        assert boom.__context__ is None
        assert not nursery.child_tasks, "the pool left tasks behind"
        connector.assert_clean()
    connector.assert_clean()


class _Hung(Resolver):
    """Names one backend, and then hangs in the middle of something."""

    async def run(self, updates: trio.MemorySendChannel[Collection[Backend]]) -> None:
        await updates.send(make_backends(1))
        await trio.sleep_forever()


class _SlowToStop(Resolver):
    """Needs a second to stop, once it is cancelled."""

    async def run(self, updates: trio.MemorySendChannel[Collection[Backend]]) -> None:
        try:
            await updates.send(make_backends(1))
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)


class _Mute(Resolver):
    """Never names any backend."""

    async def run(self, updates: trio.MemorySendChannel[Collection[Backend]]) -> None:
        await trio.sleep_forever()


@attrs.frozen
class Hazard:
    """A state of the pool at the time at which its block is left."""

    fate: Fate
    resolver: type[Resolver] = _Hung
    #: Seconds that the pool runs before its block is left.
    after: float = 1.0
    #: Maximum seconds that stopping may take.
    within: float = 0.0


HAZARDS = {
    "a hung dial": Hazard(Fate(connect="hang")),
    "a hung dial that returns a connection": Hazard(Fate(connect="hang", connect_stubborn=True)),
    "a hung dial that returns a connection late": Hazard(
        Fate(connect="hang", connect_stubborn=True, connect_linger=0.7), within=0.7
    ),
    "a dial that is slow to give up": Hazard(Fate(connect="hang", connect_linger=0.7), within=0.7),
    "a dial just begun": Hazard(Fate(connect_delay=0.5), after=0.0),
    "a back-off": Hazard(Fate(connect="fail"), after=100.0),
    "a check": Hazard(Fate(check="hang"), after=31.0),
    "a disconnect that hangs": Hazard(Fate(close="hang"), within=DISCONNECT),
    "disconnects that take long": Hazard(Fate(close_delay=0.9), within=0.9),
    "a disconnect that fails": Hazard(Fate(close="fail")),
    "a mute resolver": Hazard(Fate(), resolver=_Mute),
    "a resolver slow to stop": Hazard(Fate(), resolver=_SlowToStop, within=1.0),
    "nothing at all": Hazard(Fate()),
    "nothing yet": Hazard(Fate(), after=0.0),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", HAZARDS)
async def test_ff35_nothing_holds_up_the_end(
    name: str, way: Way, autojump_clock: MockClock
) -> None:
    """In the middle of anything, the pool ends in bounded time and closes all it had once."""
    hazard = HAZARDS[name]
    connector = FatedConnector(**attrs.asdict(hazard.fate))
    async with left(way, hazard.resolver(), connector):
        pool_left = trio.current_time()
        if hazard.after:
            await pass_time(hazard.after)
            pool_left = trio.current_time()
    assert trio.current_time() - pool_left <= hazard.within + 0.01


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("close", ["ok", "hang"])
@pytest.mark.parametrize("recycle", ["hang", "fail"])
async def test_ff35_a_returned_connection_does_not_hold_up_the_end(
    recycle: Act, close: Act, way: Way, autojump_clock: MockClock
) -> None:
    """Connections that are being recycled, or closed after it, are closed with the rest."""
    connector = FatedConnector(recycle=recycle, close=close)
    async with left(way, ManualResolver(make_backends(1)), connector) as pool:
        await pass_time(1)
        for _ in range(4):
            async with pool.claim():
                pass
        await pass_time(0.5)
        pool_left = trio.current_time()
    bound = DISCONNECT if close == "hang" else 0.0
    assert trio.current_time() - pool_left <= bound + 0.01


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("backends", [0, 1, 5])
async def test_ff34_no_connection_is_leaked(
    backends: int, way: Way, autojump_clock: MockClock
) -> None:
    """A pool in full use, with claims, waiters and returns, leaves nothing behind."""
    connector = FatedConnector(connect_delay=0.05, recycle_delay=0.05, close_delay=0.05)
    resolver = ManualResolver(make_backends(backends))
    async with trio.open_nursery() as outside, left(way, resolver, connector) as pool:

        async def worker() -> None:
            try:
                while True:
                    await hold(pool, 0.1)
            except PoolTerminatedError:
                pass

        for _ in range(30):
            outside.start_soon(worker)
        await pass_time(3.21)
    assert trio.current_time() <= 3.21 + DRAIN + DISCONNECT
    if backends:
        assert len(connector.conns) == 16


# ------------------------------------------------------------------------- draining


async def test_leaving_normally_waits_for_claims(autojump_clock: MockClock) -> None:
    """A claim that ends within the drain is not disturbed, and ends the wait."""
    connector = FatedConnector()
    async with trio.open_nursery() as outside:
        async with a_pool(connector, make_backends(1)) as rig:
            await rig.pool.wait_ready()
            outside.start_soon(hold, rig.pool, 2.0)
            await settle()
        assert trio.current_time() == pytest.approx(2)


@pytest.mark.parametrize("drain", [0.0, 0.5, 5.0])
async def test_ff37_a_claim_that_never_ends_is_cut_off(
    drain: float, autojump_clock: MockClock
) -> None:
    """After ``drain_timeout`` connections in use are closed too, and late releases are harmless."""
    connector = FatedConnector()
    async with a_pool(connector, make_backends(1), Policy(drain_timeout=drain)) as rig:
        first = await rig.pool.acquire()
        second = await rig.pool.acquire()
        conn = first.connection
    assert trio.current_time() == pytest.approx(drain)
    assert conn.closing_at == pytest.approx(drain)
    first.release()
    second.discard()
    await settle()
    connector.assert_clean()
    with pytest.raises(RuntimeError):
        first.release()


async def test_an_endless_drain_waits_as_long_as_it_takes(autojump_clock: MockClock) -> None:
    """With ``drain_timeout=math.inf`` the claims decide when the pool ends."""
    connector = FatedConnector()
    async with trio.open_nursery() as outside:
        async with a_pool(connector, make_backends(1), Policy(drain_timeout=math.inf)) as rig:
            await rig.pool.wait_ready()
            outside.start_soon(hold, rig.pool, 5000.0)
            await settle()
        assert trio.current_time() == pytest.approx(5000)


@pytest.mark.parametrize("way", ["by exception", "by cancellation"])
async def test_no_drain_in_a_hurry(way: Way, autojump_clock: MockClock) -> None:
    """By exception or cancellation, connections in use are closed without a drain."""
    connector = FatedConnector()
    claims: list[Claim[LedgerConnection]] = []
    async with left(way, ManualResolver(make_backends(1)), connector) as pool:
        claims += [await pool.acquire() for _ in range(3)]
    assert trio.current_time() == 0
    for claim in claims:
        claim.release()


@pytest.mark.parametrize("way", WAYS)
async def test_waiting_claimants_are_told_at_once(way: Way, autojump_clock: MockClock) -> None:
    """Parked claimants fail when the pool is left, and not after the drain."""
    connector = FatedConnector()
    told: list[float] = []
    policy = Policy(max_slots=1)

    async def wait(pool: Pool[LedgerConnection]) -> None:
        with pytest.raises(PoolTerminatedError) as info:
            await hold(pool, 1.0)
        assert info.value.pool == pool.name
        told.append(trio.current_time())

    async with trio.open_nursery() as outside:
        resolver = ManualResolver(make_backends(1))
        async with left(way, resolver, connector, policy) as pool:
            claim = await pool.acquire()
            for _ in range(5):
                outside.start_soon(wait, pool)
            await pass_time(1)
            assert pool.stats().waiting == 5
        claim.release()
    assert told == [pytest.approx(1)] * 5


async def test_nothing_is_lent_during_the_drain(autojump_clock: MockClock) -> None:
    """While claims drain, a new claim fails at once, even with spares at hand."""
    connector = FatedConnector()
    failed: list[float] = []

    async def latecomer(pool: Pool[LedgerConnection]) -> None:
        await trio.sleep(2)
        with pytest.raises(PoolTerminatedError):
            await pool.acquire()
        failed.append(trio.current_time())

    async with trio.open_nursery() as outside, a_pool(connector, make_backends(1)) as rig:
        await rig.pool.wait_ready(8)
        outside.start_soon(hold, rig.pool, 4.0)
        outside.start_soon(latecomer, rig.pool)
        await settle()
    assert failed == [pytest.approx(2)]
    assert trio.current_time() == pytest.approx(4)


async def test_nothing_is_dialled_during_the_drain(autojump_clock: MockClock) -> None:
    """A pool that is being left opens nothing any more, and does not wait for its dials."""
    connector = FatedConnector(connect_delay=1.0)
    async with trio.open_nursery() as outside:
        async with a_pool(connector, make_backends(1)) as rig:
            await rig.pool.wait_ready()
            outside.start_soon(hold, rig.pool, 4.0)
            await settle()
            connector.fate("b0").connect = "hang"
            dials = len(connector.dials)
        assert len(connector.dials) == dials or connector.dials[-1].started <= 1.0
        assert trio.current_time() == pytest.approx(5)


@pytest.mark.parametrize("connections", [1, 16])
async def test_closing_is_concurrent(connections: int, autojump_clock: MockClock) -> None:
    """Any number of hung disconnects are cut short at the same time."""
    connector = FatedConnector(close="hang")
    policy = Policy(spares_wanted=connections, set_config=SetConfig(disconnect_timeout=3))
    async with a_pool(connector, make_backends(4), policy) as rig:
        await rig.pool.wait_ready(connections)
    assert len(connector.conns) == connections
    assert trio.current_time() == pytest.approx(3)


async def test_ff36_a_dial_that_completes_during_the_end_is_closed(
    autojump_clock: MockClock,
) -> None:
    """A connection that arrives after the pool has begun to end is closed, not pooled."""
    connector = FatedConnector(connect="hang", connect_linger=0.4, connect_stubborn=True)
    async with a_pool(connector, make_backends(2)) as rig:
        await pass_time(1)
        assert connector.dialling(*make_backends(2)) == 8
        assert sum(each.connecting for each in rig.stats().backends.values()) == 8
    assert len(connector.conns) == 8
    assert all(conn.closing_at == pytest.approx(1.4) for conn in connector.conns)


async def test_cancelled_while_it_drains(autojump_clock: MockClock) -> None:
    """A cancellation that arrives during the drain ends the drain."""
    connector = FatedConnector()
    with trio.move_on_after(2) as scope:
        async with a_pool(connector, make_backends(1)) as rig:
            claim = await rig.pool.acquire()
    assert scope.cancelled_caught
    assert trio.current_time() == pytest.approx(2)
    connector.assert_clean()
    claim.release()


async def test_cancelled_while_it_closes(autojump_clock: MockClock) -> None:
    """Closing is shielded: a cancellation does not cut it shorter than its timeout."""
    connector = FatedConnector(close_delay=0.8)
    with trio.move_on_after(0.3):
        async with a_pool(connector, make_backends(1)) as rig:
            await rig.pool.wait_ready()
    assert trio.current_time() == pytest.approx(0.8)
    connector.assert_clean()


# ------------------------------------------------------------- terminate() and aclose()


@pytest.mark.parametrize("how", ["terminate", "aclose"])
async def test_ending_early_ends_everything(how: str, autojump_clock: MockClock) -> None:
    """After an early end all is closed, claims fail, statistics still answer."""
    connector = FatedConnector()
    async with a_pool(connector, make_backends(2), Policy(claim_timeout=math.inf)) as rig:
        await rig.pool.wait_ready(8)
        await getattr(rig.pool, how)()
        connector.assert_clean()
        assert trio.current_time() == 0
        stats = rig.stats()
        assert (stats.slots, stats.departed, stats.waiting) == (0, 0, 0)
        with pytest.raises(PoolTerminatedError):
            await rig.pool.acquire()
        with pytest.raises(PoolTerminatedError):
            async with rig.pool.claim(timeout=0):
                pytest.fail("a claim was granted by a pool that has ended")
        await pass_time(1000)
        rig.resolver.set(make_backends(5))
        await pass_time(1000)
        assert len(connector.dials) == 8


@pytest.mark.parametrize("way", WAYS)
async def test_ending_twice_does_nothing_more(way: Way, autojump_clock: MockClock) -> None:
    """A second call, of either name, returns at once; leaving the block afterwards does too."""
    connector = FatedConnector(close_delay=0.5)
    async with left(way, ManualResolver(make_backends(1)), connector) as pool:
        await pool.wait_ready()
        await pool.terminate()
        assert trio.current_time() == pytest.approx(0.5)
        await pool.terminate()
        await pool.aclose()
    assert trio.current_time() == pytest.approx(0.5)


async def test_ending_from_several_tasks_at_once(autojump_clock: MockClock) -> None:
    """All who end the pool at the same time return when it has ended, and none before."""
    connector = FatedConnector(close_delay=0.5)
    ended: list[float] = []
    async with a_pool(connector, make_backends(1)) as rig:
        claim = await rig.pool.acquire()

        async def end() -> None:
            await rig.pool.aclose()
            connector.assert_clean()
            ended.append(trio.current_time())

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(end)
            await pass_time(2)
            assert ended == []
            claim.release()
    assert ended == [pytest.approx(2.5)] * 3


async def test_ending_from_inside_a_claim(autojump_clock: MockClock) -> None:
    """`terminate`, called while holding a claim, waits for the drain, not for ever."""
    connector = FatedConnector()
    async with a_pool(connector, make_backends(1)) as rig:
        async with rig.pool.claim() as conn:
            await rig.pool.terminate()
            assert trio.current_time() == pytest.approx(DRAIN)
            assert not conn.is_open
        connector.assert_clean()


@pytest.mark.parametrize("at", [0.0, 2.0, 5.3])
async def test_ending_that_is_cancelled_midway(at: float, autojump_clock: MockClock) -> None:
    """A cancelled `terminate` leaves the pool ended, or ending, and nothing is lost."""
    connector = FatedConnector(close_delay=0.6)
    async with a_pool(connector, make_backends(1)) as rig:
        claim = await rig.pool.acquire()
        with trio.CancelScope(deadline=trio.current_time() + at):
            await rig.pool.terminate()
        assert trio.current_time() <= max(at, DRAIN) + 0.6 + 0.01
        with pytest.raises(PoolTerminatedError):
            await rig.pool.acquire()
        await rig.pool.aclose()
        connector.assert_clean()
    claim.release()
    assert trio.current_time() <= DRAIN + 0.6 + 0.01


async def test_ending_wakes_those_who_wait(autojump_clock: MockClock) -> None:
    """Claimants that are parked when another task ends the pool are told so."""
    connector = FatedConnector(connect="hang")
    async with a_pool(connector, make_backends(1)) as rig, trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(PoolTerminatedError):
                await hold(rig.pool, 1.0)

        for _ in range(3):
            nursery.start_soon(wait)
        await pass_time(1)
        await rig.pool.terminate()
    assert trio.current_time() == pytest.approx(1)


async def test_ending_before_anything_has_begun(autojump_clock: MockClock) -> None:
    """A pool that is ended in the instant in which it was opened has done nothing."""
    connector = FatedConnector()
    async with a_pool(connector, make_backends(1)) as rig:
        await rig.pool.terminate()
    connector.assert_clean()
    assert trio.current_time() == 0


async def test_the_callers_nursery_outlives_the_pool(autojump_clock: MockClock) -> None:
    """Pools may be opened one after another, and side by side, in one nursery."""
    first, second, third = FatedConnector(), FatedConnector(), FatedConnector()
    async with trio.open_nursery() as nursery:
        async with open_pool(nursery, ManualResolver(make_backends(1)), first) as pool:
            await run_load(pool, claimants=3, seconds=1)
        first.assert_clean()
        async with (
            open_pool(nursery, ManualResolver(make_backends(1)), second, name="two") as two,
            open_pool(nursery, ManualResolver(make_backends(1)), third, name="three") as three,
        ):
            await run_load(two, claimants=3, seconds=1)
            await two.terminate()
            second.assert_clean()
            await run_load(three, claimants=3, seconds=1)
        third.assert_clean()
        assert not nursery.child_tasks


@pytest.mark.parametrize("how", ["by leaving", "by terminate()"])
async def test_an_end_that_is_cancelled_is_an_end(how: str, autojump_clock: MockClock) -> None:
    """A cancelled wait for the pool's end returns when all is closed, and not before."""
    connector = FatedConnector(close_delay=0.5)
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            async with open_pool(nursery, ManualResolver(make_backends(1)), connector) as pool:
                await pool.wait_ready()
                scope.deadline = trio.current_time() + 0.2
                if how == "by terminate()":
                    await pool.terminate()
        connector.assert_clean()
        assert scope.cancelled_caught


async def test_a_second_end_prolongs_no_drain(autojump_clock: MockClock) -> None:
    """The drain is counted from the first call that ends the pool."""
    connector = FatedConnector()
    async with a_pool(connector, make_backends(1)) as rig:
        claim = await rig.pool.acquire()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.pool.terminate)
            await pass_time(3)
            await rig.pool.terminate()
        assert trio.current_time() == pytest.approx(DRAIN)
        claim.release()


@pytest.mark.parametrize("steps", range(8))
async def test_a_set_may_come_in_the_step_in_which_the_pool_ends(
    steps: int, autojump_clock: MockClock
) -> None:
    """The end may begin in any step of a set's way to the pool: nothing stays open."""
    connector = FatedConnector()
    old, new = make_backends(2, "old"), make_backends(2, "new")
    async with a_pool(connector, old) as rig:
        await rig.pool.wait_ready(2)
        rig.resolver.set(new)
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
        await rig.pool.terminate()
        assert connector.open == []
