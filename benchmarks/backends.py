"""What does a pool of thousands of backends cost?

Half of them refuse. With the default policy a pool uses a few of them. With four slots wanted
on each, all of them are used, and half of the slots cannot be had. One task claims again and
again, with pauses of 5 ms. The last rows are those of a million backends in one set, all
healthy.

A pass of Trio's loop lasts from one poll of the sockets to the next. The longest pass, and the
99th percentile of claims, are those of several equal runs in virtual time; see
`_equal_runs.py`. They are processor time, without the garbage collector of Python. That stops
everything for as long as it takes to look at all objects of the program, so its longest run
is another row.

The rows "by the clock" are from one run in real time. A virtual machine that has to share its
processors takes longer for some passes, whatever they do: the row "arithmetic" has the longest
of many steps that mostly take a third of a millisecond each.
"""

from __future__ import annotations

import gc
import itertools
import logging
import random
import statistics
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter, thread_time
from typing import Any

import attrs
import trio

from _equal_runs import Passes, Program, equal_runs
from _pools import NoConnection, NoopConnector, roomy_policy
from _runner import Goal, Report, Sampler, run
from qorb_trio import Backend, ClaimError, Policy, Pool, open_pool
from qorb_trio.testing import ManualResolver

#: Backends with this port refuse.
REFUSING = 81


class HalfRefusing(NoopConnector):
    """Refuses to connect to half of the backends."""

    async def connect(self, backend: Backend) -> NoConnection:
        """Return a new connection, after one turn of the loop."""
        await trio.lowlevel.checkpoint()
        if backend.port == REFUSING:
            raise ConnectionRefusedError
        return NoConnection()


@attrs.define(eq=False)
class Clock(trio.abc.Instrument):
    """The longest pass, and the longest run of the garbage collector, in seconds."""

    one_pass: float = 0.0
    collection: float = 0.0
    _began: float | None = None
    _collecting: float = 0.0
    _collected: float = 0.0

    def after_io_wait(self, timeout: float) -> None:
        """A pass begins."""
        self._collected = 0.0
        self._began = thread_time()

    def before_io_wait(self, timeout: float) -> None:
        """A pass ends."""
        if self._began is not None:
            self.one_pass = max(self.one_pass, thread_time() - self._began - self._collected)

    def skip(self) -> None:
        """Leave out the present pass."""
        self._began = None

    def collector(self, phase: str, info: dict[str, int]) -> None:
        """The garbage collector begins or ends a run."""
        if phase == "start":
            self._collecting = thread_time()
            return
        seconds = thread_time() - self._collecting
        self._collected += seconds
        self.collection = max(self.collection, seconds)


@attrs.define(kw_only=True)
class Figures:
    """The results of one run, in seconds where they are times."""

    ready: float = 0.0
    busy: float = 0.0
    waits: list[float] = attrs.field(factory=list)
    failed: int = 0
    one_pass: float = 0.0
    collection: float = 0.0
    statistics: float = 0.0
    leaving: float = 0.0
    memory: float = 0.0
    #: The least times of several equal runs.
    least: Passes = attrs.field(factory=Passes)


def some_backends(count: int, *, refusing: bool) -> list[Backend]:
    """Make backends, and keep the garbage collector from looking at them again and again."""
    gc.disable()
    backends = [
        Backend((f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}", REFUSING if refusing and i % 2 else 80))
        for i in range(count)
    ]
    gc.enable()
    gc.collect()
    gc.freeze()
    return backends


def p99(waits: list[float]) -> float:
    """Return the 99th percentile."""
    return statistics.quantiles(waits, n=100)[-1]


def resident() -> int:
    """Return the memory of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@asynccontextmanager
async def claiming(pool: Pool[NoConnection], figures: Figures) -> AsyncIterator[None]:
    """Let one task claim again and again during the block."""

    async def claim() -> None:
        while True:
            began = perf_counter()
            try:
                async with pool.claim():
                    figures.waits.append(perf_counter() - began)
            except ClaimError:
                figures.failed += 1
            await trio.sleep(0.005)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(claim)
        yield
        nursery.cancel_scope.cancel()


@attrs.frozen
class Case:
    """A pool, and for how long it is watched."""

    backends: list[Backend]
    policy: Policy
    #: The number of connections with which it is ready.
    ready: int
    #: Seconds until it is settled.
    warm_up: float
    seconds: float


async def life(case: Case) -> Figures:
    """Open a pool, wait until it is settled, watch it for a while, and leave it."""
    backends, policy = case.backends, case.policy
    figures, clock, before = Figures(), Clock(), resident()
    gc.callbacks.append(clock.collector)
    trio.lowlevel.add_instrument(clock)
    began = perf_counter()
    async with trio.open_nursery() as nursery:
        connector, resolver = HalfRefusing(), ManualResolver(backends)
        async with open_pool(nursery, resolver, connector, policy=policy) as pool:
            await pool.wait_ready(case.ready)
            figures.ready = perf_counter() - began
            if policy.max_slots < len(backends):  # otherwise, all have been read by now
                while pool.stats().known < len(backends):  # noqa: ASYNC110
                    await trio.sleep(0.1)
            figures.memory = (resident() - before) / len(backends)
            await trio.sleep(case.warm_up)
            busy = thread_time()
            await trio.sleep(case.seconds)
            figures.busy = (thread_time() - busy) / case.seconds
            async with claiming(pool, figures):
                await trio.sleep(case.seconds)
            await trio.lowlevel.checkpoint()
            clock.skip()
            began = thread_time()
            pool.stats()
            figures.statistics = thread_time() - began
            await trio.lowlevel.checkpoint()
            began = perf_counter()
    figures.leaving = perf_counter() - began
    trio.lowlevel.remove_instrument(clock)
    gc.callbacks.remove(clock.collector)
    figures.one_pass, figures.collection = clock.one_pass, clock.collection
    return figures


def watched(case: Case) -> Program:
    """Return the program of `life`, in short, for `equal_runs`."""

    async def program(seen: Passes, rng: random.Random) -> None:
        async def claim() -> None:
            while True:
                began = thread_time()
                async with pool.claim():
                    seen.claims.append(thread_time() - began)
                await trio.sleep(0.005)

        connector, resolver = HalfRefusing(), ManualResolver(case.backends)
        seen.skip()  # the resolver has looked at each backend
        async with (
            trio.open_nursery() as nursery,
            open_pool(nursery, resolver, connector, policy=case.policy, rng=rng) as pool,
            trio.open_nursery() as claims,
        ):
            await pool.wait_ready(case.ready)
            await trio.sleep(case.warm_up)
            claims.start_soon(claim)
            await trio.sleep(case.seconds)
            claims.cancel_scope.cancel()

    return program


class Runs:
    """The runs of one contender: each is made once, and gives a sample of each question."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._made: list[Figures] = []

    def sampler(self, read: Callable[[Figures], float]) -> Sampler:
        """Return a sampler of one figure."""
        numbers = itertools.count()

        async def sample() -> float:
            number = next(numbers)
            if number == len(self._made):
                self._made.append(await self._make())
            return read(self._made[number])

        return sample


def arithmetic(seconds: float) -> Sampler:
    """Sample the longest of many equal steps, in milliseconds of processor time."""

    async def sample() -> float:
        longest, end = 0.0, perf_counter() + seconds
        while perf_counter() < end:
            began = thread_time()
            sum(i * i % 7 for i in range(4000))
            longest = max(longest, thread_time() - began)
        return longest * 1e3

    return sample


QUESTIONS: dict[str, tuple[str, Callable[[Figures], float]]] = {
    "first set to ready": ("ms", lambda it: it.ready * 1e3),
    "processor, afterwards": ("% of a core", lambda it: it.busy * 100),
    "claim, 99th percentile": ("ms", lambda it: p99(it.least.claims) * 1e3),
    "claim, 99th percentile, by the clock": ("ms", lambda it: p99(it.waits) * 1e3),
    "longest pass": ("ms", lambda it: max(it.least.passes) * 1e3),
    "longest pass, by the clock": ("ms", lambda it: it.one_pass * 1e3),
    "longest garbage collection": ("ms", lambda it: it.collection * 1e3),
    "the longest call, stats()": ("ms", lambda it: it.statistics * 1e3),
    "end to all closed": ("ms", lambda it: it.leaving * 1e3),
    "memory per backend": ("bytes", lambda it: it.memory),
    "claims that failed": ("", lambda it: it.failed),
}


async def compare(
    report: Report, runs: Mapping[str, Runs], goals: Mapping[str, float], rounds: int, name: str
) -> None:
    """Answer each question that has a target, for `name`, and those of times."""
    for question, (unit, read) in QUESTIONS.items():
        if question in goals or "longest" in question or "clock" in question:
            contenders = {contender: one.sampler(read) for contender, one in runs.items()}
            if question == "longest pass, by the clock":
                contenders["arithmetic"] = arithmetic(report.size(5, 1))
            await report.compare(
                question,
                unit,
                contenders,
                rounds=rounds,
                goals={name: Goal(goals[question])} if question in goals else {},
            )


async def measure(report: Report) -> None:
    """The default policy, four slots each, and a million."""
    logging.getLogger("qorb_trio").setLevel(logging.ERROR)  # the warnings would fill the screen
    seconds, equal = report.size(5, 1), report.size(4, 2)

    async def watch(case: Case) -> Figures:
        least = await equal_runs(watched(case), equal)
        figures = await life(case)
        figures.least = least
        gc.unfreeze()
        return figures

    def default(count: int) -> Runs:
        async def make() -> Figures:
            found = some_backends(count, refusing=True)
            return await watch(Case(found, Policy(), 8, 2, seconds))

        return Runs(make)

    sizes = (10, 1000, 10_000) if not report.quick else (10, 100)
    runs = {f"{count:,} backends": default(count) for count in sizes}
    goals = {
        "first set to ready": 300,
        "processor, afterwards": 3,
        "claim, 99th percentile": 1,
        "longest pass": 5,
        "end to all closed": 2000,
    }
    await compare(report, runs, goals, 3, list(runs)[-1])

    wide = report.size(10_000, 50)

    async def make_wide() -> Figures:
        found = some_backends(wide, refusing=True)
        policy = roomy_policy(4 * wide, per_backend=4)
        settle = report.size(10, 1)
        return await watch(Case(found, policy, 2 * wide, settle, seconds))

    name = f"{wide:,} x 4 slots"
    goals |= {"first set to ready": 2000, "processor, afterwards": 10, "claim, 99th percentile": 5}
    await compare(report, {name: Runs(make_wide)}, goals, 3, name)

    million = report.size(1_000_000, 1000)

    async def make_million() -> Figures:
        found = some_backends(million, refusing=False)
        return await watch(Case(found, Policy(), 8, 0, seconds))

    name = f"{million:,} backends"
    goals = {
        "first set to ready": 30_000,
        "claim, 99th percentile": 1,
        "longest pass": 5,
        "memory per backend": 1000,
        "claims that failed": 0,
    }
    await compare(report, {name: Runs(make_million)}, goals, 1, name)


if __name__ == "__main__":
    run(__doc__, measure)
