"""`Timer`: one task wakes at a time that may be changed, and runs only if it is needed."""

from __future__ import annotations

import math

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from qorb_trio._claims.timer import Timer


async def test_the_task_is_started_once_when_it_is_needed(autojump_clock: MockClock) -> None:
    """Binding starts nothing; the first time that is set does, and no other does."""
    timer, starts = Timer(), []
    timer.bind(lambda: starts.append(timer.deadline))
    assert starts == []
    timer.set(5)
    timer.set(3)
    assert starts == [5]
    assert timer.deadline == 3


async def test_a_time_that_was_set_before_starts_the_task_at_once(
    autojump_clock: MockClock,
) -> None:
    """A claimant may wait before the pool has started."""
    timer, starts = Timer(), []
    timer.set(5)
    timer.bind(lambda: starts.append(timer.deadline))
    assert starts == [5]


async def test_the_time_may_be_changed_while_the_task_sleeps(autojump_clock: MockClock) -> None:
    """The task wakes at the time that was set last."""
    timer, begin = Timer(), trio.current_time()
    woken: list[float] = []

    async def sleep() -> None:
        await timer.wait_until(math.inf)
        woken.append(trio.current_time() - begin)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sleep)
        await wait_all_tasks_blocked()
        timer.set(begin + 9)
        timer.set(begin + 4)
    assert woken == [4]
