"""How much does each feature add to a warm claim, when it is on?

Each feature has a pool of its own, of 8 backends with 4 slots, and nothing else on. For each
sample, all of these pools, a plain one and a limiter make 100 claims each, several times in
turns. The sample is the difference of the shortest times, so that other work of the machine
adds to neither.

The targets are 0.3 µs, and 1 µs for `PeakEwma`, on a machine where `trio.CapacityLimiter` takes
5.6 µs. So they are parts of what the limiter takes in the same run, on any machine.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import count, islice
from time import perf_counter
from typing import Any, TypeAlias, final

import attrs
import trio

from _pools import NoConnection, NoopConnector, full_pool, roomy_policy, some_backends
from _runner import Goal, Report, Sampler, run, times
from qorb_trio import (
    Backend,
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

#: Microseconds that `trio.CapacityLimiter` takes on the machine for which the targets were set.
LIMITER_TIME = 5.6
#: The targets in microseconds there: of a feature, of `PeakEwma`, and of `Pool.claim_nowait`.
FEATURE, PEAK_EWMA, NOWAIT = 0.3, 1.0, 1.5

LIMITER = "CapacityLimiter(16)"

#: Keys that a pool has seen before it is measured: all groups of keys are among them.
SEEN = 200_000
#: Keys of a pool that has seen none. It has no target, because each group of keys is new once.
FIRST_KEYS = "claim(key=...), first of its group"

BACKENDS, SLOTS_EACH = 8, 4
CLAIMS = 100
TURNS = 40

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


async def claim(pool: Pool[NoConnection]) -> None:
    """Claim as most programs do."""
    for _ in range(CLAIMS):
        async with pool.claim():
            pass


async def claim_by_key(pool: Pool[NoConnection], key: str) -> None:
    """Claim with a key that was there before."""
    for _ in range(CLAIMS):
        async with pool.claim(key=key):
            pass


async def claim_another(pool: Pool[NoConnection], failed: Backend) -> None:
    """Claim as a retry does."""
    avoid = [failed]
    for _ in range(CLAIMS):
        async with pool.claim(avoid=avoid):
            pass


async def claim_by_name(pool: Pool[NoConnection], label: str) -> None:
    """Claim with a label."""
    for _ in range(CLAIMS):
        async with pool.claim(label=label):
            pass


async def take_token(tokens: trio.CapacityLimiter) -> None:
    """Take a token as often: the least that a claim can do."""
    for _ in range(CLAIMS):
        async with tokens:
            pass


async def claim_nowait(pool: Pool[NoConnection]) -> None:
    """Claim without waiting; one checkpoint for all."""
    for _ in range(CLAIMS):
        with pool.claim_nowait():
            pass
    await trio.lowlevel.checkpoint()


async def claim_by_new_keys(pool: Pool[NoConnection], numbers: Iterator[int]) -> None:
    """Claim with keys that were not there before."""
    for number in islice(numbers, CLAIMS):
        async with pool.claim(key=number):
            pass


async def seconds(work: Work) -> float:
    """Return for how long the claims take."""
    begin = perf_counter()
    await work()
    return perf_counter() - begin


async def time_of(work: Work) -> float:
    """Return the microseconds of one claim."""
    return min([await seconds(work) for _ in range(TURNS)]) / CLAIMS * 1e6


@final
@attrs.define
class Contest:
    """Works that take turns. One contest serves one sample of each."""

    works: dict[str, Work]
    #: The shortest times that have not been asked for yet.
    _times: dict[str, float] = attrs.field(init=False, factory=dict)
    #: The shortest time of the plain pool.
    _plain: float = attrs.field(init=False, default=math.inf)

    async def sample(self, name: str) -> float:
        """Return the microseconds of one claim."""
        if name not in self._times:
            await self._hold()
        return self._times.pop(name) / CLAIMS * 1e6

    async def extra(self, name: str) -> float:
        """Return by how many microseconds a claim takes longer than one of the plain pool."""
        time = await self.sample(name)
        return time - self._plain / CLAIMS * 1e6

    async def _hold(self) -> None:
        self._times = dict.fromkeys(self.works, math.inf)
        for _ in range(TURNS):
            for name, work in self.works.items():
                self._times[name] = min(self._times[name], await seconds(work))
        self._plain = self._times.pop("plain")


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


def part_of_limiter(microseconds: float) -> Goal:
    """Return a target that was set in microseconds, as a part of what the limiter takes."""
    return times(round(microseconds / LIMITER_TIME, 3))


async def measure(report: Report) -> None:
    """All features, each against the same plain pool."""
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        tokens = partial(take_token, trio.CapacityLimiter(16))
        small, pool = await enter(full_pool()), await enter(a_pool(PLAIN))
        plain = partial(claim, pool)
        works: dict[str, Work] = {
            name: partial(claim, await enter(a_pool(*given))) for name, given in POOLS.items()
        }
        works["claim(key=...)"] = partial(claim_by_key, pool, "user 7")
        used, unused = await enter(a_pool(PLAIN)), await enter(a_pool(PLAIN))
        numbers = count()
        for _ in range(report.size(SEEN, CLAIMS) // CLAIMS):
            await claim_by_new_keys(used, numbers)
        works["claim(key=...), each new"] = partial(claim_by_new_keys, used, numbers)
        works[FIRST_KEYS] = partial(claim_by_new_keys, unused, count())
        works["claim(avoid=...)"] = partial(claim_another, pool, some_backends(1)[0])
        works["claim(label=...)"] = partial(claim_by_name, pool, "GET /users")
        await report.compare(
            "warm claim + release, 1 x 16",
            "µs",
            {
                LIMITER: partial(time_of, tokens),
                "claim": partial(time_of, partial(claim, small)),
                "claim_nowait": partial(time_of, partial(claim_nowait, small)),
            },
            rounds=15,
            goals={"claim_nowait": part_of_limiter(NOWAIT)},
        )
        await report.compare(
            "warm claim + release, 8 x 4",
            "µs",
            {
                "claim": partial(time_of, plain),
                "claim_nowait": partial(time_of, partial(claim_nowait, pool)),
            },
            rounds=15,
        )
        contest = Contest({LIMITER: tokens, "plain": plain, **works})
        samplers: dict[str, Sampler] = {name: partial(contest.extra, name) for name in works}
        goals = dict.fromkeys(works, part_of_limiter(FEATURE))
        goals["PeakEwma"] = part_of_limiter(PEAK_EWMA)
        del goals[FIRST_KEYS]
        await report.compare(
            "what a feature adds",
            "µs",
            {LIMITER: partial(contest.sample, LIMITER), **samplers},
            rounds=21,
            goals=goals,
        )


if __name__ == "__main__":
    run(__doc__, measure)
