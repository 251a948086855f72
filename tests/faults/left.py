"""Resources of this process: descriptors, tasks, objects of this package."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio

#: Real seconds to wait for what must happen. It fails tests that hang, not slow machines.
PATIENCE = 60.0


async def until(condition: Callable[[], object], what: str) -> None:
    """Wait until the condition holds.

    Raises:
      AssertionError: with `what`, when patience has run out.
    """
    with trio.move_on_after(PATIENCE):
        while not condition():  # noqa: ASYNC110 - the condition is no event
            await trio.sleep(0.01)
        return
    raise AssertionError(f"after {PATIENCE:.0f} s it is not true that {what}")


def descriptors() -> dict[int, str]:
    """The open descriptors of this process, and what they are open to."""
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found[int(entry.name)] = str(entry.readlink())
        except FileNotFoundError:  # the descriptor by which the directory was read
            continue
    return found


def tasks() -> int:
    """Return the number of living tasks."""
    return trio.lowlevel.current_statistics().tasks_living


def objects() -> Counter[str]:
    """Count the objects of each class of this package, and Trio's socket streams."""
    gc.collect()
    kinds = (type(thing) for thing in gc.get_objects())
    names = (f"{kind.__module__}.{kind.__qualname__}" for kind in kinds)
    return Counter(
        name
        for name in names
        if name.startswith(("qorb_trio.", "trio.SocketStream", "tests.faults."))
    )


def grown(before: Counter[str], allowed: int = 0) -> Counter[str]:
    """Return the classes with more objects than before, beyond `allowed` each."""
    return Counter({name: more for name, more in (objects() - before).items() if more > allowed})


@asynccontextmanager
async def nothing_left() -> AsyncIterator[None]:
    """Check that when the block has ended, all is as it was before.

    The kernel and Trio's threads may take a moment, so it is waited for.
    """
    before, tasks_before, objects_before = descriptors(), tasks(), objects()
    yield
    await until(lambda: len(descriptors()) <= len(before), "no more descriptors are open")
    await until(lambda: tasks() <= tasks_before, "there are no more tasks")
    await until(lambda: not grown(objects_before), "no objects are left")
