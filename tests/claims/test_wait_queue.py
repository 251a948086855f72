"""The line of parked claimants."""

from __future__ import annotations

import math
import random
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from qorb_trio import ClaimTimeoutError, PoolStats
from qorb_trio._claims.failure import ClaimFailure
from qorb_trio._claims.wait_queue import COMPACT_THRESHOLD, WaitQueue
from qorb_trio._slots.state import Slot

STATS = PoolStats(name="p", claims=0, waiting=0, slots=0, departed=0, backends={})
FAILURE = ClaimFailure(kind=ClaimTimeoutError, message="too late", stats=STATS)


def a_slot(number: int) -> Slot[object]:
    """Something to hand over."""
    return Slot(number, cast("Any", None))


class Queue:
    """A line, and what became of those who waited in it."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.line: WaitQueue[Slot[object]] = WaitQueue()
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
            answer = await self.line.wait(task, claim_id, deadline, again=again)
            result = answer if isinstance(answer, ClaimFailure) else answer.id
            self.answers.append((claim_id, result, trio.current_time()))

    @property
    def served(self) -> list[tuple[int, object]]:
        """Who was given what, in order of the claim ids."""
        return sorted((claim_id, what) for claim_id, what, _ in self.answers)


async def test_first_come_first_served(autojump_clock: MockClock) -> None:
    """Slots go to claimants in order of their arrival, and each slot to one of them."""
    async with trio.open_nursery() as nursery:
        queue = Queue(nursery)
        assert queue.line.waiting == 0
        for claim_id in (1, 2, 3):
            await queue.join(claim_id)
        assert queue.line.waiting == 3
        assert [queue.line.hand_off(a_slot(10 + number))[0] for number in (1, 2)] == [1, 2]
        assert queue.line.waiting == 1
        await wait_all_tasks_blocked()
        assert queue.served == [(1, 11), (2, 12)]
        assert queue.line.hand_off(a_slot(13))[0] == 3
        assert queue.line.waiting == 0


async def test_who_had_its_turn_goes_first(autojump_clock: MockClock) -> None:
    """Those who come back go before all others, among themselves by their claim ids."""
    async with trio.open_nursery() as nursery:
        queue = Queue(nursery)
        for claim_id, again in [(5, False), (3, True), (6, False), (1, True), (2, True)]:
            await queue.join(claim_id, again=again)
        assert [queue.line.hand_off(a_slot(number))[0] for number in range(5)] == [1, 2, 3, 5, 6]


@pytest.mark.parametrize("again", [False, True])
async def test_a_cancelled_claimant_has_left(autojump_clock: MockClock, again: bool) -> None:
    """A claimant that is cancelled is passed over, whichever part of the line it was in."""
    async with trio.open_nursery() as nursery:
        queue = Queue(nursery)
        for claim_id in (1, 2, 3):
            await queue.join(claim_id, again=again)
        queue.scopes[1].cancel()
        queue.scopes[3].cancel()
        await wait_all_tasks_blocked()
        assert queue.line.waiting == 1
        assert queue.line.hand_off(a_slot(7))[0] == 2
    assert queue.served == [(2, 7)]


async def test_served_and_cancelled_at_once(autojump_clock: MockClock) -> None:
    """A claimant that is cancelled in the tick in which it is served has its slot."""
    async with trio.open_nursery() as nursery:
        queue = Queue(nursery)
        await queue.join(1)
        queue.line.hand_off(a_slot(7))
        queue.scopes[1].cancel()
    assert queue.served == [(1, 7)]


async def test_all_are_refused(autojump_clock: MockClock) -> None:
    """Everyone is sent away, those who came back too, and the line is empty."""
    async with trio.open_nursery() as nursery:
        queue = Queue(nursery)
        for claim_id in range(4):
            await queue.join(claim_id, again=claim_id > 1)
        queue.line.fail_all(FAILURE)
        assert queue.line.waiting == 0
    assert queue.served == [(claim_id, FAILURE) for claim_id in range(4)]


async def test_each_is_refused_at_its_deadline(autojump_clock: MockClock) -> None:
    """The one alarm serves all deadlines, in whatever order they were set."""
    async with trio.open_nursery() as nursery:
        queue = Queue(nursery)
        nursery.start_soon(queue.line.expire_waiters, lambda: FAILURE)
        for claim_id, deadline in enumerate([50, 20, math.inf, 20, 30]):
            await queue.join(claim_id, deadline)
        await trio.sleep_until(100)
        await wait_all_tasks_blocked()
        times = {claim_id: time for claim_id, _, time in queue.answers}
        assert times == {0: 50, 1: 20, 3: 20, 4: 30}
        assert queue.line.hand_off(a_slot(1))[0] == 2
        nursery.cancel_scope.cancel()


async def test_deadlines_set_before_the_alarm(autojump_clock: MockClock) -> None:
    """Who was parked before the alarm task first ran is refused in time all the same."""
    async with trio.open_nursery() as nursery:
        queue = Queue(nursery)
        await queue.join(1, 10)
        nursery.start_soon(queue.line.expire_waiters, lambda: FAILURE)
        await trio.sleep_until(11)
        assert queue.answers == [(1, FAILURE, 10)]
        nursery.cancel_scope.cancel()


async def test_the_reason_is_looked_for_once(autojump_clock: MockClock) -> None:
    """Those who are late together share one refusal; nobody late, nothing looked for."""
    asked = 0

    def refusal() -> ClaimFailure:
        nonlocal asked
        asked += 1
        return FAILURE

    async with trio.open_nursery() as nursery:
        queue = Queue(nursery)
        nursery.start_soon(queue.line.expire_waiters, refusal)
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
    """Whatever timeouts claimants come with, whoever leaves and whoever is served meanwhile,
    each of the others is refused at its own deadline, not earlier and not later."""
    rng = random.Random(seed)
    async with trio.open_nursery() as nursery:
        queue = Queue(nursery)
        nursery.start_soon(queue.line.expire_waiters, lambda: FAILURE)
        deadlines: dict[int, float] = {}
        waiting: list[int] = []
        for claim_id in range(60):
            timeout = rng.choice([5, 5, 5, 2, 9, 9, 30, math.inf])
            deadlines[claim_id] = trio.current_time() + timeout
            await queue.join(claim_id, deadlines[claim_id], again=rng.random() < 0.1)
            waiting = [one for one in range(claim_id + 1) if one not in dict(queue.served)]
            chance = rng.random()
            if chance < 0.2 and queue.line.waiting:
                queue.line.hand_off(a_slot(1000 + claim_id))
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
async def test_those_who_left_are_swept_out(autojump_clock: MockClock, deadline: float) -> None:
    """However many claimants come and go, the line stays small, and those who are still
    parked keep their places and deadlines."""
    async with trio.open_nursery() as nursery:
        queue = Queue(nursery)
        line = queue.line
        nursery.start_soon(line.expire_waiters, lambda: FAILURE)
        await queue.join(0, 1000)
        await queue.join(1, 900)
        for claim_id in range(2, 5 * COMPACT_THRESHOLD):
            await queue.join(claim_id, deadline)
            queue.scopes[claim_id].cancel()
            await wait_all_tasks_blocked()
            assert len(line._deadlines) <= COMPACT_THRESHOLD + 2 * line.waiting + 3
            assert (
                len(line._queue)
                == line.waiting + line._cancelled
                <= COMPACT_THRESHOLD + 2 * line.waiting + 3
            )
        await trio.sleep_until(950)
        await queue.join(1000, 1000)
        assert line.hand_off(a_slot(7))[0] == 0
        await trio.sleep_until(1001)
        assert queue.answers == [(1, FAILURE, 900), (0, 7, 950), (1000, FAILURE, 1000)]
        assert line.waiting == 0
        nursery.cancel_scope.cancel()


async def test_passed_over_is_counted_once(autojump_clock: MockClock) -> None:
    """Those who left are forgotten as they are passed over, by a slot or by a deadline."""
    async with trio.open_nursery() as nursery:
        queue = Queue(nursery)
        line = queue.line
        nursery.start_soon(line.expire_waiters, lambda: FAILURE)
        for claim_id, deadline in enumerate([10, 10, 10, 20, 15]):
            await queue.join(claim_id, deadline)
        queue.scopes[0].cancel()
        queue.scopes[2].cancel()
        await wait_all_tasks_blocked()
        assert (len(line._queue), line._cancelled) == (5, 2)
        assert line.hand_off(a_slot(7))[0] == 1
        assert (len(line._queue), line._cancelled) == (3, 1)
        await trio.sleep_until(16)
        assert (len(line._queue), line._cancelled) == (
            2,
            1,
        )  # the last one was late before its turn
        await trio.sleep_until(21)
        assert (len(line._queue), line._cancelled) == (0, 0)
        assert queue.served == [(1, 7), (3, FAILURE), (4, FAILURE)]
        nursery.cancel_scope.cancel()
