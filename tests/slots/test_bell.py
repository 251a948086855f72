"""`Bell`: a ring is heard once, by the one task that waits, or by the next one that does."""

from __future__ import annotations

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from qorb_trio._slots.bell import Bell


async def heard_by(bell: Bell, seconds: float) -> float:
    """The seconds until a wait of at most `seconds` has ended."""
    begin = trio.current_time()
    await bell.wait(begin + seconds)
    return trio.current_time() - begin


async def test_a_ring_wakes_the_task_that_waits(autojump_clock: MockClock) -> None:
    """A task that waits, with or without a deadline, goes on at the ring."""
    bell = Bell()
    for deadline in (float("inf"), 1000.0 + trio.current_time()):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bell.wait, deadline)
            await wait_all_tasks_blocked()
            bell.ring()
            bell.ring()  # which is the same ring
        assert await heard_by(bell, 5) == 5


async def test_a_ring_that_nobody_hears_is_kept(autojump_clock: MockClock) -> None:
    """Rings before a wait end it at once, after a checkpoint; however many, they are one."""
    bell = Bell()
    bell.ring()
    bell.ring()
    with trio.testing.assert_checkpoints():
        assert await heard_by(bell, 5) == 0
    assert await heard_by(bell, 5) == 5


async def test_a_ring_is_forgotten(autojump_clock: MockClock) -> None:
    """After `forget`, a wait needs another ring."""
    bell = Bell()
    bell.ring()
    bell.forget()
    assert await heard_by(bell, 5) == 5


async def test_a_wait_that_is_cancelled_leaves_nothing(autojump_clock: MockClock) -> None:
    """A ring after a cancelled wait is for the next one, and wakes nobody twice."""
    bell = Bell()
    with trio.move_on_after(1):
        await bell.wait()
    bell.ring()
    assert await heard_by(bell, 5) == 0
