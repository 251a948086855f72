"""What does an idle slot take: how much memory, how many tasks?

Of a pool with 10,000 idle slots, on one backend and on a thousand; the connections are
objects without content, of 32 bytes or so each.
"""

from __future__ import annotations

import gc
import tracemalloc

import trio
import trio.testing

from _pools import full_pool
from _runner import Report, Sampler, run

SLOTS = 10_000


def tasks_living() -> int:
    """How many tasks there are."""
    return trio.lowlevel.current_statistics().tasks_living


def bytes_per_slot(backends: int) -> Sampler:
    """What is still allocated when all slots are idle."""

    async def sample() -> float:
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            async with full_pool(backends=backends, slots_each=SLOTS // backends):
                await trio.testing.wait_all_tasks_blocked()
                gc.collect()
                after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        return (after - before) / SLOTS

    return sample


def tasks_per_slot(backends: int) -> Sampler:
    """How many tasks wait while all slots are idle, the pool's own included."""

    async def sample() -> float:
        before = tasks_living()
        async with full_pool(backends=backends, slots_each=SLOTS // backends):
            await trio.testing.wait_all_tasks_blocked()
            return (tasks_living() - before) / SLOTS

    return sample


async def measure(report: Report) -> None:
    """Bytes and tasks."""
    shapes = {"pool, 1 x 10,000": 1, "pool, 1,000 x 10": 1000}
    for question, unit, sampler in (
        ("memory per idle slot", "bytes", bytes_per_slot),
        ("tasks per idle slot", "tasks", tasks_per_slot),
    ):
        contenders = {name: sampler(backends) for name, backends in shapes.items()}
        await report.compare(question, unit, contenders, rounds=1)


if __name__ == "__main__":
    run(__doc__, measure)
