"""Runs that can be repeated, and `sweep`: a cancellation at every step of a task."""

from __future__ import annotations

import enum
import itertools
import os
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar, final

import trio
from trio.testing import MockClock

T = TypeVar("T")


def base_seed() -> int:
    """What every seed is mixed with: ``QORB_TEST_SEED``, by default 0."""
    return int(os.environ.get("QORB_TEST_SEED", "0"))


def seed_scheduler(seed: object) -> None:
    """Make Trio shuffle its batches in an order that depends on nothing but `seed`.

    Both names are private to Trio, and have been there for many years: Hypothesis and
    pytest-trio lean on the same two.
    """
    internals: Any = trio._core._run
    internals._ALLOW_DETERMINISTIC_SCHEDULING = True
    internals._r.seed(f"{base_seed()} {seed}")


def run(
    async_fn: Callable[..., Awaitable[T]],
    *args: Any,
    seed: object = 0,
    instruments: Iterable[trio.abc.Instrument] = (),
) -> T:
    """``trio.run`` in virtual time, with the scheduler seeded."""
    seed_scheduler(seed)
    clock = MockClock(autojump_threshold=0)
    return trio.run(async_fn, *args, clock=clock, instruments=list(instruments))


class When(enum.Enum):
    """At which edge of its k-th step the target is cancelled."""

    YIELDED = enum.auto()
    """It has just blocked: the cancellation aborts its wait."""

    WOKEN = enum.auto()
    """It has been woken but has not run: the wake-up arrives, and the cancellation waits
    for the next checkpoint."""


@final
class Sweep(trio.abc.Instrument):
    """One run of a sweep: cancels its target at the k-th step."""

    def __init__(self, k: int, when: When) -> None:
        self.k = k
        self.when = when
        self.fired = False
        self.cancelled = False
        self._steps = 0
        self._task: trio.lowlevel.Task | None = None
        self._scope = trio.CancelScope()

    async def target(self, async_fn: Callable[..., Awaitable[object]], *args: Any) -> bool:
        """Run the function that the sweep is about, in this task.

        Returns:
          Whether it came to its end, rather than being cancelled.
        """
        with self._scope:
            self._task = trio.lowlevel.current_task()
            try:
                await async_fn(*args)
            finally:
                self._task = None
        self.cancelled = self._scope.cancelled_caught
        return not self.cancelled

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """Cancel what has just blocked."""
        if task is self._task and self.when is When.YIELDED:
            self._step()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Cancel what is about to run."""
        if task is self._task and self.when is When.WOKEN:
            self._step()

    def _step(self) -> None:
        self._steps += 1
        if self._steps == self.k:
            self.fired = True
            self._scope.cancel()


def sweep(
    scenario: Callable[[Sweep], Awaitable[object]], *, seeds: int = 3, limit: int = 300
) -> int:
    """Run `scenario` again and again, its target cancelled one step later each time.

    Goes on until a run comes to its end with the target uncancelled, for both edges of a
    step and for several schedules. The scenario calls `Sweep.target` once, and checks
    afterwards that nothing was lost.

    Returns:
      How many cancellations there were in all; a test asserts that there were some.
    """
    fired = 0
    for when, seed in itertools.product(When, range(seeds)):
        for k in itertools.count(1):
            one = Sweep(k, when)
            try:
                run(scenario, one, seed=seed, instruments=[one])
            except BaseException as exc:
                exc.add_note(f"in the sweep: k={k}, when={when.name}, seed={seed}")
                raise
            if not one.fired:
                break
            fired += 1
            assert k < limit, "the target never comes to its end"
    return fired
