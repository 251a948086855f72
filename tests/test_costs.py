"""The costs of claims, counted in calls, plans, blocks and task steps, never in seconds."""

from __future__ import annotations

import gc
import logging
import math
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from itertools import pairwise
from types import FrameType
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import qorb_trio
from qorb_trio import (
    AllClaimsUsedError,
    Backend,
    Connector,
    FixedResolver,
    Instrument,
    NoBackendsError,
    Policy,
    Pool,
    PoolStats,
    Resolver,
    SetConfig,
    _phases,
)
from qorb_trio._pool import rebalancer
from qorb_trio.testing import FakeConnection, FakeConnector, HookedFakeConnector, ManualResolver

#: Backends, and slots of each: the smallest first, and points of two curves.
SHAPES = [(1, 16), (20, 4), (1000, 4), (1, 500), (1, 10_000)]


class PlainConnector(Connector[FakeConnection]):
    """Overrides no hook: there is nothing to check, to clean or to close."""

    async def connect(self, backend: Backend) -> FakeConnection:
        return FakeConnection(number=0, backend=backend, opened=0)


def some_backends(count: int, *, network: int = 0) -> list[Backend]:
    """Make `count` backends, with other addresses for each `network`."""
    return [Backend((f"10.{network}.{i // 250}.{i % 250}", 80)) for i in range(count)]


@asynccontextmanager
async def full_pool(
    backends: int,
    slots_each: int,
    *,
    connector: Connector[FakeConnection] | None = None,
    instruments: tuple[Instrument, ...] = (),
    resolver: Resolver | None = None,
    rebalance_interval: float = math.inf,
) -> AsyncIterator[Pool[FakeConnection]]:
    """A pool whose slots are all connected, with nothing left to do."""
    slots = backends * slots_each
    policy = Policy(
        spares_wanted=slots,
        max_slots=slots,
        rebalance_interval=rebalance_interval,
        set_config=SetConfig(max_count=slots_each, health_interval=math.inf),
    )
    resolver = resolver or FixedResolver(some_backends(backends))
    async with (
        trio.open_nursery() as nursery,
        qorb_trio.open_pool(
            nursery,
            resolver,
            connector or PlainConnector(),
            policy=policy,
            instruments=instruments,
        ) as pool,
    ):
        await pool.wait_ready(slots)
        await wait_all_tasks_blocked()
        yield pool


async def claim_and_release(pool: Pool[FakeConnection]) -> None:
    async with pool.claim():
        pass


@contextmanager
def counting_calls() -> Iterator[Counter[str]]:
    """Count the calls of this project's functions in the block, by any task."""
    calls: Counter[str] = Counter()

    def note(frame: FrameType, event: str, arg: object) -> None:
        if event == "call" and frame.f_globals["__name__"].startswith("qorb_trio."):
            calls[frame.f_code.co_qualname] += 1

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield calls
    finally:
        sys.setprofile(before)


async def count_calls(pool: Pool[FakeConnection]) -> Counter[str]:
    """The functions of this project that one claim and its release call."""
    with counting_calls() as calls:
        await claim_and_release(pool)
    return calls


async def most_calls(pool: Pool[FakeConnection]) -> int:
    """The most calls that any of some claims makes: which backend it gets is chance."""
    return max([(await count_calls(pool)).total() for _ in range(20)])


class CountingPlans(Instrument):
    """An instrument that counts the runs of the planner."""

    def __init__(self) -> None:
        self.plans = 0

    def rebalance_start(self, pool: str) -> None:
        self.plans += 1


class CountingSteps(trio.abc.Instrument):
    """An instrument that counts the steps of each task."""

    def __init__(self) -> None:
        self.steps: Counter[str] = Counter()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.steps[task.name] += 1


async def count_steps(pool: Pool[FakeConnection], claims: int) -> Counter[str]:
    """The steps that all other tasks take while this one claims and releases."""
    counting = CountingSteps()
    trio.lowlevel.add_instrument(counting)
    try:
        for _ in range(claims):
            await claim_and_release(pool)
        await wait_all_tasks_blocked()
    finally:
        trio.lowlevel.remove_instrument(counting)
    del counting.steps[trio.lowlevel.current_task().name]
    return counting.steps


async def blocks_of_claims(pool: Pool[FakeConnection], claims: int = 10) -> int:
    """Return the memory blocks that `claims` held claims take: the least of five tries."""
    blocks = []
    for _ in range(5):
        gc.collect()
        before = sys.getallocatedblocks()
        held = [await pool.acquire() for _ in range(claims)]
        blocks.append(sys.getallocatedblocks() - before)
        for claim in held:
            claim.release()
    return min(blocks)


@pytest.mark.parametrize(("backends", "slots_each"), SHAPES[1:], ids=str)
async def test_calls_and_memory_of_a_claim_are_flat(backends: int, slots_each: int) -> None:
    """Neither many backends nor many idle slots add to a claim, beyond one choice."""
    async with full_pool(*SHAPES[0]) as pool:
        calls, blocks = await most_calls(pool), await blocks_of_claims(pool)
    async with full_pool(backends, slots_each) as pool:
        # To choose between two backends is to pick them, to ask both for their load, to compare.
        assert await most_calls(pool) <= calls + (4 if backends > 1 else 0)
        assert await blocks_of_claims(pool) <= blocks + 10
    assert blocks >= 10  # each claim is an object at least


async def test_a_pool_with_one_spare_per_backend_pays_no_more() -> None:
    """A backend that loses its last spare, and gets it back, moves at most one other."""
    async with full_pool(10, 1) as pool:
        few = await most_calls(pool)
    async with full_pool(1000, 1) as pool:
        many = await most_calls(pool)
    assert many <= few


async def lines_of_keyed_claims(pool: Pool[FakeConnection]) -> int:
    """The lines of this project that some claims with keys run, each on another backend."""
    claims = [await pool.acquire(key=key) for key in range(5)]
    for claim in claims:
        claim.release()
    lines = 0

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal lines
        if not frame.f_globals["__name__"].startswith("qorb_trio."):
            return None
        lines += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        claims = [await pool.acquire(key=key) for key in range(5)]
        for claim in claims:
            claim.release()
    finally:
        sys.settrace(before)
    return lines


async def test_a_key_costs_no_more_in_a_busy_pool() -> None:
    """Claims with keys that were seen before do not look at all backends."""
    lines = []
    for backends in (10, 100, 1000):
        async with full_pool(backends, 1) as pool:
            lines.append(await lines_of_keyed_claims(pool))
    assert max(lines) <= 1.2 * min(lines), lines


async def test_the_calls_of_a_claim_are_few() -> None:
    """A claim stays within a budget of calls, so that no change adds one by accident."""
    async with full_pool(*SHAPES[0]) as pool:
        # The end of a claim that begins in a new second is recorded in full; others are counted.
        counts = [(await count_calls(pool)).total() for _ in range(3)]
    assert min(counts) <= 12, counts
    assert max(counts) <= 25, counts


@pytest.mark.parametrize(("backends", "slots_each"), [(1, 16), (100, 4)])
async def test_warm_claims_cause_no_plan(backends: int, slots_each: int) -> None:
    """Claims that find spares, and their releases, never have the planner run."""
    plans = CountingPlans()
    async with full_pool(backends, slots_each, instruments=(plans,)) as pool:
        before = plans.plans
        assert before
        for _ in range(100):
            await claim_and_release(pool)
        async with pool.claim(), pool.claim(), pool.claim():
            await wait_all_tasks_blocked()
        await wait_all_tasks_blocked()
        assert plans.plans == before


async def test_a_plan_serves_many_claimants() -> None:
    """A hundred claimants that come at once cause one plan, not a hundred."""
    plans = CountingPlans()
    async with full_pool(1, 4, instruments=(plans,)) as pool:
        before = plans.plans
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(claim_and_release, pool)
        assert plans.plans - before <= 1


async def park(
    pool: Pool[FakeConnection], waiters: int, nursery: trio.Nursery
) -> list[trio.CancelScope]:
    """Start `waiters` tasks that wait in the queue; a task that is served keeps its claim."""

    async def claim_and_keep(scope: trio.CancelScope) -> None:
        with scope:
            async with pool.claim():
                await trio.sleep_forever()

    scopes = [trio.CancelScope() for _ in range(waiters)]
    for scope in scopes:
        nursery.start_soon(claim_and_keep, scope)
    await wait_all_tasks_blocked()
    return scopes


async def calls_in_line(waiters: int) -> list[Counter[str]]:
    """Count the calls to be served, to join and to leave a queue of `waiters` claimants."""
    async with full_pool(1, 16) as pool, trio.open_nursery() as nursery:
        claims = [await pool.acquire() for _ in range(16)]
        await park(pool, waiters, nursery)
        with counting_calls() as served:
            claims.pop().release()
            await wait_all_tasks_blocked()
        with counting_calls() as came:
            (late,) = await park(pool, 1, nursery)
        with counting_calls() as left:
            late.cancel()
            await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        for claim in claims:
            claim.release()
    return [served, came, left]


async def test_a_long_line_costs_no_more_than_a_short_one() -> None:
    """Behind 5,000 waiters one comes, is served and leaves by the same calls as behind 16."""
    short = await calls_in_line(16)
    assert all(short)
    assert await calls_in_line(5000) == short


async def test_plans_do_not_grow_with_the_line() -> None:
    """A thousand claimants that are served in turn cause no more plans than twenty."""
    plans = []
    for waiters in (20, 1000):
        counting = CountingPlans()
        async with full_pool(1, 4, instruments=(counting,)) as pool:
            before = counting.plans
            async with trio.open_nursery() as nursery:
                for _ in range(waiters):
                    nursery.start_soon(claim_and_release, pool)
            plans.append(counting.plans - before)
    assert plans[1] <= plans[0]


async def calls_of_a_life(backends: int) -> list[float]:
    """The calls that a slot takes on average: to start, to be replaced, to end."""
    slots = 4 * backends
    resolver = ManualResolver(some_backends(backends))
    phases = []
    with counting_calls() as calls:
        async with full_pool(backends, 4, resolver=resolver):
            phases.append(calls.total())
            resolver.set(some_backends(backends, network=1))
            await wait_all_tasks_blocked()
            phases.append(calls.total())
    phases.append(calls.total())
    return [(after - before) / slots for before, after in pairwise([0, *phases])]


async def test_slots_of_a_big_pool_take_no_more_calls() -> None:
    """To start, to replace and to end a slot costs the same in a big pool as in a small one."""
    few, many = await calls_of_a_life(20), await calls_of_a_life(200)
    assert min(few) > 1
    for small, big in zip(few, many, strict=True):
        assert big <= 1.1 * small


async def calls_of_a_refusal(slots: int) -> int:
    """Return the number of calls to refuse a claim while `slots` claims are held."""
    async with full_pool(1, slots) as pool, AsyncExitStack() as claims:
        for _ in range(slots):
            await claims.enter_async_context(pool.claim())
        with counting_calls() as calls:
            with pytest.raises(AllClaimsUsedError):
                await pool.acquire(timeout=0)
    return calls.total()


async def test_many_claims_do_not_make_a_refusal_dear() -> None:
    """A refusal takes the same number of calls with 5,000 held claims as with five."""
    assert await calls_of_a_refusal(5000) == await calls_of_a_refusal(5)


async def test_refusals_of_a_big_pool_share_their_statistics(autojump_clock: MockClock) -> None:
    """In a pool with a thousand backends, a flood of refusals takes statistics once in a while."""
    async with full_pool(1000, 1) as pool, AsyncExitStack() as claims:
        for _ in range(1000):
            await claims.enter_async_context(pool.claim())

        async def refused() -> tuple[int, PoolStats]:
            with counting_calls() as calls, pytest.raises(AllClaimsUsedError) as info:
                await pool.acquire(timeout=0)
            return calls.total(), info.value.stats

        first, stats = await refused()
        second, same = await refused()
        assert same is stats
        assert first > 1000
        assert second < 100
        await trio.sleep(0.2)
        _, other = await refused()
        assert other is not stats


async def steps_while_idle(backends: int) -> Counter[str]:
    """The steps that all tasks take in ten minutes in which nothing happens."""
    counting = CountingSteps()
    async with full_pool(backends, 4, rebalance_interval=60):
        await trio.sleep(5)  # once, the planner looks whether the last dials hang
        trio.lowlevel.add_instrument(counting)
        await trio.sleep(630)
        trio.lowlevel.remove_instrument(counting)
    return counting.steps


async def test_an_idle_pool_sleeps(autojump_clock: MockClock) -> None:
    """An idle pool of any size takes steps only for the periodic rebalance."""
    steps = await steps_while_idle(1)
    assert steps.total() <= 10 + 1  # and this task's own
    assert await steps_while_idle(100) == steps


async def test_without_hooks_a_return_wakes_nobody() -> None:
    """A connector that overrides no hook: no other task takes a step, at claim or return."""
    async with full_pool(1, 16) as pool:
        steps = await count_steps(pool, 20)
    assert not steps


async def test_with_hooks_a_return_is_work_for_others() -> None:
    """A connector that recycles has it done by a task: the count above does count."""
    async with full_pool(1, 16, connector=HookedFakeConnector()) as pool:
        steps = await count_steps(pool, 20)
    assert steps


async def test_warm_claims_leave_nothing_behind() -> None:
    """After a thousand more claims the pool holds as much memory as before."""
    async with full_pool(1, 16) as pool:
        for _ in range(200):
            await claim_and_release(pool)
        gc.collect()
        before = sys.getallocatedblocks()
        for _ in range(1000):
            await claim_and_release(pool)
        gc.collect()
        after = sys.getallocatedblocks()
    assert after - before < 200


async def test_waiting_leaves_nothing_behind() -> None:
    """Nor do claimants that had to wait, for all that each leaves a deadline."""

    async def crowd() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(claim_and_release, pool)

    async with full_pool(1, 2) as pool:
        for _ in range(5):
            await crowd()
        gc.collect()
        before = sys.getallocatedblocks()
        for _ in range(20):
            await crowd()
        gc.collect()
        after = sys.getallocatedblocks()
    # 2,000 claimants have waited; of their deadlines less than a hundred may linger.
    assert after - before < 1000


async def test_an_idle_slot_is_no_task() -> None:
    """A thousand idle slots have as many tasks as ten."""
    counts = []
    for slots in (10, 1000):
        async with full_pool(1, slots):
            counts.append(trio.lowlevel.current_statistics().tasks_living)
    assert counts[0] == counts[1]


async def test_a_pool_at_rest_has_only_the_tasks_that_it_needs(autojump_clock: MockClock) -> None:
    """There are the main task and the planner; no backend has a task while nothing is under way."""
    # A claimant that waits adds the task that counts its time. Here it waits before the pool
    # has taken its first step.
    policy = Policy(spares_wanted=3, max_slots=3, claim_timeout=5)
    async with trio.open_nursery() as nursery:
        before = trio.lowlevel.current_statistics().tasks_living
        resolver = FixedResolver(some_backends(10))
        pool_of = qorb_trio.open_pool(nursery, resolver, PlainConnector(), policy=policy)
        async with pool_of as pool:
            await pool.wait_ready(3)
            await wait_all_tasks_blocked()
            assert trio.lowlevel.current_statistics().tasks_living - before == 2

        resolver = FixedResolver([])
        pool_of = qorb_trio.open_pool(nursery, resolver, PlainConnector(), policy=policy)
        async with pool_of as pool:
            begin = trio.current_time()
            with pytest.raises(NoBackendsError):
                await pool.acquire()
            assert trio.current_time() == begin + 5


#: Numbers of known backends; of more than 64, a few are active.
KNOWN = [100, 1000, 10_000]


@asynccontextmanager
async def pool_that_knows(
    backends: int, resolver: ManualResolver | None = None
) -> AsyncIterator[Pool[FakeConnection]]:
    """A settled pool with the default policy that knows `backends` backends."""
    resolver = resolver or ManualResolver(some_backends(backends))
    async with trio.open_nursery() as nursery:
        policy = Policy(set_config=SetConfig(health_interval=math.inf))
        connector = FakeConnector(connect_delay=0.01)
        async with qorb_trio.open_pool(
            nursery, resolver, connector, policy=policy, rng=random.Random(1)
        ) as pool:
            await pool.wait_ready(8)
            await trio.sleep(1)
            yield pool


async def calls_within(seconds: float) -> int:
    """The calls of functions of this project within some seconds of virtual time."""
    with counting_calls() as calls:
        await trio.sleep(seconds)
    return calls.total()


async def costs_of(backends: int) -> dict[str, int]:
    """The calls that claims, statistics, a rebalance and a failure take."""
    async with pool_that_knows(backends) as pool:
        assert pool.stats().known == backends
        costs = {"claim": await most_calls(pool)}
        with counting_calls() as calls:
            pool.stats()
        costs["statistics"] = calls.total()
        with counting_calls() as calls, pool.claim_nowait() as connection:
            connection.broken = True
        costs["failure"] = calls.total() + await calls_within(1)
        costs["rebalance"] = await calls_within(60)
    return costs


async def test_what_a_pool_does_not_use_costs_nothing(autojump_clock: MockClock) -> None:
    """Claims, statistics, rebalances and the failure of one backend cost the same with 100
    and with 10,000 known backends."""
    few, *others = [await costs_of(backends) for backends in KNOWN]
    assert min(few.values()) > 5
    for many in others:
        for operation, calls in many.items():
            assert calls <= 1.15 * few[operation] + 5, operation


async def test_few_backends_are_not_much_cheaper_than_many(autojump_clock: MockClock) -> None:
    """With 10,000 known backends, at most 17 are active and not 10: that is the difference."""
    few, many = await costs_of(10), await costs_of(KNOWN[-1])
    for operation in ("claim", "statistics", "failure"):
        assert many[operation] <= 2.5 * few[operation], operation


async def calls_of_a_new_set(backends: int) -> list[float]:
    """The calls per backend to read a first set, the same set again, and another one."""
    resolver = ManualResolver(some_backends(backends))
    sets = [some_backends(backends), some_backends(backends, network=1)]
    phases = []
    with counting_calls() as calls:
        async with pool_that_knows(backends, resolver):
            phases.append(calls.total())
            for found in sets:
                before = calls.total()
                resolver.set(found)
                await trio.sleep(1)
                phases.append(calls.total() - before)
    return [phase / backends for phase in phases]


async def test_a_new_set_costs_a_few_calls_per_backend(autojump_clock: MockClock) -> None:
    """Reading a set is linear in its size, and a backend that stays costs less than a new one."""
    few, many = await calls_of_a_new_set(1000), await calls_of_a_new_set(10_000)
    for small, big in zip(few, many, strict=True):
        assert big <= 1.1 * small
    first, same, other = many
    assert max(first, same) <= 20
    assert other <= 40


class LongestPass(trio.abc.Instrument):
    """The most calls of this project's functions in one pass of the loop."""

    def __init__(self, calls: Counter[str]) -> None:
        self.calls = calls
        self.most = 0
        self._began: int | None = None

    def after_io_wait(self, timeout: float) -> None:
        self._began = self.calls.total()

    def before_io_wait(self, timeout: float) -> None:
        if self._began is not None:
            self.most = max(self.most, self.calls.total() - self._began)


async def test_a_large_set_leaves_the_loop_its_turns(autojump_clock: MockClock) -> None:
    """While 20,000 backends are read, no pass of the loop makes more than 3,000 calls."""
    resolver = ManualResolver(some_backends(1))
    found = some_backends(20_000)
    async with pool_that_knows(1, resolver) as pool:
        resolver.set(found)
        with counting_calls() as calls:
            longest = LongestPass(calls)
            trio.lowlevel.add_instrument(longest)
            await trio.sleep(5)
            trio.lowlevel.remove_instrument(longest)
        assert pool.stats().known == len(found)
    assert 100 < longest.most <= 3000


class HalfRefusing(PlainConnector):
    """Refuses to connect to every other backend."""

    async def connect(self, backend: Backend) -> FakeConnection:
        await trio.lowlevel.checkpoint()
        if int(backend.name.split(":")[0].rpartition(".")[2]) % 2:
            raise ConnectionRefusedError
        return await super().connect(backend)


async def longest_pass(backends: int) -> int:
    """The most calls in one pass, from the start to the end of a pool with slots everywhere."""
    policy = Policy(
        spares_wanted=2 * backends,
        max_slots=2 * backends,
        set_config=SetConfig(max_count=2, health_interval=math.inf),
    )
    resolver = ManualResolver(some_backends(backends))
    with counting_calls() as calls:
        longest = LongestPass(calls)
        trio.lowlevel.add_instrument(longest)
        async with (
            trio.open_nursery() as nursery,
            qorb_trio.open_pool(nursery, resolver, HalfRefusing(), policy=policy) as pool,
        ):
            await pool.wait_ready(backends)
            await trio.sleep(0.5)
        trio.lowlevel.remove_instrument(longest)
    return longest.most


async def test_slots_on_many_backends_leave_the_loop_its_turns(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With slots on 1,000 backends, and half of them refusing, no pass makes more calls than
    with 300: neither while they are opened, nor later, nor at the end."""
    caplog.set_level(logging.CRITICAL, "qorb_trio")
    # A fifth of the usual numbers, because what counts calls takes long.
    monkeypatch.setattr(rebalancer, "FEW_VIEWS", rebalancer.FEW_VIEWS // 5)
    monkeypatch.setattr(_phases, "SLICE", _phases.SLICE // 5)
    few, many = [await longest_pass(backends) for backends in (300, 1000)]
    assert 500 < many <= 1.1 * few
    assert many <= 2500
