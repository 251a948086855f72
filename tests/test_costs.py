"""What claims cost, counted in calls, plans, blocks and task steps, never in seconds."""

from __future__ import annotations

import gc
import math
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import FrameType

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import qorb_trio
from qorb_trio import Backend, Connector, FixedResolver, Instrument, Policy, Pool, SetConfig
from qorb_trio.testing import FakeConnection, HookedFakeConnector

#: Backends, and slots of each.
SHAPES = [(1, 16), (1000, 4), (1, 10_000)]


class PlainConnector(Connector[FakeConnection]):
    """Overrides no hook: there is nothing to check, to clean or to close."""

    async def connect(self, backend: Backend) -> FakeConnection:
        return FakeConnection(number=0, backend=backend, opened=0)


@asynccontextmanager
async def full_pool(
    backends: int,
    slots_each: int,
    *,
    connector: Connector[FakeConnection] | None = None,
    instruments: tuple[Instrument, ...] = (),
) -> AsyncIterator[Pool[FakeConnection]]:
    """A pool whose slots are all connected, with nothing left to do."""
    slots = backends * slots_each
    policy = Policy(
        spares_wanted=slots,
        max_slots=slots,
        rebalance_interval=math.inf,
        set_config=SetConfig(max_count=slots_each, health_interval=math.inf),
    )
    resolver = FixedResolver([Backend((f"10.0.{i // 250}.{i % 250}", 80)) for i in range(backends)])
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


async def count_calls(pool: Pool[FakeConnection]) -> Counter[str]:
    """The functions of this project that one claim and its release call."""
    calls: Counter[str] = Counter()

    def note(frame: FrameType, event: str, arg: object) -> None:
        if event == "call" and frame.f_globals["__name__"].startswith("qorb_trio."):
            calls[frame.f_code.co_qualname] += 1

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        await claim_and_release(pool)
    finally:
        sys.setprofile(before)
    return calls


async def most_calls(pool: Pool[FakeConnection]) -> int:
    """The most calls that any of some claims makes: which backend it gets is chance."""
    return max([(await count_calls(pool)).total() for _ in range(20)])


class CountingPlans(Instrument):
    """How often the planner has run."""

    def __init__(self) -> None:
        self.plans = 0

    def rebalance_start(self, pool: str) -> None:
        self.plans += 1


class CountingSteps(trio.abc.Instrument):
    """How many steps each task has taken."""

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


@pytest.mark.parametrize(("backends", "slots_each"), SHAPES[1:])
async def test_the_number_of_calls_is_flat(backends: int, slots_each: int) -> None:
    """Neither many backends nor many idle slots add calls to a claim, beyond one choice."""
    async with full_pool(*SHAPES[0]) as pool:
        small = await most_calls(pool)
    async with full_pool(backends, slots_each) as pool:
        large = await most_calls(pool)
    # To choose between two backends is to pick them, to ask both for their load, to compare.
    assert large <= small + (4 if backends > 1 else 0)


async def test_a_pool_with_one_spare_per_backend_pays_no_more() -> None:
    """A backend that loses its last spare, and gets it back, moves at most one other."""
    async with full_pool(10, 1) as pool:
        few = await most_calls(pool)
    async with full_pool(1000, 1) as pool:
        many = await most_calls(pool)
    assert many <= few


async def test_the_calls_of_a_claim_are_few() -> None:
    """A budget, so that whoever adds a call to every claim does it on purpose."""
    async with full_pool(*SHAPES[0]) as pool:
        calls = await count_calls(pool)
    assert calls.total() <= 22, calls


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
