"""Cases at the edges of a pool's life, and of its users' code."""

from __future__ import annotations

from collections.abc import Collection
from typing import NoReturn

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from qorb_trio import (
    Backend,
    Connector,
    NoBackendsOnlineError,
    Policy,
    Pool,
    PoolStats,
    Resolver,
    open_pool,
)
from qorb_trio._pool.membership import LARGE_SET
from qorb_trio.testing import FakeConnection, FakeConnector, ManualResolver, RecordingInstrument

from ..harness.fates import make_backends


async def clean_up_badly() -> NoReturn:
    """Wait for ever with a child that fails as it is cancelled, as a reader task may."""

    async def child() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.1)
            raise ConnectionResetError("in the clean-up")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(child)
        await trio.sleep_forever()
    raise AssertionError


class Untidy(FakeConnector):
    """Hooks that hang, and fail as they are cancelled."""

    async def connect(self, backend: Backend) -> FakeConnection:
        if backend.host == "bad.test":
            await clean_up_badly()
        return await super().connect(backend)

    async def on_acquire(self, conn: FakeConnection) -> None:
        if conn.number == 1:
            await clean_up_badly()

    async def on_recycle(self, conn: FakeConnection) -> None:
        await clean_up_badly()


async def test_failing_while_being_cancelled_harms_no_pool(autojump_clock: MockClock) -> None:
    """A hook that is cancelled and fails in one group is just cancelled, or just fails."""
    resolver = ManualResolver(["a.test:1", "bad.test:1"])
    connector = Untidy()
    async with trio.open_nursery() as nursery:
        async with open_pool(nursery, resolver, connector, policy=Policy(spares_wanted=2)) as pool:
            await trio.sleep(0.5)
            resolver.set(["a.test:1"])  # the dial to the other is cancelled
            await trio.sleep(1)
            async with pool.claim() as conn:  # whose on_acquire may hang until its timeout
                assert conn.number != 1
            await trio.sleep(0.1)  # and now it is in on_recycle
    connector.assert_all_closed()


@pytest.mark.parametrize("at", [0.5, 4.0])
async def test_failing_while_all_is_cancelled_is_no_crash(
    autojump_clock: MockClock, at: float
) -> None:
    """An error that a hook raises while the caller's nursery is cancelled does not come out."""
    connector = Untidy()
    async with trio.open_nursery() as nursery:
        resolver = ManualResolver(["a.test:1", "bad.test:1"])
        async with open_pool(nursery, resolver, connector):
            await trio.sleep(at)  # the first dial hangs, or one that came later
            nursery.cancel_scope.cancel()
    connector.assert_all_closed()


async def test_failing_in_a_clean_up_that_is_cancelled_is_no_crash(
    autojump_clock: MockClock,
) -> None:
    """An error of a clean-up that is cancelled with the caller's nursery does not come out."""
    connector = Untidy()
    async with trio.open_nursery() as nursery:
        resolver = ManualResolver(["a.test:1"])
        async with open_pool(nursery, resolver, connector) as pool:
            await pool.wait_ready(8)
            (await pool.acquire()).release()
            await trio.sleep(0.1)
            nursery.cancel_scope.cancel()
    connector.assert_all_closed()


class LateResolver(Resolver):
    """Sends a second set when it is told to."""

    def __init__(self) -> None:
        self.go = trio.Event()

    async def run(self, updates: trio.MemorySendChannel[Collection[Backend]]) -> None:
        await updates.send([Backend(("a.test", 1))])
        await self.go.wait()
        await updates.send([Backend(("a.test", 1)), Backend(("b.test", 2))])


@pytest.mark.parametrize("hops", range(5))
async def test_a_set_that_comes_as_the_pool_ends(autojump_clock: MockClock, hops: int) -> None:
    """A set of backends that is heard in the tick of the end starts nothing any more."""
    resolver = LateResolver()
    connector = FakeConnector()
    policy = Policy(rebalance_interval=1)
    async with trio.open_nursery() as nursery:
        async with open_pool(nursery, resolver, connector, policy=policy) as pool:
            await pool.wait_ready(8)
            claim = await pool.acquire()  # for a drain
            resolver.go.set()
            for _ in range(hops):
                await trio.lowlevel.checkpoint()
    connector.assert_all_closed()
    claim.release()


async def test_a_set_after_the_end_is_ignored(autojump_clock: MockClock) -> None:
    """A pool that has ended adopts no backend."""
    connector = FakeConnector()
    resolver = ManualResolver(["a.test:1"])
    async with trio.open_nursery() as nursery:
        async with open_pool(nursery, resolver, connector) as pool:
            await pool.wait_ready()
            await pool.terminate()
            resolver.set(["b.test:1"])
            await wait_all_tasks_blocked()
            assert list(pool.stats().backends) == ["a.test:1"]


class ShrinkingResolver(Resolver):
    """Takes nearly all out of a large list while a pool adopts a sample of it, and crashes."""

    def __init__(self) -> None:
        self.backends = make_backends(LARGE_SET + 1)
        self.events = RecordingInstrument()

    async def run(self, updates: trio.MemorySendChannel[Collection[Backend]]) -> None:
        await updates.send(self.backends)
        await self.events.wait_for("backend_added")
        del self.backends[1:]
        raise ConnectionResetError


async def test_a_set_that_shrinks_as_the_pool_ends(autojump_clock: MockClock) -> None:
    """A pool that has begun to end adopts nothing of the set that it was reading."""
    resolver = ShrinkingResolver()
    policy = Policy(max_slots=200, spares_wanted=200)
    with pytest.RaisesGroup(ConnectionResetError):
        async with (
            trio.open_nursery() as nursery,
            open_pool(
                nursery, resolver, FakeConnector(), policy=policy, instruments=[resolver.events]
            ),
        ):
            await trio.sleep_forever()
    assert 0 < len(resolver.events.of("backend_added")) < 100
    assert not resolver.events.of("backend_removed")


async def test_a_plan_wanted_at_the_tick(autojump_clock: MockClock) -> None:
    """A change in the very tick of the rebalance interval leaves the planner well."""
    connector = FakeConnector()
    policy = Policy(rebalance_interval=1, spares_wanted=1)
    resolver = ManualResolver(["a.test:1"])
    async with trio.open_nursery() as nursery:
        async with open_pool(nursery, resolver, connector, policy=policy) as pool:
            await pool.wait_ready()
            for _ in range(20):
                claims = [await pool.acquire() for _ in range(4)]
                await trio.sleep_until(trio.current_time() // 1 + 1)
                for claim in claims:
                    claim.discard()
            await trio.sleep(1.5)
            assert pool.stats().backends["a.test:1"].unclaimed == 1


def test_statistics_after_all_is_over() -> None:
    """A program may print the totals when Trio has ended."""
    pools: list[Pool[FakeConnection]] = []

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            resolver = ManualResolver(["a.test:1"])
            async with open_pool(nursery, resolver, FakeConnector()) as pool:
                pools.append(pool)
                async with pool.claim():
                    pass

    trio.run(main)
    stats: PoolStats = pools[0].stats()
    assert (stats.claims, stats.slots) == (1, 0)


async def test_a_group_of_the_resolver_stays_a_group(autojump_clock: MockClock) -> None:
    """An exception group that a resolver raises comes out with its message."""
    resolver = ManualResolver()
    with pytest.raises(ExceptionGroup) as caught:
        async with trio.open_nursery() as nursery:
            async with open_pool(nursery, resolver, FakeConnector()):
                resolver.fail(ExceptionGroup("from the resolver", [ValueError("a bug")]))
                await trio.sleep(1)
    (inner,) = caught.value.exceptions
    assert isinstance(inner, ExceptionGroup)
    assert inner.message == "from the resolver"


def test_a_group_stays_a_group_where_groups_are_not_strict() -> None:
    """In a run without strict exception groups the resolver's group comes out as it is."""
    group = ExceptionGroup("from the resolver", [ValueError("a bug")])

    async def main() -> None:
        resolver = ManualResolver()
        async with trio.open_nursery() as nursery:
            async with open_pool(nursery, resolver, FakeConnector()):
                resolver.fail(group)
                await trio.sleep_forever()

    with pytest.raises(ExceptionGroup) as caught, pytest.warns(trio.TrioDeprecationWarning):
        trio.run(main, strict_exception_groups=False)
    assert caught.value.message == group.message
    assert caught.value.exceptions == group.exceptions


class Untouchable:
    """A connection that cannot even be asked whether it can be closed."""

    @property
    def aclose(self) -> NoReturn:
        """Raise."""
        raise ValueError("not now")


class ConnectsUntouchables(Connector[Untouchable]):
    """Returns one such connection after the other."""

    async def connect(self, backend: Backend) -> Untouchable:
        """Return another."""
        return Untouchable()


async def test_a_connection_that_cannot_be_asked(autojump_clock: MockClock) -> None:
    """A connection whose attributes raise is closed as well as can be, and the pool ends."""
    async with trio.open_nursery() as nursery:
        resolver = ManualResolver(["a.test:1"])
        async with open_pool(nursery, resolver, ConnectsUntouchables()) as pool:
            claim = await pool.acquire()
            claim.discard()
            await trio.sleep(1)
            assert isinstance(pool.stats().backends["a.test:1"].last_error, ValueError)
    assert pool.stats().slots == 0


class UnspeakableError(Exception):
    """An exception that cannot even be shown."""

    def __repr__(self) -> str:
        raise RuntimeError


async def test_an_error_that_cannot_be_shown(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception whose ``repr`` raises is a failure like any other."""
    caplog.set_level("CRITICAL", logger="qorb_trio")  # pytest's handler would raise
    connector = FakeConnector()
    connector.fail(None, UnspeakableError())
    async with trio.open_nursery() as nursery:
        async with open_pool(nursery, ManualResolver(["a.test:1"]), connector) as pool:
            with pytest.raises(NoBackendsOnlineError, match="UnspeakableError"):
                async with pool.claim(timeout=1):
                    raise AssertionError


async def test_what_is_ready_stays_ready(autojump_clock: MockClock) -> None:
    """Connections that `wait_ready` waited for are not closed at once as surplus."""
    policy = Policy(spares_wanted=0)
    async with trio.open_nursery() as nursery:
        resolver = ManualResolver(["a.test:1"])
        async with open_pool(nursery, resolver, FakeConnector(), policy=policy) as pool:
            await pool.wait_ready(4)
            await trio.testing.wait_all_tasks_blocked()
            assert pool.stats().backends["a.test:1"].unclaimed == 4


@pytest.mark.parametrize("name", ["is_broken", "should_recycle"])
async def test_a_synchronous_hook_must_not_be_async(nursery: trio.Nursery, name: str) -> None:
    """A coroutine in place of an answer would always count as "yes"."""

    async def hook(*args: object) -> bool:
        raise AssertionError

    connector = FakeConnector()
    setattr(connector, name, hook)
    with pytest.raises(TypeError, match=f"{name} must not be async"):
        open_pool(nursery, ManualResolver(["a.test:1"]), connector)


async def test_entering_an_acquired_claim_says_what_to_do(nursery: trio.Nursery) -> None:
    """``async with await pool.acquire()`` is refused with a hint."""
    async with open_pool(nursery, ManualResolver(["a.test:1"]), FakeConnector()) as pool:
        claim = await pool.acquire()
        with pytest.raises(RuntimeError, match="it is held"):
            await claim.__aenter__()
        claim.release()
        with pytest.raises(RuntimeError, match="call claim"):
            await claim.__aenter__()


class Ending(Connector[object]):
    """Tries to end the pool from within."""

    pool: Pool[object]

    async def connect(self, backend: Backend) -> object:
        await self.pool.terminate()
        raise AssertionError


async def test_a_hook_cannot_wait_for_the_end(autojump_clock: MockClock) -> None:
    """``terminate()`` in a hook is that hook's failure, not a deadlock."""
    connector = Ending()
    async with trio.open_nursery() as nursery:
        resolver = ManualResolver()
        async with open_pool(nursery, resolver, connector) as pool:
            connector.pool = pool
            resolver.set(["a.test:1"])
            await trio.sleep(1)
            error = pool.stats().backends["a.test:1"].last_error
            assert isinstance(error, RuntimeError)
