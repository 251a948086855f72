"""How long does a pool of a thousand backends take to start, and to end?

From `open_pool` until 4,000 slots are connected, with a connector that does nothing; and
from the end of its block until all of them are closed.
"""

from __future__ import annotations

from time import perf_counter

from _pools import full_pool
from _runner import Goal, Report, run


async def measure(report: Report) -> None:
    """Start, end."""
    backends = report.size(1000, 10)
    name = f"pool, {backends:,} x 4"

    async def until_connected() -> float:
        begin = perf_counter()
        async with full_pool(backends=backends, slots_each=4):
            return (perf_counter() - begin) * 1e3

    async def until_closed() -> float:
        async with full_pool(backends=backends, slots_each=4):
            begin = perf_counter()
        return (perf_counter() - begin) * 1e3

    await report.compare(
        "open_pool to all connected",
        "ms",
        {name: until_connected},
        rounds=9,
        goals={name: Goal(300)},
    )
    await report.compare("end to all closed", "ms", {name: until_closed}, rounds=9)


if __name__ == "__main__":
    run(__doc__, measure)
