"""`Saboteur`: cancels tasks at the steps that were aimed at."""

from __future__ import annotations

from typing import final

import trio

from ..harness import When


@final
class Saboteur(trio.abc.Instrument):
    """An instrument of Trio that cancels scopes in the middle of what their tasks do."""

    def __init__(self) -> None:
        self._aims: dict[trio.lowlevel.Task, tuple[int, When, trio.CancelScope]] = {}

    def aim(self, k: int, when: When, scope: trio.CancelScope) -> None:
        """Cancel `scope` at the k-th step of this task from now on."""
        self._aims[trio.lowlevel.current_task()] = (k, when, scope)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Count the edge at which a task has been woken."""
        self._step(task, When.WOKEN)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """Count the edge at which a task has yielded."""
        self._step(task, When.YIELDED)

    def task_exited(self, task: trio.lowlevel.Task) -> None:
        """Forget a task that has ended."""
        self._aims.pop(task, None)

    def _step(self, task: trio.lowlevel.Task, edge: When) -> None:
        aim = self._aims.get(task)
        if aim is None or aim[1] is not edge:
            return
        k, when, scope = aim
        if k > 1:
            self._aims[task] = (k - 1, when, scope)
        else:
            del self._aims[task]
            scope.cancel()
