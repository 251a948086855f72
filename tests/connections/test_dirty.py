"""No claim gets a connection that is dirty, stale, or not yet cleaned."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from qorb_trio import Backend, Connector, FixedResolver, open_pool

from ..harness import (
    HANG,
    Do,
    LedgerConnection,
    LedgerConnector,
    PlainLedgerConnector,
    backends,
    fails,
    open_bench,
    policy_of,
    slow,
)

KINDS = [LedgerConnector, PlainLedgerConnector]


@pytest.mark.parametrize("kind", KINDS)
async def test_ff09_returned_with_unread_bytes(
    autojump_clock: MockClock, kind: type[PlainLedgerConnector]
) -> None:
    """A connection with unread bytes is found out when it comes back, and is closed."""
    async with open_bench(connector=kind(), policy=policy_of(max_slots=1)) as bench:
        async with bench.claim() as conn:
            conn.broken = True
        await bench.settle()
        assert bench.ledger.closed == [conn]
        assert bench.ledger.calls["on_recycle"] == 0
        assert await bench.use(timeout=1) is not conn


@pytest.mark.parametrize("parked", [0, 1, 3])
async def test_ff10_recycled_before_anyone_sees_it(autojump_clock: MockClock, parked: int) -> None:
    """``on_recycle`` runs between any two claims, however urgently the next one waits."""
    async with open_bench(policy=policy_of(max_slots=1)) as bench:
        bench.script.always("on_recycle", slow(1))
        bench.nursery.start_soon(bench.use, 1)
        await bench.settle()
        before = trio.current_time()
        for _ in range(parked):
            bench.nursery.start_soon(bench.use, 1)
        await bench.settle(1)
        assert bench.count("checking") == 1
        assert bench.count("unclaimed") == 0
        conn = await bench.use()
        assert trio.current_time() == before + 2 * (parked + 1)
        assert bench.ledger.connections == [conn]


async def test_ff11_the_reset_hook_hangs(autojump_clock: MockClock) -> None:
    """An ``on_recycle`` that hangs holds its slot no longer than ``health_check_timeout``."""
    policy = policy_of(max_slots=1, health_check_timeout=4)
    async with open_bench(policy=policy) as bench:
        bench.script.always("on_recycle", HANG)
        first = await bench.use()
        before = trio.current_time()
        second = await bench.use(timeout=20)
        assert second is not first
        assert first.closed_at == before + 4
        assert 4 <= trio.current_time() - before < 4.1


@pytest.mark.parametrize("act", [fails(OSError), fails(OSError, after=1), HANG])
async def test_a_failed_recycle_closes_the_connection(autojump_clock: MockClock, act: Do) -> None:
    """A connection that could not be cleaned is closed, and is counted as a failure."""
    policy = policy_of(max_slots=1, spares_wanted=1, health_check_timeout=4)
    async with open_bench(policy=policy) as bench:
        bench.script.next("on_recycle", act)
        first = await bench.use()
        await bench.settle(15)
        assert first.closes == 1
        (stats,) = bench.stats().backends.values()
        assert stats.failures == 1
        assert isinstance(stats.last_error, OSError | trio.TooSlowError | TimeoutError)
        assert await bench.use(timeout=0) is not first


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spares", [1, 3])
async def test_ff12_broken_while_idle(
    autojump_clock: MockClock, kind: type[PlainLedgerConnector], spares: int
) -> None:
    """A spare that broke while idle is noticed as it is handed out, and another is lent."""
    policy = policy_of(max_slots=4, spares_wanted=4)
    async with open_bench(connector=kind(), policy=policy) as bench:
        await bench.pool.wait_ready(4)
        broken = bench.ledger.idle[:spares]
        for conn in broken:
            conn.broken = True
        before = trio.current_time()
        held = [await bench.acquire() for _ in range(4)]
        assert trio.current_time() - before < 0.2
        assert not {claim.connection for claim in held} & set(broken)
        await bench.settle()
        assert set(bench.ledger.closed) <= set(broken)
        assert len(bench.ledger.closed) == spares
        for claim in held:
            bench.release(claim)


async def test_ff12_all_spares_are_broken(autojump_clock: MockClock) -> None:
    """A claimant that finds every spare broken waits for a new connection."""
    policy = policy_of(max_slots=4, spares_wanted=4)
    async with open_bench(policy=policy) as bench:
        await bench.pool.wait_ready(4)
        for conn in bench.ledger.idle:
            conn.broken = True
        conn = await bench.use(timeout=5)
        assert conn.number > 4


async def test_ff12_handed_over_broken(autojump_clock: MockClock) -> None:
    """A connection that breaks during its recycling is not handed to a waiting claimant."""
    async with open_bench(policy=policy_of(max_slots=1)) as bench:
        bench.script.next("on_recycle", slow(1))
        first = await bench.use()
        bench.nursery.start_soon(bench.use)
        await bench.settle(0.5)
        first.broken = True
        await bench.settle(2)
        assert bench.stats().claims == 2
        assert bench.ledger.closed == [first]


@pytest.mark.parametrize("act", [HANG, Do(valid=False), fails(OSError)])
async def test_ff13_a_silent_partition(autojump_clock: MockClock, act: Do) -> None:
    """A dead peer is found by the health check, and evicted within the check's timeout."""
    policy = policy_of(max_slots=1, spares_wanted=1, health_interval=30, health_check_timeout=3)
    async with open_bench(policy=policy) as bench:
        await bench.pool.wait_ready()
        start = trio.current_time()
        (dead,) = bench.ledger.idle
        bench.script.next("is_valid", act)
        bench.connector.broken_rule = lambda conn: False
        await bench.settle(29)
        assert bench.ledger.calls["is_valid"] == 0
        await bench.settle(35)
        assert dead.closed_at is not None
        assert dead.closed_at - start <= 30 * 1.2 + 3.001
        assert (await bench.use(timeout=0)) is not dead


async def test_health_checks_leave_claims_alone(autojump_clock: MockClock) -> None:
    """Only idle connections are checked; the interval begins anew with each return."""
    policy = policy_of(max_slots=1, spares_wanted=1, health_interval=10)
    async with open_bench(policy=policy) as bench:
        await bench.use(100)
        assert bench.ledger.calls["is_valid"] == 0
        await bench.settle(9)
        assert bench.ledger.calls["is_valid"] == 0
        await bench.settle(4)
        assert bench.ledger.calls["is_valid"] == 1


async def test_a_check_makes_no_claim_fail(autojump_clock: MockClock) -> None:
    """A claimant who finds the only spare under check waits for the end of the check."""
    policy = policy_of(max_slots=1, spares_wanted=1, health_interval=10)
    async with open_bench(policy=policy) as bench:
        await bench.pool.wait_ready()
        bench.script.always("is_valid", slow(2))
        await bench.until(lambda: bench.count("checking") == 1)
        conn = await bench.use(timeout=3)
        assert bench.ledger.connections == [conn]


async def test_ff14_evicted_while_claimed(autojump_clock: MockClock) -> None:
    """A claimed connection whose backend is removed is closed when it is released."""
    a, b = backends("ab")
    async with open_bench([a]) as bench:
        async with bench.claim() as conn:
            bench.resolver.set([b])
            await bench.settle(5)
            assert conn.closes == 0
            assert bench.stats().departed == 1
        await bench.settle()
        assert conn.closes == 1
        assert bench.stats().departed == 0
        assert (await bench.use(timeout=1)).backend == b


async def test_ff14_the_backend_comes_back_meanwhile(autojump_clock: MockClock) -> None:
    """A connection from before its backend left is not lent again after it came back."""
    (a,) = backends("a")
    async with open_bench([a], policy=policy_of(max_slots=2)) as bench:
        async with bench.claim() as conn:
            bench.resolver.set([])
            await bench.settle(1)
            bench.resolver.set([a])
            await bench.settle(1)
            assert conn.closes == 0
            assert bench.stats().departed == 1
        await bench.settle()
        assert conn.closes == 1
        assert await bench.use(timeout=1) is not conn


async def test_a_backend_leaves_while_it_is_being_claimed(autojump_clock: MockClock) -> None:
    """A backend that leaves during ``on_acquire`` leaves a claim that still ends cleanly."""
    a, b = backends("ab")
    async with open_bench([a]) as bench:
        await bench.pool.wait_ready()
        bench.script.next("on_acquire", slow(2))
        bench.nursery.start_soon(bench.use, 1)
        await bench.settle(1)
        bench.resolver.set([b])
        await bench.settle(10)
        assert bench.stats().claims == 1
        assert all(conn.closes for conn in bench.ledger.connections if conn.backend == a)


# ------------------------------------------------------------------ should_recycle


class OurError(Exception):
    """An exception that a body may raise and still leave a clean connection."""


@pytest.mark.parametrize("exc", [None, OurError(), GeneratorExit()])
@pytest.mark.parametrize("answer", [True, False])
async def test_should_recycle_decides(
    autojump_clock: MockClock, exc: BaseException | None, answer: bool
) -> None:
    """``should_recycle`` gets the exception that ended the body, and its answer is obeyed."""
    async with open_bench(policy=policy_of(max_slots=1)) as bench:

        def rule(conn: LedgerConnection, given: BaseException | None) -> bool:
            return answer

        bench.connector.recycle_rule = rule
        caught = None
        try:
            async with bench.claim():
                if exc is not None:
                    raise exc
        except BaseException as other:
            caught = other
        assert caught is exc
        await bench.settle()
        (conn,) = bench.ledger.connections[:1]
        assert bench.ledger.returned == [(conn, exc)]
        assert conn.closes == (not answer)


async def test_should_recycle_hears_of_a_cancellation(autojump_clock: MockClock) -> None:
    """A body that was cancelled at a harmless place may have its connection recycled."""
    async with open_bench(policy=policy_of(max_slots=1)) as bench:
        bench.connector.recycle_rule = lambda conn, exc: isinstance(exc, trio.Cancelled)
        with trio.move_on_after(1):
            async with bench.claim() as conn:
                await trio.sleep(5)
        await bench.settle()
        assert conn.closes == 0
        assert bench.ledger.idle == [conn]


@pytest.mark.parametrize("exc", [OurError(), KeyboardInterrupt(), GeneratorExit()])
async def test_by_default_an_exception_discards(
    autojump_clock: MockClock, exc: BaseException
) -> None:
    """By default whatever ended the body early closes the connection, and is no failure."""
    async with open_bench(policy=policy_of(max_slots=1)) as bench:
        with pytest.raises(type(exc)) as caught:
            async with bench.claim() as conn:
                raise exc
        assert caught.value is exc
        await bench.settle()
        assert conn.closes == 1
        (stats,) = bench.stats().backends.values()
        assert stats.failures == 0
        assert stats.last_error is None


async def test_an_exception_discards_where_nothing_is_overridden(
    autojump_clock: MockClock,
) -> None:
    """An exception also discards the connection of a connector that only has `connect`."""

    class Bare(Connector[object]):
        async def connect(self, backend: Backend) -> object:
            return object()

    async with trio.open_nursery() as nursery:
        async with open_pool(
            nursery, FixedResolver(["a:1"]), Bare(), policy=policy_of(max_slots=1)
        ) as pool:
            with pytest.raises(ValueError, match="half-way"):
                async with pool.claim() as first:
                    raise ValueError("half-way")
            async with pool.claim() as second:
                assert second is not first
            async with pool.claim() as third:
                assert third is second


# ------------------------------------------------------------------------ is_broken


@pytest.mark.parametrize("kind", KINDS)
async def test_is_broken_is_asked_both_ways(
    autojump_clock: MockClock, kind: type[PlainLedgerConnector]
) -> None:
    """``is_broken`` is asked when a connection is handed out and when it comes back."""
    async with open_bench(connector=kind(), policy=policy_of(max_slots=1)) as bench:
        await bench.pool.wait_ready()
        before = bench.ledger.calls["is_broken"]
        claim = await bench.acquire()
        out = bench.ledger.calls["is_broken"]
        assert out > before
        bench.release(claim)
        await bench.settle()
        assert bench.ledger.calls["is_broken"] > out


async def test_is_broken_is_asked_before_a_new_connection_is_lent(
    autojump_clock: MockClock,
) -> None:
    """A server that accepts and closes at once is noticed before a claimant gets it."""
    connector = LedgerConnector()
    connector.script.always("connect", slow(1))
    connector.broken_rule = lambda conn: conn.number == 1
    policy = policy_of(max_slots=1, spares_wanted=0)
    async with open_bench(connector=connector, policy=policy) as bench:
        conn = await bench.use(timeout=10)
        assert conn.number == 2
        assert bench.ledger.connections[0].closes == 1


@pytest.mark.parametrize("at", ["hand-out", "return"])
@pytest.mark.parametrize("error", [OSError("cannot tell"), ExceptionGroup("g", [OSError()])])
async def test_an_is_broken_that_raises(
    autojump_clock: MockClock, at: str, error: Exception
) -> None:
    """A connection whose ``is_broken`` raises counts as broken; no claim raises the error."""
    async with open_bench(policy=policy_of(max_slots=1)) as bench:
        await bench.pool.wait_ready()
        (first,) = bench.ledger.idle

        def rule(conn: LedgerConnection) -> bool:
            if conn is first and (at == "hand-out" or conn.in_body or conn.needs_recycle):
                raise error
            return False

        bench.connector.broken_rule = rule
        conn = await bench.use(timeout=5)
        assert (conn is first) is (at == "return")
        await bench.settle()
        assert first.closes == 1
        (stats,) = bench.stats().backends.values()
        assert stats.last_error is error
        assert stats.failures == 1
