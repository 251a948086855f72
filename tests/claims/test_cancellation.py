"""Cancelling a claimant, or a closing pool, at every checkpoint loses nothing."""

from __future__ import annotations

import math

import pytest
import trio
from trio.testing import MockClock, assert_no_checkpoints, wait_all_tasks_blocked

from qorb_trio import ClaimTimeoutError, Instrument, NoBackendsOnlineError

from ..harness import (
    HANG,
    OK,
    Bench,
    Do,
    LedgerConnector,
    PlainLedgerConnector,
    Sweep,
    fails,
    open_bench,
    policy_of,
    slow,
    sweep,
)

KINDS = [LedgerConnector, PlainLedgerConnector]


async def test_ff01_cancelled_mid_exchange_is_discarded(autojump_clock: MockClock) -> None:
    """A claim that is cancelled between request and reply takes its connection with it."""
    async with open_bench(policy=policy_of(max_slots=1)) as bench:
        with trio.move_on_after(1) as scope:
            async with bench.claim() as conn:
                conn.begin()
                await trio.sleep(5)
                conn.finish()
        assert scope.cancelled_caught
        await bench.settle()
        assert bench.ledger.closed == [conn]
        ((_, exc),) = bench.ledger.returned
        assert isinstance(exc, trio.Cancelled)
        assert await bench.use(timeout=1) is not conn


async def test_ff01_each_reply_reaches_its_own_request(autojump_clock: MockClock) -> None:
    """Fifty clients, every third cancelled in mid-exchange: no reply goes to another."""
    served: list[int] = []

    async def client(bench: Bench, number: int) -> None:
        with trio.move_on_after(0.5 if number % 3 == 0 else math.inf):
            await bench.use(1)
            served.append(number)

    async with open_bench("ab", policy=policy_of(max_slots=7)) as bench:
        for number in range(50):
            bench.nursery.start_soon(client, bench, number)
        await trio.sleep(100)
        assert not bench.stats().waiting
    assert {number for number in range(50) if number % 3} <= set(served)


async def test_cancelled_as_a_spare_is_taken(autojump_clock: MockClock) -> None:
    """A claimant that is cancelled in the very step in which it takes a spare has got it, so
    that a body without a checkpoint ends well, and no good connection is closed."""

    class Cancels(Instrument):
        def handle_claimed(self, *_: object) -> None:
            scope.cancel()

    async with open_bench(
        connector=PlainLedgerConnector(), policy=policy_of(max_slots=1), instruments=[Cancels()]
    ) as bench:
        await bench.settle()
        with trio.CancelScope() as scope:
            async with bench.claim():
                pass
        assert not scope.cancelled_caught
        await bench.settle()
        assert not bench.ledger.closed


@pytest.mark.parametrize("kind", KINDS)
async def test_ff02_cancelled_just_after_the_assignment(
    autojump_clock: MockClock, kind: type[PlainLedgerConnector]
) -> None:
    """A claimant that is cancelled when its connection is on its way does not lose it."""
    async with open_bench(connector=kind(), policy=policy_of(max_slots=1)) as bench:
        claim = await bench.acquire()
        scope = trio.CancelScope()

        async def doomed() -> None:
            with scope:
                await bench.use()

        bench.nursery.start_soon(doomed)
        await bench.settle()
        bench.release(claim)
        scope.cancel()
        await bench.settle()
        assert scope.cancelled_caught
        assert bench.stats().waiting == bench.count("claimed") == 0
        await bench.use(timeout=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", ["release first", "cancel first"])
@pytest.mark.parametrize("behind", [0, 2])
async def test_ff03_release_and_cancel_in_one_tick(
    autojump_clock: MockClock, kind: type[PlainLedgerConnector], order: str, behind: int
) -> None:
    """In either order the cancellation arrives, and those behind are served."""
    async with open_bench(connector=kind(), policy=policy_of(max_slots=1)) as bench:
        claim = await bench.acquire()
        scope = trio.CancelScope()
        served = []

        async def doomed() -> None:
            with scope:
                await bench.use()
                served.append("doomed")

        async def other() -> None:
            await bench.use()
            served.append("other")

        bench.nursery.start_soon(doomed)
        await bench.settle()
        for _ in range(behind):
            bench.nursery.start_soon(other)
        await bench.settle()
        if order == "release first":
            bench.release(claim)
            scope.cancel()
        else:
            scope.cancel()
            bench.release(claim)
        await bench.settle(0.5)
        assert served == ["other"] * behind
        assert scope.cancelled_caught
        await bench.use(timeout=1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["claim", "acquire"])
async def test_ff04_a_claim_in_a_cancelled_scope(
    autojump_clock: MockClock, kind: type[PlainLedgerConnector], method: str
) -> None:
    """In a cancelled scope a claim raises `Cancelled`, and a spare is not touched."""
    async with open_bench(connector=kind(), policy=policy_of(max_slots=1)) as bench:
        await bench.pool.wait_ready()
        before = bench.stats()
        asked = bench.ledger.calls["is_broken"]
        with trio.CancelScope() as scope:
            scope.cancel()
            if method == "claim":
                async with bench.pool.claim():
                    raise AssertionError("must not be entered")
            await bench.pool.acquire()
        assert scope.cancelled_caught
        assert bench.stats() == before
        assert bench.ledger.calls["on_acquire"] == 0
        assert bench.ledger.calls["is_broken"] == asked
        assert len(bench.ledger.idle) == 1


async def test_a_claim_in_a_cancelled_scope_is_never_parked(autojump_clock: MockClock) -> None:
    """In a cancelled scope a claim that would have to wait raises without waiting."""
    async with open_bench(policy=policy_of(max_slots=1)) as bench:
        claim = await bench.acquire()
        with trio.CancelScope() as scope:
            scope.cancel()
            await bench.pool.acquire(timeout=0)
        assert scope.cancelled_caught
        assert bench.stats().waiting == 0
        bench.release(claim)


# --------------------------------------------------------------------- sweeps


async def still_serves(bench: Bench, connections: int) -> None:
    """All of the slots can still be claimed, at once, and be given back."""
    bench.script.always("on_acquire", OK)
    async with trio.open_nursery() as nursery:
        for _ in range(connections):
            nursery.start_soon(lambda: bench.use(1, timeout=20))
    await bench.settle()
    assert bench.stats().waiting == bench.count("claimed") == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [0, 2])
def test_sweep_a_claim_that_finds_a_spare(kind: type[PlainLedgerConnector], steps: int) -> None:
    """Cancelling a claim with a spare at any step loses nothing."""

    async def scenario(one: Sweep) -> None:
        async with open_bench(
            connector=kind(Do(steps=steps)), policy=policy_of(max_slots=2)
        ) as bench:
            await bench.pool.wait_ready(2)
            finished = await one.target(bench.use, 1)
            assert finished is not one.fired
            await still_serves(bench, 2)

    assert sweep(scenario) > 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("behind", [0, 2])
def test_ff03_sweep_a_claim_that_waits_for_a_release(
    kind: type[PlainLedgerConnector], steps: int, behind: int
) -> None:
    """Cancelling a parked claim at any step loses nothing, and those behind are served."""

    async def scenario(one: Sweep) -> None:
        async with open_bench(
            connector=kind(Do(steps=steps)), policy=policy_of(max_slots=1)
        ) as bench:
            bench.nursery.start_soon(bench.use, 1)
            await bench.settle()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(one.target, bench.use, 1)
                await wait_all_tasks_blocked()
                for _ in range(behind):
                    nursery.start_soon(lambda: bench.use(1, timeout=20))
            await still_serves(bench, 2)
            assert bench.stats().claims >= 3 + behind

    assert sweep(scenario) > 2


@pytest.mark.parametrize("steps", [0, 2])
def test_sweep_a_claim_that_waits_for_a_dial(steps: int) -> None:
    """Cancelling a claim at any step leaves the dial alone: its connection is a spare."""

    async def scenario(one: Sweep) -> None:
        connector = LedgerConnector(Do(steps=steps))
        connector.script.always("connect", Do(steps=steps, delay=1))
        policy = policy_of(max_slots=1, spares_wanted=0)
        async with open_bench(connector=connector, policy=policy) as bench:
            await one.target(bench.use, 1)
            if trio.current_time() < 2:
                await bench.settle(1)
            await still_serves(bench, 1)
            assert all(dial.error is None for dial in bench.ledger.dials)

    assert sweep(scenario) > 2


@pytest.mark.parametrize("act", [Do(steps=3), slow(1), fails(OSError), fails(OSError, after=1)])
def test_ff05_sweep_a_claim_with_a_slow_on_acquire(act: Do) -> None:
    """Cancelling a claim inside ``on_acquire``, or between two of them, loses nothing."""

    async def scenario(one: Sweep) -> None:
        async with open_bench(policy=policy_of(max_slots=3, spares_wanted=3)) as bench:
            await bench.pool.wait_ready(3)
            bench.script.next("on_acquire", act, act)
            await one.target(bench.use, 1)
            await bench.settle()
            await still_serves(bench, 3)

    assert sweep(scenario) > 4


@pytest.mark.parametrize("shielded", [False, True])
async def test_ff05_cancelled_inside_on_acquire(autojump_clock: MockClock, shielded: bool) -> None:
    """A claimant cancelled inside ``on_acquire`` gives the slot back at once."""
    async with open_bench(policy=policy_of(max_slots=1, health_check_timeout=50)) as bench:
        await bench.pool.wait_ready()
        bench.script.next("on_acquire", Do(delay=3, shielded=True) if shielded else HANG)
        before = trio.current_time()
        with trio.move_on_after(1) as scope:
            await bench.use()
        assert scope.cancelled_caught
        assert trio.current_time() == before + (3 if shielded else 1)
        await bench.use(timeout=1)


@pytest.mark.parametrize("steps", [0, 2])
def test_sweep_a_claim_with_a_timeout(steps: int) -> None:
    """Cancelling a claim whose own timeout is about to end loses nothing."""

    async def target(bench: Bench) -> None:
        with pytest.raises(ClaimTimeoutError):
            await bench.use(timeout=1)

    async def scenario(one: Sweep) -> None:
        connector = LedgerConnector(Do(steps=steps))
        async with open_bench(connector=connector, policy=policy_of(max_slots=1)) as bench:
            bench.nursery.start_soon(bench.use, 5)
            await bench.settle()
            await one.target(target, bench)
            await still_serves(bench, 1)

    assert sweep(scenario) > 1


def test_sweep_acquire_and_release() -> None:
    """Cancelling a task that acquires and releases by hand loses nothing."""

    async def target(bench: Bench) -> None:
        claim = await bench.acquire()
        try:
            await trio.sleep(1)
        finally:
            bench.release(claim)

    async def scenario(one: Sweep) -> None:
        connector = LedgerConnector(Do(steps=1))
        async with open_bench(connector=connector, policy=policy_of(max_slots=2)) as bench:
            await one.target(target, bench)
            await still_serves(bench, 2)

    assert sweep(scenario) > 2


def test_sweep_wait_ready() -> None:
    """Cancelling `wait_ready` at any step changes nothing."""

    async def scenario(one: Sweep) -> None:
        connector = LedgerConnector(slow(1))
        async with open_bench(connector=connector, policy=policy_of(max_slots=2)) as bench:
            await one.target(bench.pool.wait_ready, 2)
            await still_serves(bench, 2)

    assert sweep(scenario) > 1


@pytest.mark.parametrize("act", [OK, Do(steps=2), slow(0.5), HANG, fails(OSError)])
def test_ff07_sweep_terminate(act: Do) -> None:
    """Cancelling `terminate` at any step leaks nothing, and the pool is closed regardless."""

    async def scenario(one: Sweep) -> None:
        connector = LedgerConnector()
        connector.script.always("disconnect", act)
        policy = policy_of(spares_wanted=5, drain_timeout=2)
        async with open_bench("ab", connector=connector, policy=policy) as bench:
            await bench.pool.wait_ready(5)
            bench.nursery.start_soon(bench.use, 1)
            await bench.settle()
            bench.ledger.hold_until = 0
            await one.target(bench.pool.terminate)
            await bench.pool.terminate()
            assert not bench.ledger.at_the_end()

    assert sweep(scenario, seeds=2) > 0


@pytest.mark.parametrize("act", [OK, Do(steps=2), slow(0.5), HANG])
@pytest.mark.parametrize("connect", [OK, slow(0.7), HANG, fails(OSError)])
@pytest.mark.parametrize("kind", KINDS)
def test_ff07_sweep_a_whole_pool(kind: type[PlainLedgerConnector], act: Do, connect: Do) -> None:
    """Cancelling a program with a pool at any of its steps closes every connection once."""

    async def target() -> None:
        connector = kind()
        connector.script.always("disconnect", act)
        connector.script.always("connect", connect)
        policy = policy_of(spares_wanted=4, max_slots=4, drain_timeout=2)
        async with open_bench("ab", connector=connector, policy=policy) as bench:
            # The nursery is cancelled with the body: what is lent may be closed at once.
            bench.ledger.hold_until = 0
            await trio.sleep(1)
            with trio.move_on_after(1):
                claim = await bench.pool.acquire()
                try:
                    await trio.sleep(0.5)
                finally:
                    claim.release()
            with trio.move_on_after(1):
                await bench.use(0.5)
            await trio.sleep(1)

    async def scenario(one: Sweep) -> None:
        await one.target(target)

    assert sweep(scenario, seeds=2) > 2


async def test_ff07_the_close_is_cancelled(autojump_clock: MockClock) -> None:
    """A second cancellation while closing does not stop the rest from being closed."""
    connector = LedgerConnector()
    connector.script.always("disconnect", slow(0.8))
    with trio.move_on_after(1) as outer, trio.move_on_after(0.5):
        async with open_bench(
            "abc", connector=connector, policy=policy_of(spares_wanted=9)
        ) as bench:
            await bench.pool.wait_ready(9)
            await trio.sleep(50)
    assert outer.cancel_called
    assert len(connector.ledger.closed) == 9
    assert not any(conn.forced for conn in connector.ledger.closed)


# ------------------------------------------------------------------------ dials


async def test_ff06_dials_do_not_belong_to_claimants(autojump_clock: MockClock) -> None:
    """Claims that give up just before the dials end leave a warm pool behind."""
    connector = LedgerConnector()
    connector.script.always("connect", slow(0.06))
    failed = 0

    async def client(bench: Bench) -> None:
        nonlocal failed
        try:
            await bench.use(timeout=0.05)
        except NoBackendsOnlineError:
            failed += 1

    policy = policy_of(spares_wanted=0, max_slots=16)
    async with open_bench("ab", connector=connector, policy=policy) as bench:
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(client, bench)
        assert failed == 100
        await bench.settle(0.02)
        assert bench.count("unclaimed") == len(bench.ledger.dials) <= 16
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(client, bench)
        assert failed == 100
        assert len(bench.ledger.dials) <= 16


async def test_ff06_a_cold_pool_gets_warm_under_impatient_clients(
    autojump_clock: MockClock,
) -> None:
    """A stream of claimants that give up early neither stops dials nor starts too many."""
    connector = LedgerConnector()
    connector.script.always("connect", slow(0.06))
    served: list[float] = []

    async def client(bench: Bench) -> None:
        with trio.move_on_after(0.01):
            await bench.use()
            served.append(trio.current_time())

    async with open_bench(
        connector=connector, policy=policy_of(spares_wanted=0, max_slots=4)
    ) as bench:
        start = trio.current_time()
        for _ in range(500):
            bench.nursery.start_soon(client, bench)
            await trio.sleep(0.002)
        assert served[0] - start <= 0.08
        assert len(bench.ledger.dials) <= 4
        assert len(served) > 400


# ------------------------------------------------------------------ timeouts race


@pytest.mark.parametrize("kind", KINDS)
async def test_the_timeout_and_the_release_at_one_instant(
    autojump_clock: MockClock, kind: type[PlainLedgerConnector]
) -> None:
    """A connection that is released at a claim's very deadline is either claimed or kept."""
    async with open_bench(connector=kind(), policy=policy_of(max_slots=1)) as bench:
        served = 0

        async def client() -> None:
            nonlocal served
            try:
                await bench.use(1, timeout=1)
            except ClaimTimeoutError:
                return
            served += 1

        for _ in range(30):
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(client)
            await bench.settle()
            assert bench.stats().waiting == bench.count("claimed") == 0
        assert served >= 30


async def test_release_inside_a_cancelled_scope_serves_the_next(
    autojump_clock: MockClock,
) -> None:
    """The connection of a cancelled holder is replaced for the claimant that waits."""
    async with open_bench(policy=policy_of(max_slots=1)) as bench:
        scope = trio.CancelScope()

        async def holder() -> None:
            with scope:
                await bench.use(100)

        bench.nursery.start_soon(holder)
        await bench.settle()
        bench.nursery.start_soon(bench.use)
        await bench.settle()
        scope.cancel()
        await bench.settle()
        assert bench.stats().claims == 2
        assert len(bench.ledger.closed) == 1


async def test_a_shielded_body_under_cancellation(autojump_clock: MockClock) -> None:
    """A body that shields its exchange ends it, and its connection is good for the next."""
    async with open_bench(policy=policy_of(max_slots=1)) as bench:
        with trio.CancelScope() as scope:
            async with bench.claim() as conn:
                scope.cancel()
                with trio.CancelScope(shield=True):
                    conn.begin()
                    await trio.sleep(1)
                    conn.finish()
        await bench.settle()
        assert bench.ledger.idle == [conn]


async def test_entering_and_leaving_do_not_swallow_a_cancellation(
    autojump_clock: MockClock,
) -> None:
    """A cancellation that arrives while a connection is handed over is not lost."""
    async with open_bench(policy=policy_of(max_slots=1)) as bench:
        claim = await bench.acquire()
        beyond = False

        async def doomed() -> None:
            nonlocal beyond
            with scope:
                async with bench.claim():
                    pass
                await trio.lowlevel.checkpoint()
                beyond = True

        scope = trio.CancelScope()
        bench.nursery.start_soon(doomed)
        await bench.settle()
        with assert_no_checkpoints():
            bench.release(claim)
            scope.cancel()
        await bench.settle()
        assert not beyond
        assert scope.cancelled_caught
