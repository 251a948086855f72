"""`Pool.suspend`, `Pool.resume` and `Pool.wait_idle`."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from qorb_trio import (
    AllClaimsUsedError,
    ClaimError,
    NoBackendsOnlineError,
    Policy,
    Pool,
    PoolTerminatedError,
    open_pool,
)
from qorb_trio._pool.phase import NEXT_PHASE, Phase
from qorb_trio.testing import FakeConnection, FakeConnector, HookedFakeConnector, ManualResolver

from ..harness import backends, open_bench, policy_of


@asynccontextmanager
async def pool_of(
    slots: int, connector: FakeConnector | None = None, **fields: Any
) -> AsyncIterator[Pool[FakeConnection]]:
    """A pool over one backend with that many spares."""
    fields = {"max_slots": slots, "spares_wanted": slots, "drain_timeout": 5, **fields}
    async with trio.open_nursery() as nursery:
        async with open_pool(
            nursery,
            ManualResolver(backends("a")),
            connector or FakeConnector(),
            policy=policy_of(**fields),
        ) as pool:
            await pool.wait_ready(slots)
            yield pool


class Clients:
    """Claims by several tasks: in which order and when they were served, or why not."""

    def __init__(self, pool: Pool[Any], nursery: trio.Nursery) -> None:
        self.pool = pool
        self.nursery = nursery
        self.served: list[tuple[int, float]] = []
        self.errors: list[tuple[float, ClaimError]] = []

    async def start(self, *numbers: int, hold: float = 1, **options: Any) -> None:
        """Start them one after the other, and let them wait."""
        for number in numbers:
            self.nursery.start_soon(self._run, number, hold, options)
            await wait_all_tasks_blocked()

    async def _run(self, number: int, hold: float, options: dict[str, Any]) -> None:
        try:
            async with self.pool.claim(**options):
                self.served.append((number, trio.current_time()))
                await trio.sleep(hold)
        except ClaimError as exc:
            self.errors.append((trio.current_time(), exc))


def test_the_phases() -> None:
    """A pool that is suspended may go on or end; once it has begun to end it only ends."""
    assert NEXT_PHASE[Phase.SUSPENDED] == {Phase.OPEN, Phase.DRAINING, Phase.CLOSING}
    ending = [Phase.DRAINING, Phase.CLOSING, Phase.CLOSED]
    assert {it for phase in ending for it in NEXT_PHASE[phase]} <= set(ending)
    assert set(NEXT_PHASE) == set(Phase)


async def test_nothing_is_lent_while_suspended(autojump_clock: MockClock) -> None:
    """Claimants park beside spares, and `resume` serves them in order, in one step."""
    async with pool_of(2) as pool, trio.open_nursery() as nursery:
        clients = Clients(pool, nursery)
        pool.suspend()
        suspended: bool = pool.is_suspended
        assert suspended
        await clients.start(1, 2, 3)
        assert pool.stats().waiting == 3
        assert pool.stats().backends["a"].unclaimed == 2
        with pytest.raises(trio.WouldBlock):
            pool.claim_nowait()
        await trio.sleep(5)
        assert not clients.served
        began = trio.current_time()
        pool.resume()
        assert pool.stats().waiting == 1
        assert pool.stats().backends["a"].claimed == 2
        assert not pool.is_suspended
        await trio.sleep(2)
    assert [number for number, _ in clients.served] == [1, 2, 3]
    assert [time - began for _, time in clients.served] == [0, 0, 1]


async def test_returns_become_spares(autojump_clock: MockClock) -> None:
    """A connection that comes back is kept, and not handed to those who wait."""
    connector = HookedFakeConnector()
    async with pool_of(2, connector) as pool, trio.open_nursery() as nursery:
        clients = Clients(pool, nursery)
        held = [await pool.acquire(), await pool.acquire()]
        await clients.start(1)
        pool.suspend()
        for claim in held:
            claim.release()
        await wait_all_tasks_blocked()  # they are recycled first
        stats = pool.stats()
        assert (stats.waiting, stats.backends["a"].unclaimed) == (1, 2)
        assert connector.disconnects == 0
        pool.resume()
        await trio.sleep(2)
        assert [number for number, _ in clients.served] == [1]


async def test_a_new_connection_becomes_a_spare(autojump_clock: MockClock) -> None:
    """A suspended pool dials for waiting claimants, but keeps the new connections."""
    connector = FakeConnector(connect_delay=1)
    async with pool_of(1, connector, max_slots=4) as pool, trio.open_nursery() as nursery:
        clients = Clients(pool, nursery)
        pool.suspend()
        await clients.start(1, 2, 3, hold=0)
        await trio.sleep(2)
        stats = pool.stats()
        assert (stats.waiting, stats.backends["a"].unclaimed) == (3, 4)
        pool.resume()
        assert pool.stats().waiting == 0
        await wait_all_tasks_blocked()
        assert sorted(number for number, _ in clients.served) == [1, 2, 3]


async def test_timeouts_run_while_suspended(autojump_clock: MockClock) -> None:
    """A claim whose time is up gets `AllClaimsUsedError`, with a message that says why."""
    async with pool_of(2) as pool, trio.open_nursery() as nursery:
        clients = Clients(pool, nursery)
        pool.suspend()
        await clients.start(1, timeout=2)
        await clients.start(2, timeout=3)
        await trio.sleep(10)
        with pytest.raises(AllClaimsUsedError, match="the pool is suspended"):
            await pool.acquire(timeout=0)
    assert [time for time, _ in clients.errors] == [2, 3]
    first, second = (exc for _, exc in clients.errors)
    assert type(first) is type(second) is AllClaimsUsedError
    assert str(first) == (
        "pool 'pool': no connection in time: the pool is suspended, 2 claimants wait"
        " (see Pool.resume)"
    )
    assert "1 claimant waits" in str(second)


async def test_suspended_without_any_connection(autojump_clock: MockClock) -> None:
    """A claim is told that the pool is suspended, even if no backend is online."""
    connector = FakeConnector()
    async with pool_of(1, connector) as pool:
        pool.suspend()
        connector.fail()
        for conn in connector.open:
            connector.break_connection(conn)
        with pytest.raises(AllClaimsUsedError, match="suspended"):
            await pool.acquire(timeout=5)
        pool.resume()
        with pytest.raises(NoBackendsOnlineError):
            await pool.acquire(timeout=5)


async def test_suspend_and_resume_twice(autojump_clock: MockClock) -> None:
    """`suspend` is idempotent, and `resume` without it does nothing."""
    async with pool_of(1) as pool:
        pool.resume()
        async with pool.claim():
            pass
        pool.suspend()
        pool.suspend()
        pool.resume()
        pool.resume()
        async with pool.claim():
            pass


async def test_the_end_refuses_those_who_wait(autojump_clock: MockClock) -> None:
    """A pool that ends while suspended fails its waiting claimants, and drains the others."""
    async with trio.open_nursery() as nursery:
        async with pool_of(2) as pool:
            clients = Clients(pool, nursery)
            await clients.start(1, hold=2)
            pool.suspend()
            await clients.start(2, 3)
            began = trio.current_time()
            await pool.terminate()
            assert not pool.is_suspended
            assert trio.current_time() == began + 2
    assert [type(exc) for _, exc in clients.errors] == [PoolTerminatedError] * 2
    assert [time for time, _ in clients.errors] == [began, began]


async def test_suspending_what_has_ended(autojump_clock: MockClock) -> None:
    """On a pool that is ending or has ended, both do nothing."""
    async with pool_of(1, drain_timeout=2) as pool, trio.open_nursery() as nursery:
        claim = await pool.acquire()
        nursery.start_soon(pool.terminate)
        await trio.sleep(1)
        pool.suspend()
        assert not pool.is_suspended
        pool.resume()
        with pytest.raises(PoolTerminatedError):
            await pool.acquire()
        claim.release()
    pool.suspend()
    pool.resume()
    assert pool.is_closed
    assert not pool.is_suspended


async def test_one_in_on_acquire_goes_on(autojump_clock: MockClock) -> None:
    """A claimant that is being set up is served; if that fails, it waits for `resume`."""
    connector = HookedFakeConnector()
    async with pool_of(2, connector) as pool, trio.open_nursery() as nursery:
        clients = Clients(pool, nursery)
        connector.slow(None, 1, on="on_acquire")
        await clients.start(1)
        pool.suspend()
        await trio.sleep(1.5)
        assert [number for number, _ in clients.served] == [1]
        pool.resume()
        connector.fail(None, on="on_acquire")
        await clients.start(2)
        pool.suspend()
        await trio.sleep(2)
        connector.heal()
        await trio.sleep(2)
        assert pool.stats().waiting == 1
        pool.resume()
        await wait_all_tasks_blocked()
        assert [number for number, _ in clients.served] == [1, 2]


async def test_broken_spares_are_replaced_as_a_pool_is_resumed(autojump_clock: MockClock) -> None:
    """Connections that broke meanwhile are closed, and new ones serve the claimants."""
    connector = FakeConnector()
    async with pool_of(3, connector) as pool, trio.open_nursery() as nursery:
        clients = Clients(pool, nursery)
        pool.suspend()
        await clients.start(1, 2, 3)
        for conn in connector.open[:2]:
            connector.break_connection(conn)
        pool.resume()
        await trio.sleep(0.5)
        assert sorted(number for number, _ in clients.served) == [1, 2, 3]
        assert clients.served[0][0] == 1


async def test_the_rules_of_the_queue_while_suspended(autojump_clock: MockClock) -> None:
    """`queue_target` and `fail_fast_after` refuse nobody; afterwards they hold again."""
    connector = FakeConnector()
    async with pool_of(
        1, connector, queue_target=0.05, fail_fast_after=1, claim_timeout=100
    ) as pool:
        async with trio.open_nursery() as nursery:
            clients = Clients(pool, nursery)
            pool.suspend()
            await clients.start(1, 2, hold=0)
            connector.crash("a")
            await trio.sleep(50)
            assert not clients.errors
            connector.heal()
            await trio.sleep(5)
            pool.resume()
            await trio.sleep(1)
            assert [number for number, _ in clients.served] == [1, 2]
            connector.crash("a")
            pool.suspend()
            await clients.start(3)
            await trio.sleep(50)
            assert not clients.errors
            pool.resume()
            autojump_clock.jump(1e-6)
            await wait_all_tasks_blocked()
            assert [type(exc) for _, exc in clients.errors] == [NoBackendsOnlineError]


async def test_a_queue_that_is_full_while_suspended(autojump_clock: MockClock) -> None:
    """`max_waiting` bounds the queue of a suspended pool too."""
    async with pool_of(1, max_waiting=2) as pool, trio.open_nursery() as nursery:
        clients = Clients(pool, nursery)
        pool.suspend()
        await clients.start(1, 2, 3)
        assert [str(exc)[-24:] for _, exc in clients.errors] == ["(see Policy.max_waiting)"]
        pool.resume()


# -------------------------------------------------------------------------------- wait_idle


async def test_waiting_until_no_claim_is_outstanding(autojump_clock: MockClock) -> None:
    """Suspended, it returns at the end of the last claim, however that ends."""
    async with pool_of(4) as pool:
        claims = [await pool.acquire() for _ in range(3)]
        pool.suspend()
        async with trio.open_nursery() as nursery:
            returned: list[float] = []

            async def wait() -> None:
                await pool.wait_idle()
                returned.append(trio.current_time())
                assert pool.holders() == ()

            nursery.start_soon(wait)
            nursery.start_soon(wait)
            await trio.sleep(1)
            claims[0].release()
            await trio.sleep(1)
            claims[1].discard()
            await trio.sleep(1)
            assert not returned
            claims[2].release()
        assert returned == [3, 3]
        pool.resume()


async def test_waiting_for_an_idle_pool(autojump_clock: MockClock) -> None:
    """With no claim outstanding it returns at once, after a checkpoint."""
    async with pool_of(1) as pool:
        with trio.testing.assert_checkpoints():
            await pool.wait_idle()
        async with pool.claim():
            with trio.move_on_after(5) as scope:
                await pool.wait_idle()
            assert scope.cancelled_caught
    await pool.wait_idle()


async def test_waiting_for_idleness_without_suspending(autojump_clock: MockClock) -> None:
    """A pool in constant use is not idle; it is between two claims."""
    async with pool_of(2) as pool, trio.open_nursery() as nursery:
        clients = Clients(pool, nursery)
        await clients.start(1, hold=2)
        await trio.sleep(1)
        await clients.start(2, hold=2)
        await pool.wait_idle()
        assert trio.current_time() == 3


@pytest.mark.parametrize("drain_timeout", [0, 5, math.inf])
async def test_waiting_for_idleness_ends_with_the_pool(
    drain_timeout: float, autojump_clock: MockClock
) -> None:
    """At the pool's end no claim is outstanding: the last has ended, or is cut off."""
    async with pool_of(1, drain_timeout=drain_timeout) as pool:
        claim = await pool.acquire()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.wait_idle)
            nursery.start_soon(pool.terminate)
            await trio.sleep(7)
            claim.release()
        assert trio.current_time() == 7
        assert pool.is_closed


async def test_claims_on_backends_that_have_left_are_waited_for(autojump_clock: MockClock) -> None:
    """A claim is outstanding although its backend is gone."""
    resolver = ManualResolver(backends("a"))
    async with trio.open_nursery() as nursery:
        async with open_pool(nursery, resolver, FakeConnector()) as pool:
            await pool.wait_ready()
            claim = await pool.acquire()
            resolver.set([])
            with trio.move_on_after(1) as scope:
                await pool.wait_idle()
            assert scope.cancelled_caught
            claim.release()
            await pool.wait_idle()


async def test_nothing_listens_when_nobody_waits(autojump_clock: MockClock) -> None:
    """The listener goes with the last task that waits, so that claims take the short way again."""
    async with pool_of(1) as pool:
        events = pool._parts.events
        claim = await pool.acquire()
        with trio.move_on_after(1):
            await pool.wait_idle()
        assert events.slot_state_change is None
        claim.release()


async def test_the_log_tells_of_it(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Each suspension and each resumption is one line, however often it is asked for."""
    caplog.set_level(logging.INFO, "qorb_trio")
    async with open_bench() as bench:
        for _ in range(2):
            bench.pool.suspend()
        for _ in range(2):
            bench.pool.resume()
    lines = [it.getMessage() for it in caplog.records if "pool pool is" in it.getMessage()]
    assert lines == ["pool pool is suspended", "pool pool is resumed"]


async def test_changing_what_has_ended(autojump_clock: MockClock) -> None:
    """On a pool that has ended, `recycle` and `reconfigure` do nothing."""
    async with pool_of(1) as pool:
        pass
    policy = pool.policy
    pool.recycle()
    pool.reconfigure(Policy(max_slots=7))
    assert pool.policy is policy
