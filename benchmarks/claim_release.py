"""What does it cost to claim a connection that is there, and to release it?

One task claims alone. It is compared with `trio.CapacityLimiter`, which does the same
checkpoint and lends nothing, and with claims in pools of many backends and of many slots,
which must cost no more.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial

from _pools import limiter, qorb
from _runner import Report, run, times
from _work import ENOUGH, warm_claims


async def measure(report: Report) -> None:
    """The limiter and three pools."""
    enough = 0.0 if report.quick else ENOUGH
    backends, slots = report.size(1000, 20), report.size(10_000, 100)
    ours = "pool, 1 x 16"
    async with AsyncExitStack() as stack:
        samplers = {
            name: partial(warm_claims, await stack.enter_async_context(manager), enough=enough)
            for name, manager in {
                "CapacityLimiter(16)": limiter(16),
                ours: qorb(),
                f"pool, {backends:,} x 4": qorb(backends=backends, slots_each=4),
                f"pool, 1 x {slots:,}": qorb(slots_each=slots),
            }.items()
        }
        names = list(samplers)
        await report.compare(
            "warm claim + release",
            "µs",
            {name: samplers[name] for name in names[:2]},
            rounds=41,
            goals={ours: times(1.0)},
        )
        await report.compare(
            "the same in a big pool",
            "µs",
            {name: samplers[name] for name in names[1:]},
            rounds=41,
            goals=dict.fromkeys(names[2:], times(1.2)),
        )


if __name__ == "__main__":
    run(__doc__, measure)
