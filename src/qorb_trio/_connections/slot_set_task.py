"""`SlotSetTask`: the task of one slot set, in whose nursery all I/O on its connections runs.

The tree of tasks::

    slot set <backend>          starts the dials that are ordered, and health checks
    ├── dial                    one task per connecting slot
    ├── health check, recycle   one task per connection
    └── close                   shielded and bounded

When a backend leaves, its nursery is cancelled. The task ends when the last slot of the set
has closed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar, final

import attrs
import trio

from .._slots.registry import Registry
from .._slots.slot_set import SlotSet
from .._util import unwrap_single
from .checker import Checker
from .closer import Closer
from .dialer import Dialer
from .warm_up import WarmUp

C = TypeVar("C")


@final
@attrs.define(kw_only=True, eq=False)
class SlotSetTask(Generic[C]):
    """The tasks of all slot sets of one pool."""

    _dialer: Dialer[C]
    _checker: Checker[C]
    _closer: Closer[C]
    _warm_up: WarmUp
    _registry: Registry[C]
    #: Ends the pool: a task here has crashed, or the pool's nursery was cancelled.
    _on_lost: Callable[[BaseException | None], None]

    @trio.lowlevel.enable_ki_protection
    async def run(self, slot_set: SlotSet[C]) -> None:
        """Run the I/O of a slot set until its backend has left and its slots are closed."""
        try:
            # Strict, however Trio runs: this nursery's layer is removed below.
            async with trio.open_nursery(strict_exception_groups=True) as nursery:
                slot_set.tasks.open(nursery, self._on_lost)
                try:
                    await self._serve(slot_set)
                finally:
                    await self._drain(slot_set)  # noqa: ASYNC102 - shielded within
        except BaseExceptionGroup as group:
            crash = unwrap_single(group)
        else:
            return
        finally:
            self._registry.forget(slot_set)
        raise crash

    async def _serve(self, slot_set: SlotSet[C]) -> None:
        """Start ordered dials, and checks that are due, until cancelled."""
        tasks = slot_set.tasks
        while not tasks.is_cancelled:
            check_at = self._start_dials(slot_set)
            wake_at = self._checker.wake_at(slot_set, check_at)
            next_at = min(wake_at, self._warm_up.next_step_at(slot_set))
            await tasks.wait(min(next_at, slot_set.next_dial_at))
            self._look(slot_set, check_at)

    def _start_dials(self, slot_set: SlotSet[C]) -> float:
        """Start the dials that can begin; return when a check may be due."""
        now = trio.current_time()
        slot_set.tasks.start_dials(self._dialer.dial, slot_set.take_orders(now))
        return self._checker.next_check_at(slot_set, now)

    def _look(self, slot_set: SlotSet[C], check_at: float) -> None:
        """Begin what is due by now."""
        self._warm_up.step(slot_set)
        self._checker.check_due(slot_set, check_at, trio.current_time())

    async def _drain(self, slot_set: SlotSet[C]) -> None:
        """Wait until all slots are closed. Nothing new is dialled meanwhile."""
        if slot_set.is_active:
            self._on_lost(None)
        self._checker.forget(slot_set)
        self._warm_up.forget(slot_set)
        for slot in slot_set.tasks.take_orders():
            self._closer.finish(slot)
        if not slot_set.is_drained:
            with trio.CancelScope(shield=True):  # closing is bounded, and the pool cuts claims
                await slot_set.ask_for_end().wait()
