"""Does a claim cost more in a bigger pool?

There are three curves: warm claims over the number of backends and over the number of idle
slots, and contended claims over the number of waiters, with `trio.CapacityLimiter` beside
them. All should be flat. (The tests check this too, without a clock, by counting calls.)
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial

from _pools import limiter, qorb
from _runner import Report, Sampler, run
from _work import ENOUGH, warm_claims
from contention import crowd

#: Few waiters make more claims each, so that there is something to measure.
CLAIMS = 2000


async def measure(report: Report) -> None:
    """The curves, a point a row; ratios are to the smallest."""
    enough = 0.0 if report.quick else ENOUGH
    backends = (1, 10, report.size(100, 10), report.size(1000, 20))
    slots = (16, 100, report.size(1000, 100), report.size(10_000, 200))
    waiters = (32, 100, *(report.size(n, 100) for n in (1000, 10_000, 50_000)))
    async with AsyncExitStack() as stack:
        shapes = {
            "backends with 4 slots each": {n: qorb(backends=n, slots_each=4) for n in backends},
            "idle slots": {n: qorb(slots_each=n) for n in slots},
        }
        for question, pools in shapes.items():
            contenders: dict[str, Sampler] = {}
            for n, manager in pools.items():
                lend = await stack.enter_async_context(manager)
                contenders[f"{n:,}"] = partial(warm_claims, lend, enough=enough)
            await report.compare(question, "µs", contenders, rounds=21)
        for name, manager in {"pool": qorb(), "CapacityLimiter": limiter(16)}.items():
            lend = await stack.enter_async_context(manager)
            contenders = {
                f"{n:,}": crowd(lend, tasks=n, claims=max(1, report.size(CLAIMS, 1) // n))
                for n in waiters
            }
            await report.compare(f"waiters for 16, {name}", "µs/claim", contenders, rounds=5)


if __name__ == "__main__":
    run(__doc__, measure)
