"""`SlotTasks`: where the I/O of one slot set runs."""

from __future__ import annotations

import contextvars
import functools
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar, final

import trio

from .bell import Bell
from .cancellation import is_cancellation

S = TypeVar("S")


@final
class SlotTasks(Generic[S]):
    """The nursery of one slot set, and the orders to the task that owns it.

    `SlotSetTask` opens it; dialer, checker and closer start their tasks in it.
    """

    __slots__ = (
        "_bell",
        "_context",
        "_nursery",
        "_on_crash",
        "_orders",
        "has_orders",
        "is_cancelled",
    )

    def __init__(self) -> None:
        #: True from the first order on: only then is there a task.
        self.has_orders: bool = False
        #: True when all I/O but closing is cancelled: the backend has left, or the pool ends.
        self.is_cancelled: bool = False
        #: Wakes the task: there are orders, or it is at its end, or has to look at what is due.
        self._bell: Bell = Bell()
        #: Slots whose dial was ordered, and for which no task was started yet.
        self._orders: list[S] = []
        self._nursery: trio.Nursery | None = None
        self._context: contextvars.Context | None = None
        self._on_crash: Callable[[BaseException], None]

    def open(self, nursery: trio.Nursery, on_crash: Callable[[BaseException], None]) -> None:
        """Set the nursery: the task of the slot set has begun.

        `on_crash` is called at once when a task in it crashes: the nursery itself ends only
        when all claims on this backend have ended.
        """
        self._nursery = nursery
        self._on_crash = on_crash
        self._context = contextvars.copy_context()

    def cancel(self) -> None:
        """Cancel all I/O but closing, begun or not."""
        self.is_cancelled = True
        self._bell.ring()  # to end without `Cancelled` costs half as much
        if self._nursery is not None and self._nursery.child_tasks:
            self._nursery.cancel_scope.cancel()

    def order_dials(self, slots: list[S]) -> None:
        """Order the dials of new slots from the task of the slot set."""
        self.has_orders = True
        self._orders += slots
        self._bell.ring()

    def start_dials(self, dial: Callable[[S], Awaitable[None]], slots: list[S]) -> None:
        """Start a task for each of these slots. Only for the task of the slot set itself."""
        nursery, name = self._nursery, f"{dial.__module__}.{dial.__qualname__}"
        assert nursery is not None
        for slot in slots:
            nursery.start_soon(self._guard, dial, slot, name=name)

    def take_orders(self) -> list[S]:
        """Return the slots whose dial was ordered, but for which no task was started."""
        self._bell.forget()
        slots, self._orders = self._orders, []
        return slots

    def put_back(self, slots: list[S]) -> None:
        """Keep slots that were taken until the task asks again."""
        self._orders = slots

    @property
    def has_waiting(self) -> bool:
        """True if dials have been ordered for which no task was started yet."""
        return bool(self._orders)

    async def wait(self, deadline: float) -> None:
        """Wait for orders, for `wake` or for `cancel`, until `deadline`."""
        await self._bell.wait(deadline)

    def wake(self) -> None:
        """Have the task of the slot set look again at what is due."""
        self._bell.ring()

    def start(self, work: Callable[[S], Awaitable[None]], slot: S) -> None:
        """Start a task for I/O on a slot.

        It runs in the context variables of the slot set's task, never in a claimant's.
        """
        assert self._nursery is not None
        assert self._context is not None
        start_soon = self._nursery.start_soon
        self._context.run(functools.partial(start_soon, self._guard, work, slot, name=work))

    @trio.lowlevel.enable_ki_protection
    async def _guard(self, work: Callable[[S], Awaitable[None]], slot: S) -> None:
        try:
            await work(slot)
        except BaseException as exc:
            if not is_cancellation(exc):
                self._on_crash(exc)
            raise
