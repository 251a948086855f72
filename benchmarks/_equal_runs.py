"""Time each pass of the loop, without what the machine does meanwhile.

A virtual machine that shares its processors stops now and then for some milliseconds, also
in processor time. So a program is run several times, in virtual time and with the same
seeds: each run makes the same passes in the same order. The least time of each pass is that
of the program; the machine would have to stop in the same pass of each run to change it.

The garbage collector does not run meanwhile. The benchmarks have a row of its own for it.
"""

from __future__ import annotations

import gc
import math
import random
from collections.abc import Awaitable, Callable
from time import thread_time
from typing import TypeAlias

import attrs
import trio
import trio.testing

SEED = 7


@attrs.define(eq=False)
class Passes(trio.abc.Instrument):
    """The seconds of processor time of one run, in order: each pass, and each claim."""

    passes: list[float] = attrs.field(factory=list)
    claims: list[float] = attrs.field(factory=list)
    _began: float | None = None

    def after_io_wait(self, timeout: float) -> None:
        """A pass begins."""
        self._began = thread_time()

    def before_io_wait(self, timeout: float) -> None:
        """A pass ends."""
        if self._began is not None:
            self.passes.append(thread_time() - self._began)
            self._began = None

    def skip(self) -> None:
        """Leave out the present pass, which prepares the run."""
        self._began = None
        self.passes.append(0.0)


#: Makes the passes to be measured, with pools that take this generator.
Program: TypeAlias = Callable[[Passes, random.Random], Awaitable[None]]


def one_run(program: Program) -> Passes:
    """Run the program once, outside of any run of Trio's."""
    seen = Passes()
    # Private, but Trio has no other way to have tasks run in the same order again.
    trio._core._run._r.seed(SEED)
    gc.collect()
    gc.disable()
    try:
        clock = trio.testing.MockClock(autojump_threshold=0)
        trio.run(program, seen, random.Random(SEED), clock=clock, instruments=[seen])
    finally:
        gc.enable()
    return seen


async def equal_runs(program: Program, runs: int) -> Passes:
    """Return the least times of `runs` equal runs.

    Now and then a run differs, because Trio cancels tasks in the order of their addresses. Then
    others are made, up to four times as many in all, and the greatest number of equal ones counts.
    """
    alike: dict[tuple[int, int], list[Passes]] = {}
    for _ in range(4 * runs):
        # In a thread, because this one has a run of its own. One thread runs at a time.
        seen = await trio.to_thread.run_sync(one_run, program)
        group = alike.setdefault((len(seen.passes), len(seen.claims)), [])
        group.append(seen)
        if len(group) == runs:
            break
    equal = max(alike.values(), key=len)
    passes = map(min, *[it.passes for it in equal], [math.inf] * len(equal[0].passes))
    claims = map(min, *[it.claims for it in equal], [math.inf] * len(equal[0].claims))
    return Passes([*passes], [*claims])
