"""`SlotSetTask`: the task of one slot set, in whose nursery all I/O on its connections runs.

The tree of tasks::

    slot set <backend>          keeps the nursery while I/O is under way
    ├── dial                    one per connecting slot
    ├── health check, recycle   one per connection
    └── close                   shielded and bounded

The task itself does I/O that begins alone. Otherwise each has a task of its own in the nursery.
When a backend leaves, its nursery is cancelled. The task ends with the last I/O, and the next
I/O starts another one. Where few backends have connections that are cleaned after each claim,
it stays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Generic, TypeVar, final

import attrs
import trio

from .._slots.registry import Registry
from .._slots.slot_set import SlotSet
from .._util import unwrap_single
from .hooks import Hooks

C = TypeVar("C")

#: Up to this number of active backends, a task may stay while no I/O is under way. With
#: more, that would have the garbage collector look at twice as many objects.
FEW_TASKS: Final = 64


@final
@attrs.define(kw_only=True, eq=False, repr=False)
class SlotSetTask(Generic[C]):
    """The tasks of all slot sets of one pool."""

    _hooks: Hooks[C]
    _registry: Registry[C]
    #: Ends the pool: a task here has crashed, or the pool's nursery was cancelled.
    _on_lost: Callable[[BaseException | None], None]

    @trio.lowlevel.enable_ki_protection
    async def run(self, slot_set: SlotSet[C]) -> None:
        """Run the I/O of a slot set until none is under way, or until its backend has left."""
        stays = self._hooks.has_on_recycle and len(self._registry.active) <= FEW_TASKS
        try:
            # Strict, however Trio runs: this nursery's layer is removed below.
            async with trio.open_nursery(strict_exception_groups=True) as nursery:
                await slot_set.tasks.run(nursery, self._on_lost, stays=stays)
        except BaseExceptionGroup as group:
            lost = unwrap_single(group)
        else:
            return
        self._on_lost(None)
        raise lost
