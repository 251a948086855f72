"""For how long does a program stand still while all backends are replaced at once?

The pool has a thousand backends with four slots each, and 50 tasks claim again and again.
Then the resolver sends a thousand other backends. The result is the longest *pass*: Trio
gives each runnable task one step between two polls of the sockets, and no other task runs
meanwhile. It is that of several equal runs in virtual time; see `_equal_runs.py`. The same
claims without a replacement show the part of that time that the claims take.

The other rows are from runs in real time, in which the machine has a part. An instrument of
Trio's measures passes in processor time. A task that only makes checkpoints measures them by
the clock, other programs included. A full run of Python's garbage collector stops everything,
and looks at all objects of the program. So there is one row for passes as they are, and one
for passes without what the collector took in them.
"""

from __future__ import annotations

import gc
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import perf_counter, thread_time

import attrs
import trio
import trio.testing

from _equal_runs import Passes, Program, equal_runs
from _pools import NoConnection, NoopConnector, roomy_policy, some_backends
from _runner import Goal, Report, Sampler, run
from qorb_trio import Backend, Pool, QorbError, open_pool
from qorb_trio.testing import ManualResolver

SLOTS_EACH = 4
CLAIMANTS = 50


class CountingConnector(NoopConnector):
    """A connector that notices the last of `awaited` connects, more cheaply than `Pool.stats`."""

    def __init__(self, awaited: int) -> None:
        self.awaited = awaited
        self.all_connected = trio.Event()

    async def connect(self, backend: Backend) -> NoConnection:
        """Return another connection."""
        self.awaited -= 1
        if self.awaited == 0:
            self.all_connected.set()
        return NoConnection()


@attrs.define(eq=False)
class Watch(trio.abc.Instrument):
    """The longest times, in seconds: passes and steps of processor time."""

    one_pass: float = 0.0
    own_pass: float = 0.0
    collection: float = 0.0
    step: float = 0.0
    gap: float = 0.0
    wait: float = 0.0
    failed: int = 0
    _pass_began: float | None = None
    _step_began: float | None = None
    _collection_began: float = 0.0
    _collected: float = 0.0

    def after_io_wait(self, timeout: float) -> None:
        """A pass begins."""
        self._collected = 0.0
        self._pass_began = thread_time()

    def before_io_wait(self, timeout: float) -> None:
        """A pass ends."""
        if self._pass_began is not None:
            seconds = thread_time() - self._pass_began
            self.one_pass = max(self.one_pass, seconds)
            self.own_pass = max(self.own_pass, seconds - self._collected)

    def collector(self, phase: str, info: dict[str, int]) -> None:
        """The garbage collector begins or ends a run."""
        if phase == "start":
            self._collection_began = thread_time()
            return
        seconds = thread_time() - self._collection_began
        self._collected += seconds
        self.collection = max(self.collection, seconds)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """A step begins."""
        self._step_began = thread_time()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """A step ends."""
        if self._step_began is not None:
            self.step = max(self.step, thread_time() - self._step_began)

    async def tick(self) -> None:
        """Do nothing, as often as possible."""
        last = perf_counter()
        while True:
            await trio.lowlevel.checkpoint()
            now = perf_counter()
            self.gap = max(self.gap, now - last)
            last = now

    async def keep_claiming(self, pool: Pool[NoConnection]) -> None:
        """Claim again and again, a millisecond each."""
        while True:
            begin = perf_counter()
            try:
                async with pool.claim(timeout=10):
                    self.wait = max(self.wait, perf_counter() - begin)
                    await trio.sleep(0.001)
            except QorbError:
                self.failed += 1
                await trio.lowlevel.checkpoint()


@asynccontextmanager
async def watched(*, ticks: bool) -> AsyncIterator[Watch]:
    """Yield a watch over the block."""
    watch = Watch()
    async with trio.open_nursery() as nursery:
        if ticks:
            nursery.start_soon(watch.tick)
        trio.lowlevel.add_instrument(watch)
        gc.callbacks.append(watch.collector)
        yield watch
        gc.callbacks.remove(watch.collector)
        trio.lowlevel.remove_instrument(watch)
        nursery.cancel_scope.cancel()


async def replace_all(
    backends: int, *, really: bool, pause: float, rng: random.Random | None = None
) -> Watch:
    """Replace all backends under claims; or do not, and let the claims go on as long."""
    slots = backends * SLOTS_EACH
    resolver = ManualResolver(some_backends(backends))
    connector = CountingConnector(2 * slots)
    policy = roomy_policy(slots, per_backend=SLOTS_EACH)
    async with (
        trio.open_nursery() as nursery,
        open_pool(nursery, resolver, connector, policy=policy, rng=rng) as pool,
    ):
        await pool.wait_ready(slots)
        # In virtual time, a task that never sleeps would stop the clock.
        async with watched(ticks=rng is None) as watch, trio.open_nursery() as claimants:
            for _ in range(CLAIMANTS):
                claimants.start_soon(watch.keep_claiming, pool)
            await trio.sleep(pause)
            if really:
                resolver.set(some_backends(backends, network=1))
                await connector.all_connected.wait()
            else:
                await trio.sleep(5 * pause)
            await trio.sleep(pause)
            claimants.cancel_scope.cancel()
        if pool.stats().departed:
            raise RuntimeError("not all backends were replaced")
    return watch


def watched_passes(backends: int, *, really: bool, pause: float) -> Program:
    """Return the program of `replace_all` for `equal_runs`."""

    async def program(seen: Passes, rng: random.Random) -> None:
        await replace_all(backends, really=really, pause=pause, rng=rng)

    return program


async def measure(report: Report) -> None:
    """Passes, steps, gaps, waits, and failures."""
    backends = report.size(1000, 5)
    pause = report.size(50, 2) / 1000

    def longest(what: str, *, really: bool) -> Sampler:
        async def sample() -> float:
            if what == "pass":
                program = watched_passes(backends, really=really, pause=pause)
                return max((await equal_runs(program, report.size(4, 2))).passes) * 1e3
            watch = await replace_all(backends, really=really, pause=pause)
            figure: float = getattr(watch, what)
            return figure if what == "failed" else figure * 1e3

        return sample

    ours = f"{backends:,} backends replaced"
    for question, what, unit, goal in (
        ("longest pass", "pass", "ms", Goal(5)),
        ("longest pass, by the clock", "own_pass", "ms", None),
        ("the same, with garbage collections", "one_pass", "ms", None),
        ("longest garbage collection", "collection", "ms", None),
        ("longest step of one task", "step", "ms", None),
        ("longest gap that a task sees", "gap", "ms", None),
        ("longest wait for a claim", "wait", "ms", None),
        ("claims that failed", "failed", "", Goal(0)),
    ):
        contenders = {
            "claims alone": longest(what, really=False),
            ours: longest(what, really=True),
        }
        goals = {} if goal is None else {ours: goal}
        await report.compare(question, unit, contenders, rounds=5, goals=goals)


if __name__ == "__main__":
    run(__doc__, measure)
