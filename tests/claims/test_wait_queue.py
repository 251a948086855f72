"""The wait queue: parked claimants, served in order of arrival."""

from __future__ import annotations

import math
import random

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from qorb_trio import ClaimTimeoutError, PoolStats
from qorb_trio._claims.deadlines import COMPACT_THRESHOLD
from qorb_trio._claims.failure import ClaimFailure
from qorb_trio._claims.wait_queue import WaitQueue

STATS = PoolStats(name="p", claims=0, waiting=0, slots=0, departed=0, backends={})
FAILURE = ClaimFailure(kind=ClaimTimeoutError, message="too late", stats=STATS)


class Queue:
    """A wait queue of numbers, and the outcomes of the claimants in it."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.waiters: WaitQueue[int] = WaitQueue()
        self.nursery = nursery
        self.answers: list[tuple[int, object, float]] = []
        self.scopes: dict[int, trio.CancelScope] = {}

    async def join(self, claim_id: int, deadline: float = math.inf, *, again: bool = False) -> None:
        """Have a claimant parked."""
        self.nursery.start_soon(self._wait, claim_id, deadline, again)
        await wait_all_tasks_blocked()

    async def _wait(self, claim_id: int, deadline: float, again: bool) -> None:
        with trio.CancelScope() as self.scopes[claim_id]:
            task = trio.lowlevel.current_task()
            answer = await self.waiters.wait(task, claim_id, deadline, again=again)
            self.answers.append((claim_id, answer, trio.current_time()))

    @property
    def served(self) -> list[tuple[int, object]]:
        """The outcomes, in order of the claim ids."""
        return sorted((claim_id, what) for claim_id, what, _ in self.answers)


async def test_first_come_first_served(autojump_clock: MockClock) -> None:
    """Items go to claimants in order of their arrival, and each item to one of them."""
    async with trio.open_nursery() as nursery:
        queue = Queue(nursery)
        assert queue.waiters.waiting == 0
        for claim_id in (1, 2, 3):
            await queue.join(claim_id)
        assert queue.waiters.waiting == 3
        assert [queue.waiters.hand_off(10 + number)[0] for number in (1, 2)] == [1, 2]
        assert queue.waiters.waiting == 1
        await wait_all_tasks_blocked()
        assert queue.served == [(1, 11), (2, 12)]
        assert queue.waiters.hand_off(13)[0] == 3
        assert queue.waiters.waiting == 0


async def test_those_that_had_their_turn_go_first(autojump_clock: MockClock) -> None:
    """Returned claimants go before all others, among themselves by their claim ids."""
    async with trio.open_nursery() as nursery:
        queue = Queue(nursery)
        for claim_id, again in [(5, False), (3, True), (6, False), (1, True), (2, True)]:
            await queue.join(claim_id, again=again)
        assert [queue.waiters.hand_off(number)[0] for number in range(5)] == [1, 2, 3, 5, 6]


@pytest.mark.parametrize("again", [False, True])
async def test_a_cancelled_claimant_is_skipped(autojump_clock: MockClock, again: bool) -> None:
    """A cancelled claimant is skipped, in the queue and among the returned ones."""
    async with trio.open_nursery() as nursery:
        queue = Queue(nursery)
        for claim_id in (1, 2, 3):
            await queue.join(claim_id, again=again)
        queue.scopes[1].cancel()
        queue.scopes[3].cancel()
        await wait_all_tasks_blocked()
        assert queue.waiters.waiting == 1
        assert queue.waiters.hand_off(7)[0] == 2
    assert queue.served == [(2, 7)]


async def test_served_and_cancelled_at_once(autojump_clock: MockClock) -> None:
    """A claimant that is cancelled in the tick in which it is served has its item."""
    async with trio.open_nursery() as nursery:
        queue = Queue(nursery)
        await queue.join(1)
        queue.waiters.hand_off(7)
        queue.scopes[1].cancel()
    assert queue.served == [(1, 7)]


async def test_all_fail(autojump_clock: MockClock) -> None:
    """All claimants fail, the returned ones too, and the queue is empty."""
    async with trio.open_nursery() as nursery:
        queue = Queue(nursery)
        for claim_id in range(4):
            await queue.join(claim_id, again=claim_id > 1)
        queue.scopes[1].cancel()
        await wait_all_tasks_blocked()
        queue.waiters.fail_all(FAILURE)
        assert queue.waiters.waiting == 0
    assert queue.served == [(claim_id, FAILURE) for claim_id in (0, 2, 3)]


async def test_each_expires_at_its_deadline(autojump_clock: MockClock) -> None:
    """One timer serves all deadlines, in whatever order they were set."""
    async with trio.open_nursery() as nursery:
        queue = Queue(nursery)
        nursery.start_soon(queue.waiters.expire_waiters, lambda: FAILURE)
        for claim_id, deadline in enumerate([50, 20, math.inf, 20, 30]):
            await queue.join(claim_id, deadline)
        await trio.sleep_until(100)
        await wait_all_tasks_blocked()
        times = {claim_id: time for claim_id, _, time in queue.answers}
        assert times == {0: 50, 1: 20, 3: 20, 4: 30}
        assert queue.waiters.hand_off(1)[0] == 2
        nursery.cancel_scope.cancel()


async def test_deadlines_set_before_the_timer(autojump_clock: MockClock) -> None:
    """A claimant that was parked before the timer task first ran expires in time."""
    async with trio.open_nursery() as nursery:
        queue = Queue(nursery)
        await queue.join(1, 10)
        nursery.start_soon(queue.waiters.expire_waiters, lambda: FAILURE)
        await trio.sleep_until(11)
        assert queue.answers == [(1, FAILURE, 10)]
        nursery.cancel_scope.cancel()


async def test_a_failure_is_made_once(autojump_clock: MockClock) -> None:
    """Claimants that expire together share one failure, and none is made in vain."""
    asked = 0

    def failure() -> ClaimFailure:
        nonlocal asked
        asked += 1
        return FAILURE

    async with trio.open_nursery() as nursery:
        queue = Queue(nursery)
        nursery.start_soon(queue.waiters.expire_waiters, failure)
        for claim_id in range(5):
            await queue.join(claim_id, 10)
        await queue.join(5, 5)
        queue.scopes[5].cancel()
        await trio.sleep_until(6)
        assert asked == 0
        await trio.sleep_until(20)
        assert asked == 1
        assert len(queue.answers) == 5
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("seed", range(30))
async def test_deadlines_in_any_order(autojump_clock: MockClock, seed: int) -> None:
    """With any timeouts, and while others leave or are served, each claimant that is still parked
    at its own deadline fails then, not earlier and not later."""
    rng = random.Random(seed)
    async with trio.open_nursery() as nursery:
        queue = Queue(nursery)
        nursery.start_soon(queue.waiters.expire_waiters, lambda: FAILURE)
        deadlines: dict[int, float] = {}
        waiting: list[int] = []
        for claim_id in range(60):
            timeout = rng.choice([5, 5, 5, 2, 9, 9, 30, math.inf])
            deadlines[claim_id] = trio.current_time() + timeout
            await queue.join(claim_id, deadlines[claim_id], again=rng.random() < 0.1)
            waiting = [one for one in range(claim_id + 1) if one not in dict(queue.served)]
            chance = rng.random()
            if chance < 0.2 and queue.waiters.waiting:
                queue.waiters.hand_off(1000 + claim_id)
            elif chance < 0.4:
                queue.scopes[rng.choice(waiting)].cancel()
            await trio.sleep(rng.choice([0, 0.5, 1]))
        await trio.sleep(40)
        refused = {claim_id: time for claim_id, what, time in queue.answers if what is FAILURE}
        assert refused
        assert refused == {claim_id: deadlines[claim_id] for claim_id in refused}
        for claim_id, deadline in deadlines.items():
            gone = queue.scopes[claim_id].cancelled_caught or claim_id in dict(queue.served)
            assert gone or deadline == math.inf
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("deadline", [2000, 500, math.inf])
async def test_cancelled_waiters_are_removed(autojump_clock: MockClock, deadline: float) -> None:
    """After many cancelled claimants the queue is small, and the others have kept their places
    and deadlines."""
    async with trio.open_nursery() as nursery:
        queue = Queue(nursery)
        waiters = queue.waiters
        nursery.start_soon(waiters.expire_waiters, lambda: FAILURE)
        await queue.join(0, 1000)
        await queue.join(1, 900)
        for claim_id in range(2, 5 * COMPACT_THRESHOLD):
            await queue.join(claim_id, deadline)
            queue.scopes[claim_id].cancel()
            await wait_all_tasks_blocked()
            assert len(waiters._deadlines) <= COMPACT_THRESHOLD + 2 * waiters.waiting + 3
            assert (
                len(waiters._queue)
                == waiters.waiting + waiters._cancelled
                <= COMPACT_THRESHOLD + 2 * waiters.waiting + 3
            )
        await trio.sleep_until(950)
        await queue.join(1000, 1000)
        assert waiters.hand_off(7)[0] == 0
        await trio.sleep_until(1001)
        assert queue.answers == [(1, FAILURE, 900), (0, 7, 950), (1000, FAILURE, 1000)]
        assert waiters.waiting == 0
        nursery.cancel_scope.cancel()


async def test_a_skipped_waiter_is_counted_once(autojump_clock: MockClock) -> None:
    """Cancelled claimants are counted out when they are skipped, by an item or by a deadline."""
    async with trio.open_nursery() as nursery:
        queue = Queue(nursery)
        waiters = queue.waiters
        nursery.start_soon(waiters.expire_waiters, lambda: FAILURE)
        for claim_id, deadline in enumerate([10, 10, 10, 20, 15]):
            await queue.join(claim_id, deadline)
        queue.scopes[0].cancel()
        queue.scopes[2].cancel()
        await wait_all_tasks_blocked()
        assert (len(waiters._queue), waiters._cancelled) == (5, 2)
        assert waiters.hand_off(7)[0] == 1
        assert (len(waiters._queue), waiters._cancelled) == (3, 1)
        await trio.sleep_until(16)
        assert (len(waiters._queue), waiters._cancelled) == (
            2,
            1,
        )  # the last one was late before its turn
        await trio.sleep_until(21)
        assert (len(waiters._queue), waiters._cancelled) == (0, 0)
        assert queue.served == [(1, 7), (3, FAILURE), (4, FAILURE)]
        nursery.cancel_scope.cancel()
