"""`SlotTasks`: where the I/O of one slot set runs."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Generic, TypeVar, final

import trio

from .bell import Bell
from .cancellation import is_cancellation

S = TypeVar("S")


@final
class SlotTasks(Bell, Generic[S]):
    """The nursery of one slot set, and the orders to the task that owns it.

    `SlotSetTask` opens it; dialer, checker and closer start their tasks in it. As a bell, it
    wakes that task: there are orders, or it is at its end, or has to look at what is due.

    A pool has one for each backend, so it holds few objects: the garbage collector, which stops
    the program, looks at each of them.
    """

    __slots__ = (
        "_nursery",
        "_on_crash",
        "_orders",
        "_scopes",
        "has_orders",
        "is_cancelled",
    )

    def __init__(self) -> None:
        super().__init__()
        #: True from the first order on: only then is there a task.
        self.has_orders: bool = False
        #: True when all I/O but closing is cancelled: the backend has left, or the pool ends.
        self.is_cancelled: bool = False
        #: Slots whose dial was ordered, and for which no task was started yet.
        self._orders: Sequence[S] = ()
        self._nursery: trio.Nursery | None = None
        self._scopes: dict[S, trio.CancelScope] | None = None
        self._on_crash: Callable[[BaseException], None]

    def open(self, nursery: trio.Nursery, on_crash: Callable[[BaseException], None]) -> None:
        """Set the nursery: the task of the slot set has begun.

        `on_crash` is called at once when a task in it crashes: the nursery itself ends only
        when all claims on this backend have ended.
        """
        self._nursery = nursery
        self._on_crash = on_crash

    def cancel(self) -> None:
        """Cancel all I/O but closing, begun or not."""
        self.is_cancelled = True
        self.ring()  # to end without `Cancelled` costs half as much
        if self._nursery is not None and self._nursery.child_tasks:
            self._nursery.cancel_scope.cancel()

    def order_dials(self, slots: list[S]) -> None:
        """Order the dials of new slots from the task of the slot set."""
        self.has_orders = True
        self._orders = [*self._orders, *slots]
        self.ring()

    def start_dials(self, dial: Callable[[S], Awaitable[None]], slots: Iterable[S]) -> None:
        """Start a task for each of these slots. Only for the task of the slot set itself."""
        nursery, name = self._nursery, f"{dial.__module__}.{dial.__qualname__}"
        assert nursery is not None
        for slot in slots:
            nursery.start_soon(self._guard, dial, slot, name=name)

    def take_orders(self) -> Sequence[S]:
        """Return the slots whose dial was ordered, but for which no task was started."""
        self.forget()
        slots, self._orders = self._orders, ()
        return slots

    def put_back(self, slots: list[S]) -> None:
        """Keep slots that were taken until the task asks again."""
        self._orders = slots

    # The scopes of the I/O that is under way. An idle slot keeps no place for one.

    def keep_scope(self, slot: S, scope: trio.CancelScope) -> None:
        """Keep the scope that cancels the dial, check, recycling or set-up of a slot."""
        if self._scopes is None:
            self._scopes = {}
        self._scopes[slot] = scope

    def drop_scope(self, slot: S) -> None:
        """Forget the scope of a slot, if it has one: no I/O is under way."""
        scopes = self._scopes
        if scopes is not None:
            scopes.pop(slot, None)
            if not scopes:
                self._scopes = None

    def scope_of(self, slot: S) -> trio.CancelScope | None:
        """Return the scope of the I/O on a slot; `None` if none is under way."""
        return None if self._scopes is None else self._scopes.get(slot)

    @property
    def has_waiting(self) -> bool:
        """True if dials have been ordered for which no task was started yet."""
        return bool(self._orders)

    def start(self, work: Callable[[S], Awaitable[None]], slot: S) -> None:
        """Start a task for I/O on a slot.

        It runs in the context variables of the slot set's task, never in a claimant's.
        """
        nursery = self._nursery
        assert nursery is not None
        start_soon = functools.partial(nursery.start_soon, self._guard, work, slot, name=work)
        # A copy, because the slot set's task itself may be the caller.
        nursery.parent_task.context.copy().run(start_soon)

    @trio.lowlevel.enable_ki_protection
    async def _guard(self, work: Callable[[S], Awaitable[None]], slot: S) -> None:
        try:
            await work(slot)
        except BaseException as exc:
            if not is_cancellation(exc):
                self._on_crash(exc)
            raise
