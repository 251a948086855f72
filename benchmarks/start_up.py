"""How long does a pool of a thousand backends take to start, and to end?

The start is the time from `open_pool` until 4,000 slots are connected, with a connector that
does nothing. The end is the time from the end of the block until all of them are closed. Each
dial is a task with a time limit, so 4,000 such tasks that do nothing show the cost of Trio.
"""

from __future__ import annotations

from time import perf_counter

import trio

from _pools import full_pool
from _runner import Goal, Report, run


async def nothing() -> None:
    """Do the least work of a dial: open a scope with a time limit."""
    with trio.CancelScope(deadline=trio.current_time() + 10):  # noqa: ASYNC100 - its cost
        pass


async def measure(report: Report) -> None:
    """Start, end."""
    backends = report.size(1000, 10)
    name = f"pool, {backends:,} x 4"

    async def until_done() -> float:
        begin = perf_counter()
        async with trio.open_nursery() as nursery:
            for _ in range(backends * 4):
                nursery.start_soon(nothing)
        return (perf_counter() - begin) * 1e3

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
        {f"{backends * 4:,} tasks, no pool": until_done, name: until_connected},
        rounds=9,
        goals={name: Goal(300)},
    )
    await report.compare("end to all closed", "ms", {name: until_closed}, rounds=9)


if __name__ == "__main__":
    run(__doc__, measure)
