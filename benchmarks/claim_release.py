"""What does it cost to claim a connection that is there, and to release it?

Alone, so that nothing is in the way: against `trio.CapacityLimiter`, which does the same
checkpoint and lends nothing; and with many backends and with many slots, where it must
cost no more.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from time import perf_counter

from _pools import Lend, limiter, qorb
from _runner import Report, Sampler, run

CLAIMS = 2000


def claim_and_release(lend: Lend) -> Sampler:
    """Microseconds for one claim and its release."""

    async def sample() -> float:
        begin = perf_counter()
        for _ in range(CLAIMS):
            async with lend():
                pass
        return (perf_counter() - begin) / CLAIMS * 1e6

    return sample


async def measure(report: Report) -> None:
    """The limiter and three pools."""
    async with AsyncExitStack() as stack:
        contenders = {
            "CapacityLimiter(16)": limiter(16),
            "pool, 1 x 16": qorb(),
            "pool, 1,000 x 4": qorb(backends=1000, slots_each=4),
            "pool, 1 x 10,000": qorb(slots_each=10_000),
        }
        await report.compare(
            "warm claim + release",
            "µs",
            {
                name: claim_and_release(await stack.enter_async_context(manager))
                for name, manager in contenders.items()
            },
            rounds=25,
        )


if __name__ == "__main__":
    run(__doc__, measure)
