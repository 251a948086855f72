"""How does a pool of a thousand backends start, change and idle?

How long it takes until 4,000 slots are connected; for how long nothing else runs while all
backends are replaced and claims go on; and what share of a processor 4,000 idle slots take.
"""

from __future__ import annotations

from time import perf_counter, process_time

import trio
import trio.testing

from _pools import NoConnection, NoopConnector, full_pool, roomy_policy, some_backends
from _runner import Report, run
from qorb_trio import Pool, open_pool
from qorb_trio.testing import ManualResolver

BACKENDS = 1000
SLOTS_EACH = 4
CLAIMANTS = 50
#: Seconds.
IDLE_FOR = 3.0


async def until_connected() -> float:
    """Milliseconds from `open_pool` to the last slot."""
    begin = perf_counter()
    async with full_pool(backends=BACKENDS, slots_each=SLOTS_EACH):
        return (perf_counter() - begin) * 1e3


async def keep_claiming(pool: Pool[NoConnection]) -> None:
    """Claim again and again, a millisecond each."""
    while True:
        async with pool.claim():
            await trio.sleep(0.001)


async def longest_gap() -> float:
    """Milliseconds for which nothing else had its turn, while all backends were replaced."""
    slots = BACKENDS * SLOTS_EACH
    resolver = ManualResolver(some_backends(BACKENDS))
    policy = roomy_policy(slots, per_backend=SLOTS_EACH)
    longest = 0.0
    async with (
        trio.open_nursery() as nursery,
        open_pool(nursery, resolver, NoopConnector(), policy=policy) as pool,
        trio.open_nursery() as claimants,
    ):
        await pool.wait_ready(slots)
        for _ in range(CLAIMANTS):
            claimants.start_soon(keep_claiming, pool)
        await trio.testing.wait_all_tasks_blocked()
        new = some_backends(BACKENDS, network=1)
        resolver.set(new)
        last = perf_counter()
        end = last + 0.2
        while last < end or pool.stats().backends.keys() != {it.name for it in new}:
            await trio.lowlevel.checkpoint()
            now = perf_counter()
            longest = max(longest, now - last)
            last = now
        claimants.cancel_scope.cancel()
    return longest * 1e3


async def idle_share() -> float:
    """Percent of a processor."""
    async with full_pool(backends=BACKENDS, slots_each=SLOTS_EACH):
        await trio.testing.wait_all_tasks_blocked()
        begin = process_time()
        await trio.sleep(IDLE_FOR)
        return (process_time() - begin) / IDLE_FOR * 100


async def measure(report: Report) -> None:
    """Start, change, idle."""
    name = f"pool, {BACKENDS:,} x {SLOTS_EACH}"
    await report.compare("open_pool to all connected", "ms", {name: until_connected}, rounds=5)
    await report.compare("longest gap, all replaced", "ms", {name: longest_gap}, rounds=5)
    await report.compare("processor while idle", "%", {name: idle_share}, rounds=3)


if __name__ == "__main__":
    run(__doc__, measure)
