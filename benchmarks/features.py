"""How much does each feature add to a warm claim, when it is on?

Each feature has a pool of its own, of 8 backends with 4 slots, and nothing else on. A sample
lets the plain pool and that one make 100 claims each, in turns, and is the difference of the
shortest times, so that other work of the machine adds to neither.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import count
from time import perf_counter
from typing import Any, TypeAlias

import attrs
import trio

from _pools import NoConnection, NoopConnector, roomy_policy, some_backends
from _runner import Goal, Report, run
from qorb_trio import (
    Ejection,
    FixedResolver,
    LeastLoaded,
    PeakEwma,
    Policy,
    Pool,
    RoundRobin,
    SetConfig,
    open_pool,
)

BACKENDS, SLOTS_EACH = 8, 4
CLAIMS = 100
TURNS = 12

#: Makes `CLAIMS` claims.
Work: TypeAlias = Callable[[], Awaitable[None]]

PLAIN = attrs.evolve(roomy_policy(BACKENDS * SLOTS_EACH, per_backend=SLOTS_EACH), ejection=None)


def with_set(**options: float) -> Policy:
    """Return the plain policy with other numbers for each backend."""
    return attrs.evolve(PLAIN, set_config=SetConfig(max_count=SLOTS_EACH, **options))


@asynccontextmanager
async def a_pool(policy: Policy, balancer: Any = None) -> AsyncIterator[Pool[NoConnection]]:
    """A pool with all its slots connected."""
    resolver = FixedResolver(some_backends(BACKENDS))
    async with (
        trio.open_nursery() as nursery,
        open_pool(
            nursery, resolver, NoopConnector(), policy=policy, balancer=balancer or LeastLoaded()
        ) as pool,
    ):
        await pool.wait_ready(BACKENDS * SLOTS_EACH)
        yield pool


async def claim(pool: Pool[NoConnection], **options: Any) -> None:
    """Claim as most programs do."""
    for _ in range(CLAIMS):
        async with pool.claim(**options):
            pass


async def claim_nowait(pool: Pool[NoConnection]) -> None:
    """Claim without waiting; one checkpoint for all."""
    for _ in range(CLAIMS):
        with pool.claim_nowait():
            pass
    await trio.lowlevel.checkpoint()


async def claim_by_new_keys(pool: Pool[NoConnection], numbers: Iterator[int]) -> None:
    """Claim with a key that was not there before."""
    for _ in range(CLAIMS):
        async with pool.claim(key=next(numbers)):
            pass


async def seconds(work: Work) -> float:
    """Return for how long the claims take."""
    begin = perf_counter()
    await work()
    return perf_counter() - begin


async def time_of(work: Work) -> float:
    """Return the microseconds of one claim."""
    return min([await seconds(work) for _ in range(TURNS)]) / CLAIMS * 1e6


async def extra(plain: Work, work: Work) -> float:
    """Return by how many microseconds a claim of `work` takes longer than one of `plain`."""
    least = [math.inf, math.inf]
    for _ in range(TURNS):
        for number, each in enumerate((plain, work)):
            least[number] = min(least[number], await seconds(each))
    return (least[1] - least[0]) / CLAIMS * 1e6


#: The policies and balancers of the features that a whole pool has.
POOLS: dict[str, tuple[Policy, Any]] = {
    "ejection": (attrs.evolve(PLAIN, ejection=Ejection()), None),
    "max_waiting": (attrs.evolve(PLAIN, max_waiting=100), None),
    "fail_fast_after": (attrs.evolve(PLAIN, fail_fast_after=5), None),
    "queue_target": (attrs.evolve(PLAIN, queue_target=0.05), None),
    "max_lifetime": (with_set(max_lifetime=1800), None),
    "idle_timeout": (with_set(idle_timeout=600), None),
    "max_uses": (with_set(max_uses=1_000_000_000), None),
    "max_connecting": (with_set(max_connecting=2), None),
    "slow_start": (with_set(slow_start=30), None),
    "RoundRobin": (PLAIN, RoundRobin()),
    "PeakEwma": (PLAIN, PeakEwma()),
}


async def measure(report: Report) -> None:
    """All features, each against the same plain pool."""
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        pool = await enter(a_pool(PLAIN))
        plain = partial(claim, pool)
        works: dict[str, Work] = {
            name: partial(claim, await enter(a_pool(*given))) for name, given in POOLS.items()
        }
        works["claim(key=...)"] = partial(claim, pool, key="user 7")
        works["claim(key=...), each new"] = partial(claim_by_new_keys, pool, count())
        works["claim(avoid=...)"] = partial(claim, pool, avoid=some_backends(1))
        works["claim(label=...)"] = partial(claim, pool, label="GET /users")
        await report.compare(
            "warm claim + release, 8 x 4",
            "µs",
            {
                "claim": partial(time_of, plain),
                "claim_nowait": partial(time_of, partial(claim_nowait, pool)),
            },
            rounds=15,
        )
        for name, work in works.items():  # by itself, since each sample has its own comparison
            goal = Goal(1.0 if name == "PeakEwma" else 0.3)
            sampler = partial(extra, plain, work)
            question = "what a feature adds"
            await report.compare(question, "µs", {name: sampler}, rounds=21, goals={name: goal})


if __name__ == "__main__":
    run(__doc__, measure)
