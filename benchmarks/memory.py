"""What does an idle slot take: how much memory, how many tasks?

The pool has 10,000 idle slots, on one backend or on a thousand. The connections are empty
objects of about 32 bytes each.
"""

from __future__ import annotations

import gc
import tracemalloc

import trio
import trio.testing

from _pools import full_pool
from _runner import Goal, Report, Sampler, run


def bytes_per_slot(backends: int, slots: int) -> Sampler:
    """Sample the bytes per slot that are still allocated when all slots are idle."""

    async def sample() -> float:
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            async with full_pool(backends=backends, slots_each=slots // backends):
                await trio.testing.wait_all_tasks_blocked()
                gc.collect()
                after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        return (after - before) / slots

    return sample


async def tasks_of(backends: int, slots_each: int) -> int:
    """Return the number of tasks while all slots are idle."""
    async with full_pool(backends=backends, slots_each=slots_each):
        await trio.testing.wait_all_tasks_blocked()
        return trio.lowlevel.current_statistics().tasks_living


async def measure(report: Report) -> None:
    """Bytes and tasks."""
    slots, backends = report.size(10_000, 100), report.size(1000, 10)

    async def per_slot() -> float:
        return (await tasks_of(1, slots) - await tasks_of(1, 1)) / (slots - 1)

    async def per_backend() -> float:
        return (await tasks_of(backends, 1) - await tasks_of(1, 1)) / (backends - 1)

    one = f"pool, 1 x {slots:,}"
    await report.compare(
        "memory per idle slot",
        "bytes",
        {
            one: bytes_per_slot(1, slots),
            f"pool, {backends:,} x {slots // backends}": bytes_per_slot(backends, slots),
        },
        rounds=1,
        goals={one: Goal(600)},
    )
    for what, sampler, goals in (
        ("slot", per_slot, {"pool": Goal(0)}),
        ("backend", per_backend, {}),
    ):
        await report.compare(
            f"tasks per idle {what}", "tasks", {"pool": sampler}, rounds=1, goals=goals
        )


if __name__ == "__main__":
    run(__doc__, measure)
