"""The line of parked claimants: first come, first served."""

from __future__ import annotations

import itertools
from bisect import insort
from collections import OrderedDict
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from operator import attrgetter
from typing import TYPE_CHECKING, Generic, TypeVar, final

import trio

if TYPE_CHECKING:
    from ._refusal import Refusal
    from ._slot import Slot

C = TypeVar("C")

#: Deadlines of claimants that have left are swept out when they outnumber the others.
_SWEEP = 64


@final
class Waiter(Generic[C]):
    """One parked claimant."""

    __slots__ = ("_line", "answer", "deadline", "task", "ticket")

    def __init__(
        self, line: Line[C], task: trio.lowlevel.Task, ticket: int, deadline: float
    ) -> None:
        self._line: Line[C] = line
        #: The task, while it is parked: what is left in the heap of deadlines after that
        #: must not keep it alive.
        self.task: trio.lowlevel.Task | None = task
        self.ticket: int = ticket
        self.deadline: float = deadline
        self.answer: Slot[C] | Refusal | None = None

    def abort(self, _: object) -> trio.lowlevel.Abort:
        """Trio cancels the task while it is parked."""
        # A method, since a closure would be four objects more for each that waits.
        self._line.leave(self)
        self.task = None
        return trio.lowlevel.Abort.SUCCEEDED


@final
class Line(Generic[C]):
    """Who waits, in order of arrival.

    Three containers, none of which is ever searched: the queue proper; those who had
    their turn but whose connection failed its set-up, and who therefore come before
    everyone in the queue; and a heap of deadlines, so that one alarm task serves all
    waiters. (A cancel scope for each costs more than all the rest of a claim.)
    """

    __slots__ = ("_alarm", "_deadlines", "_number", "queue", "returned")

    def __init__(self) -> None:
        self.queue: OrderedDict[Waiter[C], None] = OrderedDict()
        self.returned: list[Waiter[C]] = []
        # With a number, so that two waiters are never themselves compared.
        self._deadlines: list[tuple[float, int, Waiter[C]]] = []
        self._number: Callable[[], int] = itertools.count().__next__
        self._alarm: trio.CancelScope | None = None

    def __len__(self) -> int:
        return len(self.queue) + len(self.returned)

    async def wait(
        self, task: trio.lowlevel.Task, ticket: int, deadline: float, *, again: bool
    ) -> Slot[C] | Refusal:
        """Park `task`, the current one, until a slot is handed over, or a refusal.

        `again`: the claimant has had its turn, and goes before all who have not.
        When cancelled, the claimant has left the line, and was not served: once it has
        been rescheduled, Trio lets it return, cancelled or not.
        """
        waiter: Waiter[C] = Waiter(self, task, ticket, deadline)
        if again:
            insort(self.returned, waiter, key=attrgetter("ticket"))
        else:
            self.queue[waiter] = None
        if deadline != float("inf"):
            self._set_alarm(waiter)
        await trio.lowlevel.wait_task_rescheduled(waiter.abort)
        assert waiter.answer is not None
        return waiter.answer

    def serve(self, slot: Slot[C]) -> tuple[int, trio.lowlevel.Task]:
        """Hand `slot` to the first in line; the ticket and the task. There must be one."""
        if self.returned:
            waiter = self.returned.pop(0)
        else:
            waiter, _ = self.queue.popitem(last=False)
        return waiter.ticket, self._answer(waiter, slot)

    def refuse_all(self, refusal: Refusal) -> None:
        """Send everyone away."""
        for waiter in [*self.returned, *self.queue]:
            self._refuse(waiter, refusal)

    async def run_alarm(self, refusal: Callable[[], Refusal]) -> None:
        """Send those away whose deadline has come. Runs for as long as the pool does."""
        heap = self._deadlines
        while True:
            with trio.CancelScope() as self._alarm:
                self._alarm.deadline = heap[0][0] if heap else float("inf")
                await trio.sleep_forever()
            now = trio.current_time()
            late = []
            while heap and (heap[0][2].task is None or heap[0][0] <= now):
                _, _, waiter = heappop(heap)
                if waiter.task:
                    late.append(waiter)
            if late:
                reason = refusal()  # taken once: it looks at all the backends
                for waiter in late:
                    self._refuse(waiter, reason)

    def _set_alarm(self, waiter: Waiter[C]) -> None:
        deadline = waiter.deadline
        heap = self._deadlines
        if len(heap) > _SWEEP + 2 * (len(self.queue) + len(self.returned)):
            heap[:] = [entry for entry in heap if entry[2].task]
            heapify(heap)
        entry = (deadline, self._number(), waiter)
        heappush(heap, entry)
        # The alarm is never set later than to the first deadline of all.
        if heap[0] is entry and self._alarm is not None and deadline < self._alarm.deadline:
            self._alarm.deadline = deadline

    def _refuse(self, waiter: Waiter[C], refusal: Refusal) -> None:
        self.leave(waiter)
        self._answer(waiter, refusal)

    def _answer(self, waiter: Waiter[C], answer: Slot[C] | Refusal) -> trio.lowlevel.Task:
        """Wake a claimant that has been taken out of the line."""
        task = waiter.task
        assert task is not None
        waiter.task = None
        waiter.answer = answer
        trio.lowlevel.reschedule(task)
        return task

    def leave(self, waiter: Waiter[C]) -> None:
        """Take a claimant out of the line."""
        if waiter in self.queue:
            del self.queue[waiter]
        else:
            self.returned.remove(waiter)
