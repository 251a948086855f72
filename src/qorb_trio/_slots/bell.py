"""`Bell`: wakes the one task that waits for it."""

from __future__ import annotations

import math

import trio


class Bell:
    """A channel with one reader and without items: it only says that there is something to do.

    A ring that finds nobody waiting is kept, so that the next wait ends at once. However
    many rings come before a wait, they are one. It costs a quarter of a memory channel.
    """

    __slots__ = ("_has_rung", "_task")

    def __init__(self) -> None:
        self._has_rung: bool = False
        #: The task that waits, if it does.
        self._task: trio.lowlevel.Task | None = None

    def ring(self) -> None:
        """Wake the task that waits, or the next one that does."""
        self._has_rung = True
        task = self._task
        if task is not None:
            self._task = None
            trio.lowlevel.reschedule(task)

    def forget(self) -> None:
        """Forget a ring that nobody has heard: all is being looked at anyway."""
        self._has_rung = False

    async def wait(self, deadline: float = math.inf) -> None:
        """Return at a ring, or at `deadline`. A checkpoint. Only one task may wait at a time."""
        if self._has_rung:
            await trio.lowlevel.checkpoint()
        else:
            assert self._task is None
            self._task = trio.lowlevel.current_task()
            if deadline == math.inf:
                await trio.lowlevel.wait_task_rescheduled(self._abort)
            else:
                with trio.CancelScope(deadline=deadline):
                    await trio.lowlevel.wait_task_rescheduled(self._abort)
        self._has_rung = False

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED
