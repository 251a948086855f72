"""`SlotSetTask`: the task of one slot set, in which the I/O on its connections runs.

The tree of tasks::

    slot set <backend>          does I/O that begins alone
    └── dial                    one for each that begins together with others, in a nursery

The I/O is a dial, a health check, a recycling, or a close, which is shielded and bounded. Most of
it begins alone, and needs no nursery. When a backend leaves, the scopes of its I/O are
cancelled. The task ends with its I/O. What begins meanwhile, or later, starts another one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar, final

import attrs
import trio

from .._slots.cancellation import is_cancellation
from .._slots.slot_set import Slot, SlotSet
from .._slots.slot_tasks import Work
from .._util import unwrap_single

C = TypeVar("C")


@final
@attrs.define(eq=False, repr=False)
class SlotSetTask(Generic[C]):
    """The tasks of all slot sets of one pool."""

    #: Ends the pool: a task here has crashed, or the pool's nursery was cancelled.
    _on_lost: Callable[[BaseException | None], None]

    @trio.lowlevel.enable_ki_protection
    async def run(self, slot_set: SlotSet[C]) -> None:
        """Run the I/O of a slot set that has begun."""
        begun = slot_set.tasks.take_begun()
        if len(begun) == 1:
            # Without a nursery, which would cost as much as all else that a dial does.
            await self._guard(*begun[0])
            return
        try:
            # Strict, however Trio runs: this nursery's layer is removed below.
            async with trio.open_nursery(strict_exception_groups=True) as nursery:
                for work, slot in begun:
                    nursery.start_soon(self._guard, work, slot, name=work)
        except BaseExceptionGroup as group:
            # Beside a crash, cancellations are what follows from it. The pool has begun to end, so
            # they may come from further up, and then this nursery has not removed them.
            lost = unwrap_single(group.split(trio.Cancelled)[1] or group)
        else:
            return
        raise lost

    @trio.lowlevel.enable_ki_protection
    async def _guard(self, work: Work[Slot[C]], slot: Slot[C]) -> None:
        try:
            await work(slot)
        except BaseException as exc:
            # At once: a nursery ends only when all in it has ended.
            self._on_lost(None if is_cancellation(exc) else exc)
            raise
