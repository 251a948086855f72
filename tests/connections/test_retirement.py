"""Connections that grow old: lifetime, idleness, uses, and `Pool.recycle`."""

from __future__ import annotations

import gc
import math

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from qorb_trio import Backend, FixedResolver, open_pool
from qorb_trio._connections.retirement import MIN_PRUNED
from qorb_trio._slots.slot_set import Slot

from ..harness import policy_of
from .ageing import Conn, Dated, Retired, a_pool, sample


async def test_idle_connections_are_replaced_before_their_lifetime_is_over(
    autojump_clock: MockClock,
) -> None:
    """Four spares of a lifetime of 100 s: never fewer than four, none closed before 75 s."""
    connector, retired = Dated(), Retired()
    policy = policy_of(max_slots=6, spares_wanted=4, max_lifetime=100)
    async with a_pool(policy, connector, retired) as pool:
        await trio.sleep(1)

        def look() -> None:
            stats = pool.stats().backends["a.test:1"]
            assert stats.unclaimed + stats.checking + stats.claimed >= 4
            assert len(connector.open) <= 6

        await sample(1000, 0.1, look)
        ages = [conn.age() for conn in connector.conns if conn.closed < math.inf]
        assert min(ages) >= 75
        assert max(ages) <= 100
        assert 40 <= len(connector.conns) <= 56
    assert set(retired.reasons) == {"lifetime"}
    assert len(retired.reasons) == len(set(connector.conns)) - 4 or len(retired.reasons) >= 36


async def test_busy_connections_are_never_lent_when_they_are_expired(
    autojump_clock: MockClock,
) -> None:
    """Two slots, one of them always claimed, need 20 to 28 dials for ten lifetimes."""
    connector = Dated()
    policy = policy_of(max_slots=2, spares_wanted=1, max_lifetime=20)
    async with a_pool(policy, connector) as pool:
        end = trio.current_time() + 200
        while trio.current_time() < end:
            async with pool.claim() as conn:
                assert trio.current_time() - conn.born < 20
            await trio.sleep(0.1)
        assert 20 <= len(connector.conns) <= 28
    assert max(conn.age() for conn in connector.conns) <= 20.1


async def test_a_backend_that_refuses_is_served_by_old_connections_until_they_expire(
    autojump_clock: MockClock,
) -> None:
    """While nothing new connects, the due connections go on serving, but no longer than allowed."""
    connector = Dated()
    policy = policy_of(max_slots=4, spares_wanted=2, max_lifetime=100)
    async with a_pool(policy, connector) as pool:
        await trio.sleep(1)
        connector.refuses = True
        with trio.move_on_after(98.5):
            while True:
                async with pool.claim(timeout=1) as conn:
                    assert trio.current_time() - conn.born < 100
                await trio.sleep(0.1)
        await trio.sleep(5)
        assert connector.open == []


async def test_idle_timeout_closes_what_is_not_wanted(autojump_clock: MockClock) -> None:
    """Connections of a burst are closed once idle, and wanted spares are replaced."""
    connector, retired = Dated(), Retired()
    policy = policy_of(max_slots=8, spares_wanted=2, idle_timeout=10, rebalance_interval=1000)
    async with a_pool(policy, connector, retired) as pool:
        claims = [await pool.acquire() for _ in range(6)]
        for claim in claims:
            claim.release()
        await trio.sleep(9)
        assert len(connector.open) >= 6
        await trio.sleep(3)
        assert 2 <= len(connector.open) <= 3
        assert set(retired.reasons) == {"idle"}
        young = [conn for conn in connector.open if conn.born > 9]
        assert len(young) >= 2


async def test_max_uses_closes_at_the_last_return(autojump_clock: MockClock) -> None:
    """No connection serves more than its number of claims, and most serve three quarters."""
    connector, retired = Dated(), Retired()
    policy = policy_of(max_slots=2, spares_wanted=1, max_uses=20)
    async with a_pool(policy, connector, retired) as pool:
        for _ in range(400):
            async with pool.claim() as conn:
                conn.uses += 1
            await trio.sleep(0.01)
        used = [conn.uses for conn in connector.conns if conn.closed < math.inf]
        assert max(used) <= 20
        assert min(used) >= 15
    assert set(retired.reasons) == {"uses"}


@pytest.mark.parametrize("claimed", [0, 5])
async def test_recycle_replaces_all_connections(autojump_clock: MockClock, claimed: int) -> None:
    """Eight connections are replaced within a minute, never fewer, none under its holder."""
    connector, retired = Dated(), Retired()
    policy = policy_of(max_slots=16, spares_wanted=8 - claimed, max_count=16)
    async with a_pool(policy, connector, retired) as pool:
        held = [await pool.acquire() for _ in range(claimed)]
        await trio.sleep(1)
        old = list(connector.open)
        assert len(old) == 8
        pool.recycle(over=60)

        def look() -> None:
            stats = pool.stats().backends["a.test:1"]
            assert stats.unclaimed + stats.checking + stats.claimed >= 8
            for claim in held:
                assert claim.connection in connector.open

        await sample(65, 0.1, look)
        for claim in held:
            claim.release()
        await wait_all_tasks_blocked()
        await trio.sleep(1)
        assert not set(old) & set(connector.open)
        assert set(retired.reasons) == {"recycle"}
        assert len(retired.reasons) == 8
        if claimed == 0:
            assert len(connector.conns) == 16


async def test_recycle_includes_dials_under_way(autojump_clock: MockClock) -> None:
    """A connection whose dial began before the call is replaced, and a later one is not."""
    connector = Dated()
    async with a_pool(policy_of(max_slots=4, spares_wanted=1), connector) as pool:
        async with pool.claim():
            await trio.sleep(0.02)  # another is being dialled
            pool.recycle()
        await trio.sleep(1)
        assert min(conn.born for conn in connector.open) > 0.05


async def test_a_lowered_cap(autojump_clock: MockClock) -> None:
    """Cap 8 to 2 with 5 claimed and 3 spare: 3 close at once, the next three as they return."""
    connector = Dated()
    async with a_pool(policy_of(max_slots=8, spares_wanted=8), connector) as pool:
        await pool.wait_ready(8)
        held = [await pool.acquire() for _ in range(5)]
        pool.reconfigure(policy_of(max_slots=2, spares_wanted=8))
        await wait_all_tasks_blocked()
        assert len(connector.open) == 5
        for left in (4, 3, 2, 2, 2):
            held.pop().release()
            await wait_all_tasks_blocked()
            assert len(connector.open) == left
        assert len(connector.conns) == 8
        assert pool.policy.max_slots == 2
        pool.reconfigure(policy_of(max_slots=8, spares_wanted=8))
        await trio.sleep(1)
        assert len(connector.open) == 8


async def test_other_numbers_hold_at_once(autojump_clock: MockClock) -> None:
    """A lifetime that is set later holds for what exists; a wrong argument changes nothing."""
    connector = Dated()
    async with a_pool(policy_of(max_slots=4, spares_wanted=2), connector) as pool:
        before = pool.policy
        with pytest.raises(TypeError, match="policy"):
            pool.reconfigure("fast")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="over"):
            pool.recycle(over=math.inf)
        assert pool.policy is before
        await trio.sleep(200)
        old = list(connector.open)
        pool.reconfigure(policy_of(max_slots=4, spares_wanted=2, max_lifetime=100))
        await trio.sleep(1)
        assert not set(old) & set(connector.open)
        await trio.sleep(200)
        assert len(connector.conns) >= 6


async def test_a_long_life_keeps_no_closed_connection(autojump_clock: MockClock) -> None:
    """Thousands of discarded connections of an hour's lifetime leave no objects behind."""
    policy = policy_of(max_slots=4, spares_wanted=2, max_lifetime=3600)
    async with a_pool(policy, Dated()) as pool:

        async def discard(count: int) -> int:
            for _ in range(count):
                (await pool.acquire()).discard()
                await trio.sleep(0.1)
            gc.collect()
            return sum(isinstance(it, Slot) for it in gc.get_objects())

        await discard(100)
        assert await discard(1000) <= 2 * MIN_PRUNED


async def test_max_connecting(autojump_clock: MockClock) -> None:
    """Two dials at a time to one backend: ten waiters are served by pairs."""

    class Slow(Dated):
        async def connect(self, backend: Backend) -> Conn:
            await trio.sleep(0.95)
            return await super().connect(backend)

    served: list[float] = []
    policy = policy_of(max_slots=16, spares_wanted=0, max_connecting=2)
    async with trio.open_nursery() as nursery:
        async with open_pool(
            nursery, FixedResolver([("a.test", 1)]), Slow(), policy=policy
        ) as pool:

            async def claim() -> None:
                async with pool.claim():
                    served.append(trio.current_time())
                    await trio.sleep(100)

            async with trio.open_nursery() as claimants:
                for _ in range(10):
                    claimants.start_soon(claim)
                await trio.sleep(10)
                claimants.cancel_scope.cancel()
    assert served == pytest.approx([1, 1, 2, 2, 3, 3, 4, 4, 5, 5], abs=0.01)
