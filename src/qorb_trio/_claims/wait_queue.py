"""`WaitQueue`: the parked claimants, served in order of arrival.

The queue is generic: it hands over items of any type and does not look at them. The
dispatcher is its only user.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import TYPE_CHECKING, Generic, TypeVar, final

import trio

from .admission import Admission, Overload
from .deadlines import COMPACT_THRESHOLD, Deadlines
from .timer import Timer

if TYPE_CHECKING:
    from .failure import ClaimFailure

T = TypeVar("T")


@final
class Waiter(Generic[T]):
    """One parked claimant."""

    __slots__ = ("_queue", "arrival", "claim_id", "deadline", "outcome", "task")

    #: Time at which the claimant was parked; set only while the policy has a `queue_target`.
    arrival: float

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

    `Admission` decides which waiters are refused before their deadlines.
    """

    __slots__ = (
        "_cancelled",
        "_deadlines",
        "_latest",
        "_queue",
        "_returned",
        "admission",
        "timer",
        "waiting",
    )

    def __init__(self) -> None:
        #: The number of parked claimants.
        self.waiting: int = 0
        self.admission: Admission = Admission()
        self._queue: deque[Waiter[T]] = deque()
        #: The number of waiters in the queue that are not parked any more.
        self._cancelled: int = 0
        self._returned: list[Waiter[T]] = []
        #: Those that are out of the order of the queue.
        self._deadlines: Deadlines[Waiter[T]] = Deadlines()
        #: The latest deadline in the queue that is not in the heap.
        self._latest: float = float("-inf")
        #: Its task runs `expire_waiters`.
        self.timer: Timer = Timer()

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
            self._deadlines.push(waiter, self.waiting)
        else:
            if deadline >= self._latest or not queue:
                self._latest = deadline
            else:
                self._deadlines.push(waiter, self.waiting)
            queue.append(waiter)
            if self.admission.overload is not None:
                self._note_arrival(waiter, self.admission.overload)
        # The timer is never set later than the first deadline of all.
        if deadline < self.timer.deadline:  # setting it is expensive
            self.timer.set(deadline)
        await trio.lowlevel.wait_task_rescheduled(waiter.abort)
        assert waiter.outcome is not None
        return waiter.outcome

    def hand_off(self, item: T | ClaimFailure) -> tuple[int, trio.lowlevel.Task]:
        """Hand an item, or a failure, to the first waiter; return its claim id and its task.

        There must be a waiter.
        """
        if self._returned:
            waiter = self._returned.pop(0)
            task = waiter.task
            assert task is not None
        else:
            waiter = self._queue.popleft()
            while (task := waiter.task) is None:
                self._cancelled -= 1
                waiter = self._queue.popleft()
            if self.admission.overload is not None:
                self.admission.overload.served(trio.current_time() - waiter.arrival)
        # `_wake`, without its call.
        waiter.task, waiter.outcome = None, item
        self.waiting -= 1
        trio.lowlevel.reschedule(task)
        return waiter.claim_id, task

    def fail_all(self, failure: ClaimFailure) -> None:
        """Wake all waiters with `failure`."""
        for waiter in [*self._returned, *self._queue]:
            if waiter.task:
                self._wake(waiter, failure)
        self._returned.clear()
        self._queue.clear()
        self._cancelled = 0

    async def expire_waiters(
        self,
        make_failure: Callable[[], ClaimFailure],
        make_overload: Callable[[], ClaimFailure] | None = None,
    ) -> None:
        """Wake waiters with a failure at the right time. Runs until it is cancelled.

        `make_failure` is called for waiters whose deadline has come, and for all if the
        service has been down for long. `make_overload` is called for those that are refused
        because of overload. A failure is made once for all that it concerns at a time,
        because it takes a snapshot of all backends.
        """
        while True:
            await self.timer.wait_until(self._next_event())
            now = trio.current_time()
            failure: ClaimFailure | None = None
            for waiter in self._expired(now):
                failure = failure or make_failure()
                self._wake(waiter, failure)
            admission = self.admission
            if admission.outage.tick(now) and self.waiting:
                self.fail_all(make_failure())
            if admission.overload is not None and make_overload is not None:
                admission.overload.tick(now, self._first_arrival())
                self.shed(make_overload)

    def _next_event(self) -> float:
        """Return the time at which the timer must look at the queue again."""
        time = min(self._first_deadline(), self.admission.outage.next_tick())
        if self.admission.overload is not None:
            time = min(time, self.admission.overload.next_tick(self._first_arrival()))
        return time

    def _first_deadline(self) -> float:
        """Return the first deadline of all waiters; it may be that of a cancelled one."""
        # The first waiter in the queue expires before all that are in order behind it.
        # Deadlines out of that order are in the heap.
        first = self._queue[0].deadline if self._queue else float("inf")
        return min(first, self._deadlines.first())

    def _expired(self, now: float) -> Iterator[Waiter[T]]:
        """Yield the waiters whose deadline has come; wake each before taking the next."""
        queue = self._queue
        while queue and (queue[0].task is None or queue[0].deadline <= now):
            waiter = queue.popleft()
            if waiter.task:
                yield waiter
            else:
                self._cancelled -= 1
        for waiter in self._deadlines.expired(now):
            yield waiter
            self._take_out(waiter)

    # Admission. The returned waiters are exempt from it.

    def configure(self, max_waiting: float, fail_fast_after: float, queue_target: float) -> None:
        """Take over the numbers of a policy. Claimants that wait now wait on."""
        before = self.admission.overload
        self.admission.configure(max_waiting, fail_fast_after, queue_target)
        overload = self.admission.overload
        if overload is not None and overload is not before and self._first_parked():
            now = trio.current_time()
            for waiter in self._queue if before is None else ():
                waiter.arrival = now  # as far as is known
            overload.begin(now)
        self._wake_timer()

    def note_outage(self, *, is_down: bool) -> None:
        """Tell the admission whether the service is down; see `Outage`."""
        self.admission.outage.update(trio.current_time(), is_down=is_down)
        if is_down:
            self._wake_timer()

    def suspend(self) -> None:
        """Tell the admission that the pool lends nothing on purpose."""
        self.admission.suspend()

    def resume(self) -> None:
        """End a `suspend`."""
        self.admission.resume(trio.current_time())
        self._wake_timer()

    def shed(self, make_overload: Callable[[], ClaimFailure]) -> None:
        """Wake the waiters that are refused because of overload; call before each hand-over.

        It may leave no waiter.
        """
        overload = self.admission.overload
        if overload is None or not overload.is_overloaded:
            return
        now = trio.current_time()
        failure: ClaimFailure | None = None
        while (first := self._first_parked()) and overload.refuses(first.arrival, now):
            self._queue.popleft()
            failure = failure or make_overload()
            self._wake(first, failure)
            self.admission.shed += 1

    def _note_arrival(self, waiter: Waiter[T], overload: Overload) -> None:
        now = waiter.arrival = trio.current_time()
        if self.waiting - len(self._returned) == 1:  # the queue proper was empty
            overload.begin(now)
            self._wake_timer()

    def _wake_timer(self) -> None:
        """Have the timer look at the queue in time for the next event."""
        at = self._next_event()
        if at < self.timer.deadline:  # setting it is expensive
            self.timer.set(at)

    def _first_parked(self) -> Waiter[T] | None:
        """Return the first waiter in the queue proper; forget cancelled ones before it."""
        queue = self._queue
        while queue and queue[0].task is None:
            queue.popleft()
            self._cancelled -= 1
        return queue[0] if queue else None

    def _first_arrival(self) -> float | None:
        first = self._first_parked()
        return None if first is None else first.arrival

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
