"""What does a claim cost when many tasks want few connections?

Every claim but the first few waits in the queue and is handed its connection by a release.
Each claim holds its connection for one checkpoint.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from time import perf_counter

import trio

from _pools import limiter, qorb
from _runner import Report, Sampler, run, times
from _work import Lend


def crowd(lend: Lend, *, tasks: int, claims: int) -> Sampler:
    """Sample the microseconds per claim when `tasks` tasks make `claims` claims each."""

    async def claimant() -> None:
        for _ in range(claims):
            async with lend():
                await trio.lowlevel.checkpoint()

    async def sample() -> float:
        begin = perf_counter()
        async with trio.open_nursery() as nursery:
            for _ in range(tasks):
                nursery.start_soon(claimant)
        return (perf_counter() - begin) / (tasks * claims) * 1e6

    return sample


async def measure(report: Report) -> None:
    """The limiter, and the pool with and without a time limit on each claim."""
    ours = ("pool, 1 x 16", "pool, 1 x 16, timeout")
    async with AsyncExitStack() as stack:
        lends = {
            "CapacityLimiter(16)": await stack.enter_async_context(limiter(16)),
            ours[0]: await stack.enter_async_context(qorb()),
            ours[1]: await stack.enter_async_context(qorb(timeout=3600)),
        }
        for question, tasks, claims, rounds, goal in (
            ("1,000 tasks x 20 claims", report.size(1000, 50), report.size(20, 2), 9, 1.0),
            ("50,000 waiters", report.size(50_000, 100), 1, 5, 1.2),
        ):
            contenders = {
                name: crowd(lend, tasks=tasks, claims=claims) for name, lend in lends.items()
            }
            await report.compare(
                f"{question}, 16 slots",
                "µs/claim",
                contenders,
                rounds=rounds,
                goals=dict.fromkeys(ours, times(goal)),
            )


if __name__ == "__main__":
    run(__doc__, measure)
