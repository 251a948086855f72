"""Holders of connections: `Pool.holders`, and the errors and warnings that name holders."""

from __future__ import annotations

import gc
import logging
import math
import weakref
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from qorb_trio import AllClaimsUsedError, Claim, Instrument, Policy, Pool, open_pool
from qorb_trio._claims.holders import holder_name
from qorb_trio._slots.slot_set import Slot
from qorb_trio.testing import FakeConnection, FakeConnector, ManualResolver

from ..harness import LedgerConnection, backends, open_bench, policy_of


def test_a_slot_that_nobody_holds() -> None:
    """A slot without a holder has no name to show, and that is no error."""
    slot: Slot[object] = Slot(1, cast("Any", None))
    slot.label = "of the last claim"
    assert holder_name(slot) == "(unknown)"


async def test_the_holders_of_a_pool(autojump_clock: MockClock) -> None:
    """Each outstanding claim is there with backend, age and task, the oldest first."""
    async with open_bench("ab", policy=policy_of(max_count=1, spares_wanted=2)) as bench:
        await bench.settle()
        assert bench.pool.holders() == ()
        started = trio.current_time()
        first = await bench.acquire()
        await trio.sleep(5)
        async with bench.claim():
            holders = bench.pool.holders()
            assert [(it.since, it.age) for it in holders] == [(started, 5), (started + 5, 0)]
            assert holders[0].backend == first.backend
            assert {it.backend for it in holders} == {*backends("ab")}
            assert {it.task for it in holders} == {trio.lowlevel.current_task().name}
            assert len({it.slot_id for it in holders}) == 2
        assert [it.since for it in bench.pool.holders()] == [started]
        bench.resolver.set([])
        await bench.settle()
        assert [it.since for it in bench.pool.holders()] == [started]
        bench.release(first)
        assert bench.pool.holders() == ()


async def test_a_handed_over_connection_has_its_new_holder(autojump_clock: MockClock) -> None:
    """A connection that is handed over is held by the next claimant from that instant on."""
    async with open_bench("a", policy=policy_of(max_slots=1)) as bench:
        await bench.settle()
        claim = await bench.acquire()
        bench.nursery.start_soon(bench.use, 10, name="the next one")
        await trio.sleep(3)
        bench.release(claim)
        await bench.settle()
        (holder,) = bench.pool.holders()
        assert (holder.task, holder.age) == ("the next one", 0)
        assert holder.since == trio.current_time()


async def test_the_stack_of_a_holder(autojump_clock: MockClock) -> None:
    """`Holder.stack` shows where the task is now, and nothing once the task has ended."""
    async with open_bench("a") as bench:
        await bench.settle()

        async def read_the_answer() -> None:
            await trio.sleep(10)

        async def worker() -> None:
            async with bench.claim():
                await read_the_answer()

        bench.nursery.start_soon(worker)
        await trio.sleep(1)
        (holder,) = bench.pool.holders()
        assert {"worker", "read_the_answer"} <= {frame.name for frame in holder.stack()}
        await trio.sleep(20)
        assert not holder.stack()
        assert "worker" in repr(holder)


async def test_the_error_says_who_holds_them(autojump_clock: MockClock) -> None:
    """`AllClaimsUsedError` names the oldest holders, with backend and age."""
    async with open_bench("a", policy=policy_of(max_slots=5)) as bench:
        await bench.settle()
        for number in range(5):
            bench.nursery.start_soon(bench.use, 100, name=f"worker {number}")
            await trio.sleep(2)
        with pytest.raises(AllClaimsUsedError) as caught:
            await bench.pool.acquire(timeout=1)
        message = str(caught.value)
        (name,) = bench.stats().backends
        assert f"held longest by worker 0 for 11 s ({name}), worker 1 for 9 s" in message
        assert "worker 2" in message
        assert "worker 3" not in message


async def test_holders_can_be_asked_for_at_any_moment(autojump_clock: MockClock) -> None:
    """`Pool.holders` can be called in the middle of a claim or a release without an error."""

    class Asks(Instrument):
        def __init__(self) -> None:
            self.pool: Pool[LedgerConnection] | None = None
            self.found: list[int] = []

        def slot_state_change(self, *_: object) -> None:
            if self.pool is not None:
                self.found.append(len(self.pool.holders()))

    asks = Asks()
    async with open_bench(instruments=[asks]) as bench:
        await bench.settle()
        asks.pool = bench.pool
        async with bench.claim():
            assert len(bench.pool.holders()) == 1
        assert asks.found == [0, 0]


async def test_a_claim_that_is_held_for_long_is_logged_once(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """`Policy.leak_warning_after`: each old claim is logged once, with its holder's stack."""
    caplog.set_level(logging.WARNING, "qorb_trio.claim")
    policy = Policy(leak_warning_after=10)
    async with trio.open_nursery() as nursery:
        resolver = ManualResolver(["a.test:1"])
        async with open_pool(nursery, resolver, FakeConnector(), policy=policy) as pool:

            async def forgetful(times: tuple[float, ...]) -> None:
                for seconds in times:
                    async with pool.claim():
                        await trio.sleep(seconds)

            async with trio.open_nursery() as workers:
                workers.start_soon(forgetful, (9, 9, 9, 25), name="slow")
                workers.start_soon(forgetful, (4, 40), name="slower")
                workers.start_soon(forgetful, (1,) * 50, name="quick")
            await trio.sleep(100)
            messages = [record.getMessage() for record in caplog.records]
            assert [text.partition(";")[0] for text in messages] == [
                f"pool pool: task {name} has held a connection to a.test:1 for 10 s"
                for name in ("slower", "slow")
            ]
            assert "in forgetful" in caplog.text
            assert "a.test:1" in caplog.text
            caplog.clear()
            await forgetful((11,))
            assert len(caplog.records) == 1


async def test_leaks_are_looked_for_no_more(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A policy without `leak_warning_after` ends the search, and another one begins it again."""
    caplog.set_level(logging.WARNING, "qorb_trio.claim")
    async with open_bench("a", policy=Policy(leak_warning_after=10)) as bench:
        await bench.settle()
        async with bench.pool.claim():
            await trio.sleep(5)
            bench.pool.reconfigure(Policy())
            await trio.sleep(100)
            assert not caplog.records
            bench.pool.reconfigure(Policy(leak_warning_after=10))
            await trio.sleep(1)
    assert len(caplog.records) == 1


async def test_leaks_are_not_looked_for_unless_asked(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """By default no warning is logged for a claim, however old it is."""
    assert Policy().leak_warning_after == math.inf
    caplog.set_level(logging.WARNING, "qorb_trio.claim")
    async with open_bench("a") as bench:
        await bench.settle()
        await bench.use(1000)
    assert not caplog.records


async def test_who_claims_while_holding_is_warned_once(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A task that claims while it holds a claim of the same pool is told so, once a pool."""
    caplog.set_level(logging.WARNING, "qorb_trio.pool")

    def warnings() -> int:
        return sum("while it holds a claim" in record.getMessage() for record in caplog.records)

    async with open_bench("a", policy=policy_of(max_slots=3)) as bench:
        await bench.settle()
        for _ in range(3):
            await bench.use(1)
        other = await bench.acquire()
        bench.release(other)
        await bench.use(1)
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(bench.use, 1)
        assert warnings() == 0
        async with bench.claim():
            await bench.use(1)
            assert warnings() == 1
            await bench.use(1)
        async with bench.claim():
            await bench.use(1)
        assert warnings() == 1


async def test_who_waits_for_itself_is_warned_before(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The warning comes as the second claim begins to wait, which may be for ever."""
    caplog.set_level(logging.WARNING, "qorb_trio.pool")
    async with open_bench("a", policy=policy_of(max_slots=1)) as bench:
        await bench.settle()
        async with bench.claim():
            with trio.move_on_after(5):
                await bench.use(timeout=math.inf)
            assert "while it holds a claim" in caplog.text


async def test_a_task_that_held_a_claim_is_forgotten(autojump_clock: MockClock) -> None:
    """A pool keeps nothing of the tasks whose claims have ended."""
    tasks: weakref.WeakSet[trio.lowlevel.Task] = weakref.WeakSet()
    async with trio.open_nursery() as nursery:
        resolver = ManualResolver(["a.test:1"])
        async with open_pool(nursery, resolver, FakeConnector()) as pool:

            async def use() -> None:
                async with pool.claim():
                    tasks.add(trio.lowlevel.current_task())
                    await trio.sleep(1)

            async with trio.open_nursery() as workers:
                for _ in range(20):
                    workers.start_soon(use)
            gc.collect()
            assert not tasks


async def test_a_task_that_keeps_its_claim_is_forgotten_too(autojump_clock: MockClock) -> None:
    """A pool that has ended keeps nothing of the tasks from which it took connections back."""
    tasks: weakref.WeakSet[trio.lowlevel.Task] = weakref.WeakSet()
    kept: list[Claim[FakeConnection]] = []
    async with trio.open_nursery() as nursery:
        resolver = ManualResolver(["a.test:1"])
        policy = Policy(drain_timeout=0)
        async with open_pool(nursery, resolver, FakeConnector(), policy=policy) as pool:

            async def keep() -> None:
                kept.append(await pool.acquire())
                tasks.add(trio.lowlevel.current_task())

            async with trio.open_nursery() as workers:
                workers.start_soon(keep)
    kept.pop().release()
    gc.collect()
    assert not tasks
    assert pool.holders() == ()


class Counting(Instrument):
    """Counts claims."""

    started = done = 0

    def claim_start(self, pool: str, claim_id: int) -> None:
        """Count."""
        self.started += 1

    def claim_done(self, pool: str, claim_id: int, slot_id: int) -> None:
        """Count."""
        self.done += 1


async def test_an_instrument_comes_and_goes(autojump_clock: MockClock) -> None:
    """An instrument that is added to a running pool gets the events until it is removed."""
    async with trio.open_nursery() as nursery:
        resolver = ManualResolver(["a.test:1"])
        async with open_pool(nursery, resolver, FakeConnector()) as pool:
            counting = Counting()
            async with pool.claim():
                pool.add_instrument(counting)
                pool.add_instrument(counting)
            for _ in range(3):
                async with pool.claim():
                    pass
            assert (counting.started, counting.done) == (3, 3)
            pool.remove_instrument(counting)
            async with pool.claim():
                pass
            assert counting.done == 3
            with pytest.raises(KeyError):
                pool.remove_instrument(counting)
            with pytest.raises(TypeError, match="instrument"):
                pool.add_instrument("loud")  # type: ignore[arg-type]


async def test_an_instrument_added_while_a_claim_waits(autojump_clock: MockClock) -> None:
    """An instrument that is added during a claim gets the end of that claim."""
    async with open_bench(None, log=False) as bench:
        bench.nursery.start_soon(bench.use)
        await wait_all_tasks_blocked()
        counting = Counting()
        bench.pool.add_instrument(counting)
        bench.resolver.set(backends("a"))
        await bench.settle()
        assert (counting.started, counting.done) == (0, 1)
