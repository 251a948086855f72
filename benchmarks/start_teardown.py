"""What does a pool cost from its opening to its end, with claims from many tasks at once?

It is the benchmark "concurrently claim" of Oxide's qorb: the default policy, a connector
that does nothing, and a number of tasks that each claim, sleep for 50 µs and release. The same
tasks without a pool show the cost of Trio itself. The same tasks with a limiter show the cost
of having them wait for one another.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from time import perf_counter
from typing import TypeAlias

import trio

from _pools import NoopConnector, limiter, nothing, some_backends
from _runner import Report, Sampler, run, times
from _work import Lend
from qorb_trio import FixedResolver, open_pool

Opener: TypeAlias = Callable[[], AbstractAsyncContextManager[Lend]]

#: How many times as long as without a pool it may take, by the number of tasks. A pool opens up
#: to sixteen connections meanwhile, which is most of the work where the tasks are few.
GOALS = {10: 3, 100: 1.5, 1000: 1.3}


@asynccontextmanager
async def default_pool(backends: int) -> AsyncIterator[Lend]:
    """A pool as it comes, opened and not waited for."""
    resolver = FixedResolver(some_backends(backends))
    async with (
        trio.open_nursery() as nursery,
        open_pool(nursery, resolver, NoopConnector()) as pool,
    ):
        yield pool.claim


async def brief_claim(lend: Lend) -> None:
    """Claim, sleep, release."""
    async with lend():
        await trio.sleep(50e-6)


def whole_life(opener: Opener, tasks: int, *, repeats: int) -> Sampler:
    """Sample the milliseconds to open, to serve `tasks` tasks and to end, as a mean."""

    async def sample() -> float:
        begin = perf_counter()
        for _ in range(repeats):
            async with opener() as lend, trio.open_nursery() as nursery:
                for _ in range(tasks):
                    nursery.start_soon(brief_claim, lend)
        return (perf_counter() - begin) / repeats * 1e3

    return sample


async def measure(report: Report) -> None:
    """Ten, a hundred and a thousand tasks."""
    openers: dict[str, Opener] = {
        "no pool": nothing,
        "CapacityLimiter(16)": partial(limiter, 16),
        "pool": partial(default_pool, 1),
    }
    for tasks in (10, 100, report.size(1000, 10)):
        contenders = {
            name: whole_life(opener, tasks, repeats=report.size(1000 // tasks, 1))
            for name, opener in openers.items()
        }
        await report.compare(
            f"concurrently claim {tasks}",
            "ms",
            contenders,
            rounds=11,
            goals={"pool": times(GOALS[tasks])},
        )


if __name__ == "__main__":
    run(__doc__, measure)
