"""`PoolStats` and `BackendStats`: each field says what the contract says it says."""

from __future__ import annotations

import attrs
import pytest
import trio
from trio.testing import MockClock

from qorb_trio import Backend, BackendStats, PoolStats

from ..harness import HANG, Bench, LedgerConnector, backends, fails, open_bench, policy_of, slow


def only(bench: Bench) -> BackendStats:
    """The statistics of the only backend."""
    (stats,) = bench.stats().backends.values()
    return stats


async def test_an_empty_pool(autojump_clock: MockClock) -> None:
    """A pool that knows no backend has nothing."""
    async with open_bench(None, name="db") as bench:
        expected = PoolStats(name="db", claims=0, waiting=0, slots=0, departed=0, backends={})
        assert bench.stats() == expected


async def test_a_snapshot_stays_as_it_is(autojump_clock: MockClock) -> None:
    """A snapshot is frozen, does not change with the pool, and equals its like."""
    async with open_bench(policy=policy_of(max_slots=1)) as bench:
        await bench.pool.wait_ready()
        before, again = bench.stats(), bench.stats()
        assert before == again
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            before.claims = 7  # type: ignore[misc]
        await bench.use()
        assert before == again
        assert bench.stats() != before


async def test_the_life_of_a_slot(autojump_clock: MockClock) -> None:
    """A slot is connecting, unclaimed, claimed, checking, closing, and then is no more."""
    connector = LedgerConnector()
    connector.script.always("connect", slow(1))
    connector.script.always("on_recycle", slow(1))
    connector.script.always("disconnect", slow(0.9))
    fields = ["connecting", "unclaimed", "claimed", "checking", "closing"]
    policy = policy_of(max_slots=1, spares_wanted=1)

    async with open_bench(connector=connector, policy=policy) as bench:

        async def expect(state: str) -> None:
            await bench.settle()
            stats = only(bench)
            assert {field for field in fields if getattr(stats, field)} == {state}
            assert bench.stats().slots == getattr(stats, state) == 1
            assert stats.online is (state in {"unclaimed", "claimed", "checking"})

        await expect("connecting")
        await trio.sleep(1)
        await expect("unclaimed")
        claim = await bench.pool.acquire()
        await expect("claimed")
        claim.release()
        await expect("checking")
        await trio.sleep(1)
        await expect("unclaimed")
        claim = await bench.pool.acquire()
        claim.discard()
        await expect("closing")
        await trio.sleep(0.9)
        await expect("connecting")


async def test_a_slot_in_back_off_is_connecting(autojump_clock: MockClock) -> None:
    """A slot that waits to dial again counts as connecting."""
    connector = LedgerConnector(fails(OSError))
    policy = policy_of(max_slots=1, min_connection_backoff=20)
    async with open_bench(connector=connector, policy=policy) as bench:
        await bench.settle(1)
        assert not bench.ledger.dialling
        assert only(bench).connecting == 1
        assert not only(bench).online


async def test_a_slot_under_a_health_check_is_checking(autojump_clock: MockClock) -> None:
    """A connection whose health is being checked counts as checking, and as online."""
    policy = policy_of(max_slots=1, health_interval=10, health_check_timeout=100)
    async with open_bench(policy=policy) as bench:
        bench.script.always("is_valid", slow(50))
        await bench.settle(20)
        assert only(bench).checking == 1
        assert only(bench).online
        assert only(bench).unclaimed == 0


async def test_claims_are_counted_when_granted(autojump_clock: MockClock) -> None:
    """``claims`` and ``total_claims`` count grants, not attempts."""
    async with open_bench("ab", policy=policy_of(max_slots=2)) as bench:
        await bench.pool.wait_ready(2)
        bench.script.next("on_acquire", fails(OSError))
        held = [await bench.acquire() for _ in range(2)]
        with trio.move_on_after(1):
            await bench.use()
        for claim in held:
            bench.release(claim)
        await bench.use()
        stats = bench.stats()
        assert stats.claims == 3
        assert sum(one.total_claims for one in stats.backends.values()) == 3


async def test_backends_by_name(autojump_clock: MockClock) -> None:
    """``backends`` has the resolver's current set, by name, whatever came of them."""
    a, b, c = backends("abc")
    connector = LedgerConnector()
    connector.script.always("connect", fails(OSError), backend="b")
    async with open_bench([a, b], connector=connector) as bench:
        await bench.settle()
        stats = bench.stats().backends
        assert {name: one.backend for name, one in stats.items()} == {"a": a, "b": b}
        bench.resolver.set([b, c])
        await bench.settle()
        assert set(bench.stats().backends) == {"b", "c"}
        bench.resolver.set([])
        await bench.settle()
        assert bench.stats().backends == {}


async def test_departed(autojump_clock: MockClock) -> None:
    """Slots of backends that have left count in ``slots`` and in ``departed``."""
    a, b = backends("ab")
    policy = policy_of(max_slots=4, spares_wanted=0)
    async with open_bench([a], policy=policy) as bench:
        bench.script.always("disconnect", slow(0.5))
        held = [await bench.acquire() for _ in range(2)]
        bench.resolver.set([b])
        await bench.settle()
        stats = bench.stats()
        assert stats.departed == 2
        assert stats.slots >= 2
        assert set(stats.backends) == {"b"}
        assert stats.backends["b"].claimed == 0
        bench.release(held[0])
        await bench.settle()
        assert bench.stats().departed == 2
        await bench.settle(0.5)
        assert bench.stats().departed == 1
        bench.release(held[1])
        await bench.settle(1)
        assert bench.stats().departed == 0


async def test_a_new_weight_shows(autojump_clock: MockClock) -> None:
    """A change of only the weight or priority of a backend appears in its statistics."""
    async with open_bench([Backend(("a", 1))]) as bench:
        await bench.settle()
        bench.resolver.set([Backend(("a", 1), weight=7, priority=3)])
        await bench.settle()
        assert only(bench).backend.weight == 7
        assert only(bench).backend.priority == 3
        assert not bench.ledger.closed


async def test_failures_and_the_last_error(autojump_clock: MockClock) -> None:
    """``failures`` counts those of the last minute; ``last_error`` is the latest."""
    errors = [OSError(number) for number in range(3)]
    connector = LedgerConnector()
    connector.script.next("connect", *(fails(error) for error in errors))
    policy = policy_of(max_slots=1, spares_wanted=1)
    async with open_bench(connector=connector, policy=policy) as bench:
        await bench.pool.wait_ready()
        assert only(bench).failures == 3
        assert only(bench).last_error is errors[2]
        await bench.settle(90)
        assert only(bench).failures == 0


async def test_wanted(autojump_clock: MockClock) -> None:
    """``wanted`` is what is claimed, waited for, and wanted as spares, within the caps."""
    policy = policy_of(max_slots=10, spares_wanted=3)
    async with open_bench("ab", policy=policy) as bench:
        await bench.settle()
        assert bench.count("wanted") == 3
        held = [await bench.acquire() for _ in range(4)]
        await bench.settle()
        assert bench.count("wanted") == 7
        held += [await bench.acquire() for _ in range(5)]
        await bench.settle()
        assert bench.count("wanted") == 10
        for claim in held:
            bench.release(claim)


async def test_online(autojump_clock: MockClock) -> None:
    """A backend is online while a connection to it is established."""
    connector = LedgerConnector()
    connector.script.always("connect", HANG, backend="b")
    async with open_bench("ab", connector=connector) as bench:
        await bench.settle(1)
        assert {name: one.online for name, one in bench.stats().backends.items()} == {
            "a": True,
            "b": False,
        }


async def test_the_sum_of_it_all(autojump_clock: MockClock) -> None:
    """``stats`` is synchronous, and gives a `PoolStats` of `BackendStats`."""
    async with open_bench("ab") as bench:
        await bench.settle()
        stats = bench.pool.stats()
        assert type(stats) is PoolStats
        assert all(type(one) is BackendStats for one in stats.backends.values())
        assert stats.slots == sum(one.unclaimed for one in stats.backends.values()) == 8
