"""`WaitQueue`: the parked claimants, served in order of arrival.

The queue is generic: it hands over items of any type and does not look at them. The
dispatcher is its only user.
"""

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
    from .failure import ClaimFailure

T = TypeVar("T")

#: Cancelled waiters are removed from a container when they outnumber the others by this many.
COMPACT_THRESHOLD = 64


@final
class Waiter(Generic[T]):
    """One parked claimant."""

    __slots__ = ("_queue", "claim_id", "deadline", "outcome", "task")

    def __init__(
        self, queue: WaitQueue[T], task: trio.lowlevel.Task, claim_id: int, deadline: float
    ) -> None:
        self._queue: WaitQueue[T] = queue
        #: The task while it is parked, then `None`: a waiter that is left in a container of
        #: the queue must not keep its task alive.
        self.task: trio.lowlevel.Task | None = task
        self.claim_id: int = claim_id
        self.deadline: float = deadline
        self.outcome: T | ClaimFailure | None = None

    def abort(self, _: object) -> trio.lowlevel.Abort:
        """Leave the queue. Trio calls this when it cancels the parked task."""
        # A method, because a closure would be four more objects for each waiter.
        self._queue.leave(self)
        return trio.lowlevel.Abort.SUCCEEDED


@final
class WaitQueue(Generic[T]):
    """A queue of parked tasks with one deadline timer for all of them.

    It has three containers. The queue proper is never searched. The list of returned
    waiters holds the claimants that were served once but whose connection failed its
    set-up; they come before all others, and they are few. The heap of deadlines lets one
    timer task serve all waiters, because a cancel scope for each would cost more than the
    rest of a claim.

    Cancelled waiters stay in the queue and are skipped when they reach its head.
    Where all claimants have the same timeout, their deadlines have the order of the queue,
    and the first waiter is the first to expire. Only a deadline out of that order needs
    the heap. The two together save a seventh of a claim that waits.
    """

    __slots__ = (
        "_cancelled",
        "_deadlines",
        "_latest",
        "_number",
        "_queue",
        "_returned",
        "_timer",
        "waiting",
    )

    def __init__(self) -> None:
        #: The number of parked claimants.
        self.waiting: int = 0
        self._queue: deque[Waiter[T]] = deque()
        #: The number of waiters in the queue that are not parked any more.
        self._cancelled: int = 0
        self._returned: list[Waiter[T]] = []
        # With a number, so that two waiters are never compared themselves.
        self._deadlines: list[tuple[float, int, Waiter[T]]] = []
        #: The latest deadline in the queue that is not in the heap.
        self._latest: float = float("-inf")
        self._number: Callable[[], int] = itertools.count().__next__
        self._timer: trio.CancelScope = trio.CancelScope()

    async def wait(
        self, task: trio.lowlevel.Task, claim_id: int, deadline: float, *, again: bool
    ) -> T | ClaimFailure:
        """Park `task`, the current one, until it is handed an item or a failure.

        `again`: the claimant has been served once, and goes before all that have not.
        A cancelled claimant has left the queue and was not served: once Trio has
        rescheduled a task, it lets the call return, cancelled or not.
        """
        waiter: Waiter[T] = Waiter(self, task, claim_id, deadline)
        self.waiting += 1
        queue = self._queue
        if again:
            insort(self._returned, waiter, key=attrgetter("claim_id"))
            self._push_deadline(waiter)
        else:
            if deadline >= self._latest or not queue:
                self._latest = deadline
            else:
                self._push_deadline(waiter)
            queue.append(waiter)
        # The timer is never set later than the first deadline of all.
        if deadline < self._timer.deadline:  # noqa: PLR1730 - setting it is expensive
            self._timer.deadline = deadline
        await trio.lowlevel.wait_task_rescheduled(waiter.abort)
        assert waiter.outcome is not None
        return waiter.outcome

    def hand_off(self, item: T) -> tuple[int, trio.lowlevel.Task]:
        """Hand `item` to the first waiter; return its claim id and its task.

        There must be a waiter.
        """
        if self._returned:
            waiter = self._returned.pop(0)
        else:
            waiter = self._queue.popleft()
            while waiter.task is None:
                self._cancelled -= 1
                waiter = self._queue.popleft()
        return waiter.claim_id, self._wake(waiter, item)

    def fail_all(self, failure: ClaimFailure) -> None:
        """Wake all waiters with `failure`."""
        for waiter in [*self._returned, *self._queue]:
            if waiter.task:
                self._wake(waiter, failure)
        self._returned.clear()
        self._queue.clear()
        self._cancelled = 0

    async def expire_waiters(self, make_failure: Callable[[], ClaimFailure]) -> None:
        """Wake each waiter with a failure at its deadline. Runs until it is cancelled."""
        while True:
            with trio.CancelScope() as self._timer:
                self._timer.deadline = self._first_deadline()
                await trio.sleep_forever()
            failure: ClaimFailure | None = None
            for waiter in self._expired(trio.current_time()):
                # Made once for all of them, because it takes a snapshot of all backends.
                failure = failure or make_failure()
                self._wake(waiter, failure)

    def _first_deadline(self) -> float:
        """Return the first deadline of all waiters; it may be that of a cancelled one."""
        # The first waiter in the queue expires before all that are in order behind it.
        # Deadlines out of that order are in the heap.
        first = self._queue[0].deadline if self._queue else float("inf")
        return min(first, self._deadlines[0][0]) if self._deadlines else first

    def _expired(self, now: float) -> Iterator[Waiter[T]]:
        """Yield the waiters whose deadline has come; wake each before taking the next."""
        queue, heap = self._queue, self._deadlines
        while queue and (queue[0].task is None or queue[0].deadline <= now):
            waiter = queue.popleft()
            if waiter.task:
                yield waiter
            else:
                self._cancelled -= 1
        while heap and (heap[0][2].task is None or heap[0][0] <= now):
            _, _, waiter = heappop(heap)
            if waiter.task:
                yield waiter
                self._take_out(waiter)

    def _push_deadline(self, waiter: Waiter[T]) -> None:
        heap = self._deadlines
        if len(heap) > COMPACT_THRESHOLD + 2 * self.waiting:
            heap[:] = [entry for entry in heap if entry[2].task]
            heapify(heap)
        heappush(heap, (waiter.deadline, self._number(), waiter))

    def _wake(self, waiter: Waiter[T], outcome: T | ClaimFailure) -> trio.lowlevel.Task:
        """Wake a claimant that has been taken out of the queue."""
        task = waiter.task
        assert task is not None
        waiter.task = None
        waiter.outcome = outcome
        self.waiting -= 1
        trio.lowlevel.reschedule(task)
        return task

    def leave(self, waiter: Waiter[T]) -> None:
        """Count a claimant out that was cancelled before it was served."""
        waiter.task = None
        self.waiting -= 1
        self._take_out(waiter)

    def _take_out(self, waiter: Waiter[T]) -> None:
        """Remove a waiter from the returned ones, or leave it in the queue to be skipped."""
        if waiter in self._returned:
            self._returned.remove(waiter)
            return
        self._cancelled += 1
        if self._cancelled > COMPACT_THRESHOLD + self.waiting:
            parked = [one for one in self._queue if one.task]
            self._queue.clear()
            self._queue.extend(parked)
            self._cancelled = 0
