"""The policy's `max_waiting`, `fail_fast_after` and `queue_target`, in whole pools."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from qorb_trio import (
    AllClaimsUsedError,
    ClaimError,
    ClaimTimeoutError,
    NoBackendsError,
    NoBackendsOnlineError,
    Pool,
    PoolOverloadedError,
    PoolTerminatedError,
    open_pool,
)
from qorb_trio.testing import FakeConnection, FakeConnector, HookedFakeConnector, ManualResolver

from ..harness import policy_of

A, B = "a.test:1", "b.test:1"


@asynccontextmanager
async def pool_with(
    connector: FakeConnector, *backends: str, ready: int = 0, **fields: Any
) -> AsyncIterator[Pool[FakeConnection]]:
    """A pool over these backends, with that policy; at first `ready` slots are connected."""
    fields = {"max_slots": 2, "spares_wanted": 2, "drain_timeout": 0, **fields}
    async with (
        trio.open_nursery() as nursery,
        open_pool(nursery, ManualResolver(backends), connector, policy=policy_of(**fields)) as pool,
    ):
        if ready:
            await pool.wait_ready(ready)
        yield pool


@attrs.define
class Tally:
    """The claims of some clients: when they began, how long they waited, and what they got."""

    waits: list[tuple[float, float]] = attrs.field(factory=list)
    """Of those that were served: when they came, and how long they waited."""
    refusals: list[tuple[float, ClaimError]] = attrs.field(factory=list)
    """Of the others: when they were refused, and by which error."""

    async def claim(self, pool: Pool[Any], hold: float = 0, **options: Any) -> None:
        """Claim a connection, and hold it for a while."""
        came = trio.current_time()
        try:
            async with pool.claim(**options):
                self.waits.append((came, trio.current_time() - came))
                await trio.sleep(hold)
        except ClaimError as exc:
            self.refusals.append((trio.current_time(), exc))

    @property
    def kinds(self) -> list[type[ClaimError]]:
        """The classes of the errors."""
        return [type(exc) for _, exc in self.refusals]


# --------------------------------------------------------------------------- max_waiting


async def test_one_too_many_is_refused_in_the_step_in_which_it_comes(
    autojump_clock: MockClock,
) -> None:
    """With ``max_waiting=2``, the third waiting claimant is refused, and no other."""
    tally = Tally()
    async with pool_with(FakeConnector(), A, ready=2, max_waiting=2) as pool:
        async with pool.claim(), pool.claim(), trio.open_nursery() as clients:
            for _ in range(2):
                clients.start_soon(tally.claim, pool)
            await wait_all_tasks_blocked()
            began = trio.current_time()
            with pytest.raises(PoolOverloadedError, match="2 claimants wait already") as caught:
                await pool.acquire()
            assert trio.current_time() == began
            assert isinstance(caught.value, ClaimTimeoutError)
            assert caught.value.stats.waiting == pool.stats().waiting == 2
            assert caught.value.stats.shed == pool.stats().shed == 1
            clients.cancel_scope.deadline = trio.current_time() + 1
        assert not tally.refusals


async def test_the_refused_change_nothing_for_the_others(autojump_clock: MockClock) -> None:
    """A thousand claims that are refused cause no dial and no plan, and cost nobody a place."""
    tally = Tally()
    connector = FakeConnector(connect_delay=1)
    async with pool_with(
        connector, A, ready=1, max_slots=1, spares_wanted=0, max_waiting=1
    ) as pool:
        async with trio.open_nursery() as clients:
            clients.start_soon(tally.claim, pool, 5)
            await trio.sleep(1)
            clients.start_soon(tally.claim, pool)
            await wait_all_tasks_blocked()
            for _ in range(1000):
                with pytest.raises(PoolOverloadedError):
                    await pool.acquire()
        assert [wait for _, wait in tally.waits] == [0, 4]
        assert connector.calls["connect"] == 1
        assert pool.stats().shed == 1000


async def test_with_max_waiting_0_nobody_waits(autojump_clock: MockClock) -> None:
    """A claim takes a spare or fails at once, whatever its timeout."""
    async with pool_with(FakeConnector(), A, ready=2, max_waiting=0) as pool:
        async with pool.claim(), pool.claim():
            for timeout in (None, 5, math.inf):
                with pytest.raises(PoolOverloadedError, match="0 claimants wait already"):
                    await pool.acquire(timeout=timeout)
        async with pool.claim():
            pass


async def test_a_claim_that_does_not_wait_is_not_refused_by_a_rule(
    autojump_clock: MockClock,
) -> None:
    """``timeout=0`` never enters the queue: it fails as without `max_waiting`, uncounted."""
    async with pool_with(FakeConnector(), A, ready=2, max_waiting=0) as pool:
        async with pool.claim(), pool.claim():
            with pytest.raises(AllClaimsUsedError):
                await pool.acquire(timeout=0)
        assert pool.stats().shed == 0


async def test_one_that_is_put_back_is_not_counted_again(autojump_clock: MockClock) -> None:
    """A claimant whose ``on_acquire`` failed waits again though the queue is full."""
    connector = HookedFakeConnector()
    tally = Tally()
    async with pool_with(
        connector, A, ready=1, max_slots=1, spares_wanted=1, max_waiting=1
    ) as pool:
        connector.fail(on="on_acquire")
        connector.slow(A, 1)
        connector.slow(A, 2, on="on_acquire")
        async with trio.open_nursery() as clients:
            clients.start_soon(tally.claim, pool)  # has the spare, and is being set up
            await wait_all_tasks_blocked()
            clients.start_soon(tally.claim, pool)  # waits, so that the queue is full
            await trio.sleep(2.5)
            assert pool.stats().waiting == 2
            with pytest.raises(PoolOverloadedError):
                await pool.acquire()
            connector.heal()
        assert len(tally.waits) == 2


async def test_a_program_that_retries_at_once_lets_others_run(autojump_clock: MockClock) -> None:
    """A refusal is a checkpoint: a loop of refused claims does not stop the holder."""
    refused = 0

    async def insist(pool: Pool[Any]) -> None:
        nonlocal refused
        for _ in range(1000):
            try:
                async with pool.claim():
                    return
            except PoolOverloadedError:
                refused += 1
        pytest.fail("the holder could not run")

    async with pool_with(
        FakeConnector(), A, ready=1, max_slots=1, spares_wanted=1, max_waiting=0
    ) as pool:
        async with trio.open_nursery() as clients:
            claim = await pool.acquire()
            clients.start_soon(insist, pool)
            for _ in range(5):
                await trio.lowlevel.checkpoint()
            claim.release()
    assert refused > 1


# ----------------------------------------------------------------------- fail_fast_after


async def test_claims_fail_fast_when_every_backend_has_failed_for_long(
    autojump_clock: MockClock,
) -> None:
    """After 3 s of failure the waiting and the new get what a time-out would have given."""
    connector = FakeConnector()
    connector.fail(exc=ConnectionRefusedError("no"))
    tally = Tally()
    async with pool_with(connector, A, B, fail_fast_after=3) as pool:
        async with trio.open_nursery() as clients:
            for _ in range(3):
                clients.start_soon(tally.claim, pool)
        assert [time for time, _ in tally.refusals] == [3, 3, 3]
        assert tally.kinds == [NoBackendsOnlineError] * 3
        await trio.sleep(1)
        before = trio.current_time()
        await tally.claim(pool)
        time, error = tally.refusals[-1]
        assert time == before
        assert type(error) is NoBackendsOnlineError
        assert isinstance(error.__cause__, ConnectionRefusedError)
        assert "none of 2 backends is online" in str(error)
        assert pool.stats().shed == 0


async def test_failing_fast_ends_with_the_first_connection(autojump_clock: MockClock) -> None:
    """As soon as one backend is connected, claims wait again; a new outage counts anew."""
    connector = FakeConnector()
    connector.fail()
    tally = Tally()
    async with pool_with(connector, A, B, max_slots=4, fail_fast_after=3) as pool:
        await trio.sleep(10)
        connector.heal(A)
        await pool.wait_ready()
        async with pool.claim(), pool.claim():  # the second one waits for its dial
            pass
        connector.crash(A)
        began = trio.current_time()
        await tally.claim(pool)
        assert tally.refusals[0][0] == pytest.approx(began + 3, abs=0.1)


async def test_a_first_dial_keeps_everybody_waiting(autojump_clock: MockClock) -> None:
    """One backend that dials for the first time is no outage, if the others all fail."""
    connector = FakeConnector()
    connector.fail(A)
    connector.slow(B, 0.9)
    tally = Tally()
    async with pool_with(connector, A, B, fail_fast_after=0.5) as pool:
        await tally.claim(pool)
    assert [wait for _, wait in tally.waits] == [0.9]


async def test_a_dial_that_hangs_counts_as_failing(autojump_clock: MockClock) -> None:
    """A first dial that takes suspiciously long, here more than 1 s, is an outage from then."""
    connector = FakeConnector()
    connector.stall()
    tally = Tally()
    async with pool_with(connector, A, fail_fast_after=2) as pool:
        await tally.claim(pool)
        assert tally.kinds == [NoBackendsOnlineError]
        assert tally.refusals[0][0] == pytest.approx(3, abs=0.1)


async def test_no_known_backend_is_an_outage(autojump_clock: MockClock) -> None:
    """While the resolver knows no backend, claims fail after `fail_fast_after` too."""
    tally = Tally()
    async with pool_with(FakeConnector(), fail_fast_after=2) as pool:
        async with trio.open_nursery() as clients:
            clients.start_soon(tally.claim, pool)
            await trio.sleep(1)
            clients.start_soon(tally.claim, pool)
        assert [time for time, _ in tally.refusals] == [2, 2]
        assert tally.kinds == [NoBackendsError] * 2


async def test_a_pool_begins_as_an_outage(autojump_clock: MockClock) -> None:
    """The time counts from the start of the pool, not from the first claim."""
    tally = Tally()
    async with pool_with(FakeConnector(), fail_fast_after=2) as pool:
        await trio.sleep(5)
        await tally.claim(pool)
        assert [time for time, _ in tally.refusals] == [5]


async def test_a_connection_that_is_left_is_no_outage(autojump_clock: MockClock) -> None:
    """A backend that refuses new connections, but holds an old one, keeps claimants waiting."""
    connector = FakeConnector()
    tally = Tally()
    async with pool_with(
        connector, A, ready=1, max_slots=2, spares_wanted=1, fail_fast_after=1
    ) as pool:
        async with trio.open_nursery() as clients:
            clients.start_soon(tally.claim, pool, 10)
            await trio.lowlevel.checkpoint()
            connector.fail()
            await trio.sleep(0.5)
            clients.start_soon(tally.claim, pool)
    assert not tally.refusals
    assert [wait for _, wait in tally.waits] == [0, 9.5]


async def test_without_fail_fast_an_outage_lasts_until_the_deadline(
    autojump_clock: MockClock,
) -> None:
    """By default no claim fails before its own timeout."""
    connector = FakeConnector()
    connector.fail()
    tally = Tally()
    async with pool_with(connector, A, claim_timeout=100) as pool:
        await tally.claim(pool)
    assert [time for time, _ in tally.refusals] == [100]


# -------------------------------------------------------------------------- queue_target


async def overload(pool: Pool[Any], tally: Tally, *, hold: float, every: float, end: float) -> None:
    """A claim at each of these intervals, until the end."""
    async with trio.open_nursery() as clients:
        for i in range(round(end / every)):
            await trio.sleep_until(i * every)
            clients.start_soon(tally.claim, pool, hold)


async def test_at_twice_the_capacity_waits_stay_short(autojump_clock: MockClock) -> None:
    """The scenario of 20 s: the first refusal, the number of those served, their waits."""
    tally = Tally()
    async with pool_with(FakeConnector(), A, ready=2, queue_target=0.05) as pool:
        await overload(pool, tally, hold=0.1, every=0.025, end=20)
        assert pool.stats().shed == len(tally.refusals)
        assert pool.stats().waiting == 0
    assert set(tally.kinds) == {PoolOverloadedError}
    assert tally.refusals[0][0] == pytest.approx(2.05, abs=0.1)
    assert len(tally.waits) == pytest.approx(402, abs=8)
    assert len(tally.waits) + len(tally.refusals) == 800
    assert max(wait for came, wait in tally.waits if came > 5) <= 0.105


async def test_a_burst_is_served_in_full(autojump_clock: MockClock) -> None:
    """100 claims at one instant on 16 connections: nobody is refused, in whatever order."""
    tally = Tally()
    async with pool_with(
        FakeConnector(), A, ready=16, max_slots=16, spares_wanted=16, queue_target=0.05
    ) as pool:
        async with trio.open_nursery() as clients:
            for _ in range(100):
                clients.start_soon(tally.claim, pool, 0.1)
    assert not tally.refusals
    assert max(wait for _, wait in tally.waits) == pytest.approx(0.6)


async def test_bursts_after_an_overload_are_served(autojump_clock: MockClock) -> None:
    """The queue running empty ends the overload."""
    tally = Tally()
    async with pool_with(FakeConnector(), A, ready=2, queue_target=0.05) as pool:
        await overload(pool, tally, hold=0.1, every=0.025, end=5)
        refused = len(tally.refusals)
        assert refused > 20
        await trio.sleep(1)
        async with trio.open_nursery() as clients:
            for _ in range(12):
                clients.start_soon(tally.claim, pool, 0.1)
    assert len(tally.refusals) == refused


async def test_a_queue_that_is_stuck_is_shed_by_the_timer(autojump_clock: MockClock) -> None:
    """The timer refuses claimants if no connection is released, as there is no hand-over."""
    tally = Tally()
    async with pool_with(
        FakeConnector(), A, ready=1, max_slots=1, spares_wanted=1, queue_target=0.05
    ) as pool:
        async with pool.claim(), trio.open_nursery() as clients:
            for _ in range(3):
                clients.start_soon(tally.claim, pool)
            await trio.sleep(10)
        assert [round(time, 3) for time, _ in tally.refusals] == [1, 1, 1]
        assert pool.stats().shed == 3


async def test_a_connection_for_the_refused_becomes_a_spare(autojump_clock: MockClock) -> None:
    """If a hand-over finds that all who wait are refused, the connection is kept as a spare."""
    tally = Tally()
    connector = FakeConnector()
    async with pool_with(
        connector, A, ready=1, max_slots=1, spares_wanted=1, queue_target=0.05
    ) as pool:
        async with trio.open_nursery() as clients:
            claim = await pool.acquire()
            clients.start_soon(tally.claim, pool)
            await trio.sleep(0.95)
            clients.start_soon(tally.claim, pool)
            # The first is refused at 1 s; the second, in line for 0.1 s, at the hand-over.
            await trio.sleep(0.1)
            autojump_clock.autojump_threshold = math.inf
            autojump_clock.jump(0.001)
            claim.release()
            assert pool.stats().backends[A].unclaimed == 1
            autojump_clock.autojump_threshold = 0
        assert tally.kinds == [PoolOverloadedError] * 2
        assert connector.disconnects == 0


async def test_the_rules_are_off_by_default(autojump_clock: MockClock) -> None:
    """At twice the capacity, everybody waits, in order, and nobody is refused."""
    tally = Tally()
    async with pool_with(FakeConnector(), A, ready=2) as pool:
        await overload(pool, tally, hold=0.1, every=0.025, end=5)
        assert pool.stats().shed == 0
    assert len(tally.waits) == 200
    assert [came for came, _ in tally.waits] == sorted(came for came, _ in tally.waits)


@pytest.mark.parametrize("rule", ["max_waiting", "fail_fast_after", "queue_target"])
async def test_the_end_of_a_pool_refuses_as_ever(rule: str, autojump_clock: MockClock) -> None:
    """Claimants that wait while the pool ends get `PoolTerminatedError`, with any rule on."""
    tally = Tally()
    async with trio.open_nursery() as clients:
        async with pool_with(FakeConnector(), A, ready=2, **{rule: 50}) as pool:
            for _ in range(4):
                clients.start_soon(tally.claim, pool, 5)
            await wait_all_tasks_blocked()
            with suppress(PoolTerminatedError):
                await pool.terminate()
    assert tally.kinds == [PoolTerminatedError] * 2
