"""Claimants are served in the order of their arrival, and nobody is forgotten."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from qorb_trio import AllClaimsUsedError, ClaimTimeoutError

from ..harness import (
    OK,
    Bench,
    Hook,
    LedgerConnector,
    PlainLedgerConnector,
    fails,
    open_bench,
    policy_of,
    slow,
)

KINDS = [LedgerConnector, PlainLedgerConnector]


async def park(bench: Bench, served: list[int], number: int, seconds: float = 0) -> None:
    """Start a client, and wait until it is parked."""

    async def client() -> None:
        async with bench.claim():
            served.append(number)
            await trio.sleep(seconds)

    bench.nursery.start_soon(client, name=f"client {number}")
    await bench.settle()


@pytest.mark.parametrize("kind", KINDS)
async def test_first_come_first_served(
    autojump_clock: MockClock, kind: type[PlainLedgerConnector]
) -> None:
    """Ten claimants of one connection are served in the order of their arrival."""
    served: list[int] = []
    async with open_bench(connector=kind(), policy=policy_of(max_slots=1)) as bench:
        for number in range(10):
            await park(bench, served, number, 1)
        await trio.sleep(20)
        assert served == list(range(10))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", ["cancel, release", "release, cancel"])
@pytest.mark.parametrize("doomed", [1, 3])
async def test_ff15_a_wake_up_spent_on_a_cancelled_waiter(
    autojump_clock: MockClock, kind: type[PlainLedgerConnector], order: str, doomed: int
) -> None:
    """Cancelling the first claimant as a connection is released does not stall the others."""
    served: list[int] = []
    async with open_bench(connector=kind(), policy=policy_of(max_slots=1)) as bench:
        claim = await bench.acquire()
        scopes = [trio.CancelScope() for _ in range(doomed)]

        async def cancelled(scope: trio.CancelScope) -> None:
            with scope:
                await bench.use()

        for scope in scopes:
            bench.nursery.start_soon(cancelled, scope)
        await bench.settle()
        for number in range(3):
            await park(bench, served, number)
        if order == "release, cancel":
            bench.release(claim)
        for scope in scopes:
            scope.cancel()
        if order == "cancel, release":
            bench.release(claim)
        await bench.settle(1)
        assert served == [0, 1, 2]
        assert bench.stats().waiting == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["broken", "raised", "discarded"])
async def test_ff16_discards_wake_the_queue(
    autojump_clock: MockClock, kind: type[PlainLedgerConnector], how: str
) -> None:
    """Cap five, ten claimants, every connection lost on return: all ten are served."""
    served = 0

    async def client(bench: Bench) -> None:
        nonlocal served
        claim = await bench.acquire(timeout=60)
        await trio.sleep(1)
        served += 1
        bench.ledger.give(claim.connection)
        if how == "broken":
            claim.connection.broken = True
            claim.release()
        elif how == "discarded":
            claim.discard()
        else:
            bench.connector.recycle_rule = lambda conn, exc: False
            claim.release()

    async with open_bench("ab", connector=kind(), policy=policy_of(max_slots=5)) as bench:
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(client, bench)
        assert served == 10


@pytest.mark.parametrize("kind", KINDS)
async def test_ff17_a_newcomer_does_not_pass(
    autojump_clock: MockClock, kind: type[PlainLedgerConnector]
) -> None:
    """A claim made in the tick of a release does not get a parked claimant's connection."""
    served: list[int] = []
    async with open_bench(connector=kind(), policy=policy_of(max_slots=1)) as bench:
        claim = await bench.acquire()
        for number in range(3):
            await park(bench, served, number, 1)
        bench.release(claim)
        async with bench.claim():
            served.append(3)
        assert served == [0, 1, 2, 3]


async def test_ff17_not_even_with_a_timeout_of_zero(autojump_clock: MockClock) -> None:
    """A claim that does not wait fails in the tick of a release, if somebody is parked."""
    served: list[int] = []
    async with open_bench(policy=policy_of(max_slots=1)) as bench:
        claim = await bench.acquire()
        await park(bench, served, 0, 1)
        bench.release(claim)
        with pytest.raises(AllClaimsUsedError):
            await bench.use(timeout=0)
        await bench.settle()
        assert served == [0]


@pytest.mark.parametrize("end", ["cancelled", "timed out"])
async def test_ff18_ten_thousand_cancelled_waiters(autojump_clock: MockClock, end: str) -> None:
    """Claimants that gave up are not in the queue, and cause no dials."""
    policy = policy_of(max_slots=100, max_count=100, spares_wanted=0, rebalance_interval=1e6)
    connector = LedgerConnector()
    connector.script.always("connect", slow(5))

    async def client(bench: Bench) -> None:
        with trio.move_on_after(1 if end == "cancelled" else 100):
            try:
                await bench.pool.acquire(timeout=1 if end == "timed out" else 200)
            except ClaimTimeoutError:
                return
            raise AssertionError("there is nothing to be had")

    async with open_bench(connector=connector, policy=policy, log=False) as bench:
        bench.watch.pool = None  # ten thousand waiters times as many steps: only the ends
        async with trio.open_nursery() as nursery:
            for _ in range(10_000):
                nursery.start_soon(client, bench)
            await bench.settle()
            assert bench.stats().waiting == 10_000
        bench.watch.pool = bench.pool
        await bench.settle()
        assert bench.stats().waiting == 0
        dials = len(bench.ledger.dials)
        assert dials <= 100
        assert (await bench.use(timeout=20)).number <= 100
        await bench.settle(100)
        assert len(bench.ledger.dials) == dials


async def test_ff19_five_connections_serve_five_waiters(autojump_clock: MockClock) -> None:
    """Five connections that appear at one instant serve five waiters at that instant."""
    connector = LedgerConnector()
    connector.script.always("connect", slow(1))
    served: list[float] = []

    async def client(bench: Bench) -> None:
        async with bench.claim():
            served.append(trio.current_time())
            await trio.sleep(20)

    policy = policy_of(max_slots=5, spares_wanted=0)
    async with open_bench(connector=connector, policy=policy) as bench:
        start = trio.current_time()
        for _ in range(7):
            bench.nursery.start_soon(client, bench)
        await bench.settle(2)
        assert served == [start + 1] * 5
        await bench.settle(60)


async def test_ff19_five_returns_serve_five_waiters(autojump_clock: MockClock) -> None:
    """Five connections that come back at one instant serve five waiters at that instant."""
    served: list[int] = []
    async with open_bench("ab", policy=policy_of(max_slots=5)) as bench:
        held = [await bench.acquire() for _ in range(5)]
        for number in range(5):
            await park(bench, served, number, 1)
        for claim in held:
            bench.release(claim)
        await bench.settle()
        assert sorted(served) == [0, 1, 2, 3, 4]


async def test_ff20_a_slow_on_acquire_holds_up_nobody(autojump_clock: MockClock) -> None:
    """While one claimant is in a slow ``on_acquire``, the others are served at once."""
    async with open_bench("a", policy=policy_of(max_slots=4, health_check_timeout=50)) as bench:
        await bench.pool.wait_ready(4)
        bench.script.next("on_acquire", slow(20))
        bench.nursery.start_soon(bench.use)
        await bench.settle()
        before = trio.current_time()
        for _ in range(10):
            await bench.use()
        assert trio.current_time() == before
        await bench.settle(30)


async def test_ff20_a_slow_on_acquire_after_a_wait(autojump_clock: MockClock) -> None:
    """A slow ``on_acquire`` of one who waited does not hold up those behind."""
    served: list[int] = []
    async with open_bench(policy=policy_of(max_slots=2, health_check_timeout=50)) as bench:
        held = [await bench.acquire() for _ in range(2)]
        bench.script.next("on_acquire", slow(20), OK)
        for number in range(2):
            await park(bench, served, number)
        for claim in held:
            bench.release(claim)
        await bench.settle(1)
        assert len(served) == 1
        await bench.settle(30)
        assert sorted(served) == [0, 1]


@pytest.mark.parametrize("backends", ["a", "abc"])
@pytest.mark.parametrize("after", [0, 0.1])
async def test_ff21_an_on_acquire_that_always_fails(
    autojump_clock: MockClock, backends: str, after: float
) -> None:
    """The claim ends at its deadline, says why, and has not dialled in a loop."""
    error = ConnectionResetError("always")
    async with open_bench(backends) as bench:
        bench.script.always("on_acquire", fails(error, after=after))
        before = trio.current_time()
        with pytest.raises(ClaimTimeoutError) as caught:
            await bench.use(timeout=10)
        assert trio.current_time() == before + 10
        assert caught.value.__cause__ is error
        assert bench.ledger.calls["on_acquire"] >= 8
        assert len(bench.ledger.dials) < 1000
        bench.script.always("on_acquire", OK)
        await bench.use(timeout=60)


async def test_ff21_even_without_a_deadline(autojump_clock: MockClock) -> None:
    """An endless claim whose ``on_acquire`` always fails tries about once a second, or less."""
    policy = policy_of(max_slots=2, max_connection_backoff=5)
    async with open_bench(policy=policy) as bench:
        bench.script.always("on_acquire", fails(OSError))
        with trio.move_on_after(1000):
            await bench.use(timeout=float("inf"))
        assert 100 < bench.ledger.calls["on_acquire"] < 2500


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hook", ["connect", "on_acquire"])
async def test_a_recovered_backend_serves_long_claims(
    autojump_clock: MockClock, kind: type[PlainLedgerConnector], hook: Hook
) -> None:
    """One failure at the start does not keep later claimants from the slots that are free."""
    connector = kind()
    connector.script.next(hook, fails(OSError))
    async with open_bench(connector=connector, policy=policy_of(max_slots=4)) as bench:
        for _ in range(4):
            bench.nursery.start_soon(bench.use, 1000)
        await bench.settle(20)
        assert bench.stats().waiting == 0
        assert bench.stats().claims == 4
        await trio.sleep(1000)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("parked", [False, True])
async def test_a_close_holds_up_nobody(
    autojump_clock: MockClock, kind: type[PlainLedgerConnector], parked: bool
) -> None:
    """While a discarded connection is closing, a claimant gets a new one if there is room."""
    policy = policy_of(max_slots=3 if parked else 4, spares_wanted=0)
    async with open_bench(connector=kind(), policy=policy) as bench:
        bench.script.always("disconnect", slow(0.9))
        held = [await bench.acquire() for _ in range(3 if parked else 2)]
        before = trio.current_time()
        if parked:
            bench.nursery.start_soon(bench.use)
            await bench.settle()
        bench.discard(held.pop())
        if parked:
            await bench.settle(0.9)
            assert bench.stats().claims == 4
        else:
            await bench.use(timeout=20)
            assert trio.current_time() == before
        for claim in held:
            bench.release(claim)


async def test_a_failed_on_acquire_keeps_its_place(autojump_clock: MockClock) -> None:
    """A claimant whose ``on_acquire`` failed is served before those that came after it."""
    served: list[int] = []
    policy = policy_of(max_slots=1, spares_wanted=1, min_connection_backoff=1)
    async with open_bench(policy=policy) as bench:
        claim = await bench.acquire()
        for number in range(3):
            await park(bench, served, number, 1)
        bench.script.next("on_acquire", fails(OSError), fails(OSError))
        bench.release(claim)
        await bench.settle(60)
        assert served == [0, 1, 2]


async def test_ff22_everyone_holds_one_and_wants_two(autojump_clock: MockClock) -> None:
    """The deadline's error says that all claims are used, and nothing is lost."""
    errors: list[AllClaimsUsedError] = []

    async def greedy(bench: Bench) -> None:
        async with bench.claim():
            await bench.settle()
            with pytest.raises(AllClaimsUsedError) as caught:
                await bench.use(timeout=5)
            errors.append(caught.value)

    async with open_bench("ab", policy=policy_of(max_slots=4)) as bench:
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(greedy, bench)
        assert len(errors) == 4
        assert sum(one.claimed for one in errors[0].stats.backends.values()) == 4
        await bench.settle()
        held = [await bench.acquire(timeout=0) for _ in range(4)]
        for claim in held:
            bench.release(claim)


async def test_waiting_is_counted(autojump_clock: MockClock) -> None:
    """``waiting`` counts those that are parked, and a cancelled one no more."""
    async with open_bench(policy=policy_of(max_slots=1)) as bench:
        claim = await bench.acquire()
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(bench.use)
            await bench.settle()
            assert bench.stats().waiting == 4
            nursery.cancel_scope.cancel()
            assert bench.stats().waiting == 0
        bench.release(claim)


async def test_the_spare_that_was_used_last_is_lent(autojump_clock: MockClock) -> None:
    """Of a backend's spares a claim gets that which was used last, the likeliest to be alive."""
    async with open_bench(policy=policy_of(max_slots=4)) as bench:
        await bench.settle()
        conn = await bench.use()
        for _ in range(4):
            await bench.settle(1)
            assert await bench.use() is conn
