"""Runs that can be repeated, and `sweep`: a cancellation at every step of a task."""

from __future__ import annotations

import enum
import itertools
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from types import CodeType
from typing import Any, TypeVar, final

import trio
from trio.testing import MockClock

T = TypeVar("T")


def base_seed() -> int:
    """Return the seed that is mixed into every other one: ``QORB_TEST_SEED``, by default 0."""
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
    virtual: bool = True,
) -> T:
    """``trio.run`` in virtual time, or in real time, with the scheduler seeded."""
    seed_scheduler(seed)
    clock = MockClock(autojump_threshold=0) if virtual else None
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
    """One run of a sweep, which strikes at the k-th step of its target.

    By default a strike cancels the target. A scenario can replace `strike`, so that something
    else happens in the same tick, or instead of the cancellation.
    """

    def __init__(self, k: int = 1, when: When = When.YIELDED, seed: int = 0) -> None:
        self.k = k
        self.when = when
        self.seed = seed
        self.fired = False
        self.cancelled = False
        self.strike: Callable[[], object] = self.cancel
        self.deep = False
        """True if the steps of the tasks below the target count too."""
        self.stopped_in: set[CodeType] = set()
        """The functions on the target's stack at the strike."""
        self.failure: Exception | None = None
        self._steps = 0
        self._task: trio.lowlevel.Task | None = None
        self._scope = trio.CancelScope()

    def cancel(self) -> None:
        """Cancel the target."""
        self._scope.cancel()

    async def target(self, async_fn: Callable[..., Awaitable[object]], *args: Any) -> bool:
        """Run the function that the sweep is about, in this task.

        Returns:
          True if it came to its end, rather than being cancelled.
        """
        with self.cancelling(), self.watching():
            await async_fn(*args)
        return not self.cancelled

    @contextmanager
    def cancelling(self) -> Iterator[None]:
        """Let `cancel` cancel this block; the steps that count may be those of another task."""
        with self._scope:
            yield
        self.cancelled = self._scope.cancelled_caught

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Count the steps of this task while the block runs; to strike is up to `strike`."""
        self._task = trio.lowlevel.current_task()
        try:
            yield
        finally:
            self._task = None

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """Cancel what has just blocked."""
        if self.when is When.YIELDED and self._is_target(task):
            self._step(task)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Cancel what is about to run."""
        if self.when is When.WOKEN and self._is_target(task):
            self._step(task)

    def _is_target(self, task: trio.lowlevel.Task | None) -> bool:
        if self.deep and self._task is not None:
            while task is not None and task is not self._task:
                nursery = task.parent_nursery
                task = None if nursery is None else nursery.parent_task
        return task is not None and task is self._task

    def _step(self, task: trio.lowlevel.Task) -> None:
        self._steps += 1
        if self._steps == self.k:
            self.fired = True
            try:
                self._note(task)
                self.strike()
            except Exception as exc:  # of an instrument, Trio would only log it
                self.failure = exc

    def _note(self, task: trio.lowlevel.Task) -> None:
        for one in (task, self._task):
            if one is not None and one.coro.cr_frame is not None:  # one may have ended
                self.stopped_in |= {frame.f_code for frame, _ in one.iter_await_frames()}


def sweep(
    scenario: Callable[[Sweep], Awaitable[object]],
    *,
    seeds: int = 3,
    limit: int = 300,
    virtual: bool = True,
    stopped_in: set[CodeType] | None = None,
) -> int:
    """Run `scenario` again and again, and cancel its target one step later each time.

    Stop when a run ends before the target is cancelled. Do this for both edges of a step and
    for several schedules. The scenario calls `Sweep.target` once, and checks afterwards that
    nothing was lost. No run may leave a descriptor behind.

    Returns:
      The number of cancellations in all runs; a test asserts that there were some. The
      functions in which they found the target are added to `stopped_in`.
    """
    fired = 0
    for when, seed in itertools.product(When, range(seeds)):
        for k in itertools.count(1):
            one = Sweep(k, when, seed)
            try:
                with no_descriptor_left():
                    run(scenario, one, seed=seed, instruments=[one], virtual=virtual)
                if one.failure is not None:
                    raise one.failure
            except BaseException as exc:
                exc.add_note(f"in the sweep: k={k}, when={when.name}, seed={seed}")
                raise
            if not one.fired:
                break
            fired += 1
            if stopped_in is not None:
                stopped_in |= one.stopped_in
            assert k < limit, "the target never comes to its end"
    return fired


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """Check that the block closes every descriptor that it opens."""
    before = _descriptors()
    yield
    patience = 100
    while left := _descriptors() - before:
        patience -= 1
        assert patience, f"left open: {sorted(left)}"
        time.sleep(0.01)  # a thread that looks up a name cannot be cancelled, but ends


def _descriptors() -> set[tuple[str, str]]:
    """The descriptors of this process, and what they are open to."""
    found = set()
    for number in os.listdir("/proc/self/fd"):  # noqa: PTH208 - `Path` takes three times as long
        try:
            found.add((number, os.readlink(f"/proc/self/fd/{number}")))  # noqa: PTH115
        except FileNotFoundError:  # the descriptor by which the directory was read
            continue
    return found
