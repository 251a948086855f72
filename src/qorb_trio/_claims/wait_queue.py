"""The line of parked claimants: first come, first served."""

from __future__ import annotations

import itertools
from bisect import insort
from collections import deque
from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush
from operator import attrgetter
from typing import TYPE_CHECKING, Generic, TypeVar, final

import trio

if TYPE_CHECKING:
    from .._slots.state import Slot
    from .failure import Refusal

C = TypeVar("C")

#: Those who have left are swept out when they outnumber the others by so many.
_SWEEP = 64


@final
class Waiter(Generic[C]):
    """One parked claimant."""

    __slots__ = ("_line", "answer", "deadline", "task", "ticket")

    def __init__(
        self, line: Line[C], task: trio.lowlevel.Task, ticket: int, deadline: float
    ) -> None:
        self._line: Line[C] = line
        #: The task, while it is parked: what is left in the containers of the line after
        #: that must not keep it alive.
        self.task: trio.lowlevel.Task | None = task
        self.ticket: int = ticket
        self.deadline: float = deadline
        self.answer: Slot[C] | Refusal | None = None

    def abort(self, _: object) -> trio.lowlevel.Abort:
        """Trio cancels the task while it is parked."""
        # A method, since a closure would be four objects more for each that waits.
        self._line.leave(self)
        return trio.lowlevel.Abort.SUCCEEDED


@final
class Line(Generic[C]):
    """Who waits, in order of arrival.

    Three containers: the queue proper, which is never searched; those who had their turn
    but whose connection failed its set-up, and who therefore come before everyone in the
    queue (a few: it is a list); and a heap of deadlines, so that one alarm task serves
    all waiters. (A cancel scope for each costs more than all the rest of a claim.)

    Who leaves the queue is passed over when it is their turn. And where all have the same
    timeout, their deadlines come in the order of the queue, and the first in it is the
    first to be late: only a deadline out of that order needs the heap. (The two together
    save a seventh of a claim that waits.)
    """

    __slots__ = (
        "_alarm",
        "_deadlines",
        "_gone",
        "_latest",
        "_number",
        "_queue",
        "_returned",
        "waiting",
    )

    def __init__(self) -> None:
        #: How many are parked.
        self.waiting: int = 0
        self._queue: deque[Waiter[C]] = deque()
        #: How many in the queue have left.
        self._gone: int = 0
        self._returned: list[Waiter[C]] = []
        # With a number, so that two waiters are never themselves compared.
        self._deadlines: list[tuple[float, int, Waiter[C]]] = []
        #: The latest of the deadlines in the queue that are not in the heap.
        self._latest: float = float("-inf")
        self._number: Callable[[], int] = itertools.count().__next__
        self._alarm: trio.CancelScope = trio.CancelScope()

    async def wait(
        self, task: trio.lowlevel.Task, ticket: int, deadline: float, *, again: bool
    ) -> Slot[C] | Refusal:
        """Park `task`, the current one, until a slot is handed over, or a refusal.

        `again`: the claimant has had its turn, and goes before all who have not.
        When cancelled, the claimant has left the line, and was not served: once it has
        been rescheduled, Trio lets it return, cancelled or not.
        """
        waiter: Waiter[C] = Waiter(self, task, ticket, deadline)
        self.waiting += 1
        queue = self._queue
        if again:
            insort(self._returned, waiter, key=attrgetter("ticket"))
            self._push_deadline(waiter)
        else:
            if deadline >= self._latest or not queue:
                self._latest = deadline
            else:
                self._push_deadline(waiter)
            queue.append(waiter)
        # The alarm is never set later than to the first deadline of all.
        if deadline < self._alarm.deadline:  # noqa: PLR1730 - to set it is dear
            self._alarm.deadline = deadline
        await trio.lowlevel.wait_task_rescheduled(waiter.abort)
        assert waiter.answer is not None
        return waiter.answer

    def serve(self, slot: Slot[C]) -> tuple[int, trio.lowlevel.Task]:
        """Hand `slot` to the first in line; the ticket and the task. There must be one."""
        if self._returned:
            waiter = self._returned.pop(0)
        else:
            waiter = self._queue.popleft()
            while waiter.task is None:
                self._gone -= 1
                waiter = self._queue.popleft()
        return waiter.ticket, self._answer(waiter, slot)

    def refuse_all(self, refusal: Refusal) -> None:
        """Send everyone away."""
        for waiter in [*self._returned, *self._queue]:
            if waiter.task:
                self._answer(waiter, refusal)
        self._returned.clear()
        self._queue.clear()
        self._gone = 0

    async def run_alarm(self, refusal: Callable[[], Refusal]) -> None:
        """Send those away whose deadline has come. Runs for as long as the pool does."""
        while True:
            with trio.CancelScope() as self._alarm:
                self._alarm.deadline = self._first_deadline()
                await trio.sleep_forever()
            reason: Refusal | None = None
            for waiter in self._late(trio.current_time()):
                reason = reason or refusal()  # taken once: it looks at all the backends
                self._answer(waiter, reason)

    def _first_deadline(self) -> float:
        """The first of those who wait, or of one who has left meanwhile."""
        # Whoever is first in the queue is late first, or has somebody late before it in
        # the heap: what is in order behind it comes later, and the rest is in the heap.
        first = self._queue[0].deadline if self._queue else float("inf")
        return min(first, self._deadlines[0][0]) if self._deadlines else first

    def _late(self, now: float) -> Iterator[Waiter[C]]:
        """Those whose deadline has come, each to be answered before the next is asked for."""
        queue, heap = self._queue, self._deadlines
        while queue and (queue[0].task is None or queue[0].deadline <= now):
            waiter = queue.popleft()
            if waiter.task:
                yield waiter
            else:
                self._gone -= 1
        while heap and (heap[0][2].task is None or heap[0][0] <= now):
            _, _, waiter = heappop(heap)
            if waiter.task:
                yield waiter
                self._take_out(waiter)

    def _push_deadline(self, waiter: Waiter[C]) -> None:
        heap = self._deadlines
        if len(heap) > _SWEEP + 2 * self.waiting:
            heap[:] = [entry for entry in heap if entry[2].task]
            heapify(heap)
        heappush(heap, (waiter.deadline, self._number(), waiter))

    def _answer(self, waiter: Waiter[C], answer: Slot[C] | Refusal) -> trio.lowlevel.Task:
        """Wake a claimant that has been taken out of the line."""
        task = waiter.task
        assert task is not None
        waiter.task = None
        waiter.answer = answer
        self.waiting -= 1
        trio.lowlevel.reschedule(task)
        return task

    def leave(self, waiter: Waiter[C]) -> None:
        """A claimant is not parked any more, and was not served."""
        waiter.task = None
        self.waiting -= 1
        self._take_out(waiter)

    def _take_out(self, waiter: Waiter[C]) -> None:
        """From wherever it stands in line: who is in the queue is left there."""
        if waiter in self._returned:
            self._returned.remove(waiter)
            return
        self._gone += 1
        if self._gone > _SWEEP + self.waiting:
            living = [one for one in self._queue if one.task]
            self._queue.clear()
            self._queue.extend(living)
            self._gone = 0
