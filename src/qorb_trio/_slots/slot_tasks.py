"""`SlotTasks`: where the I/O of one slot set runs."""

from __future__ import annotations

import contextvars
import functools
import math
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar, final

import trio

from .cancellation import is_cancellation

S = TypeVar("S")


@final
class SlotTasks(Generic[S]):
    """The nursery of one slot set, and the channel to the task that owns it.

    `SlotSetTask` opens it; dialer, checker and closer start their tasks in it.
    """

    __slots__ = ("_context", "_nursery", "_on_crash", "_orders", "_send", "is_cancelled")

    def __init__(self) -> None:
        #: True when all I/O but closing is cancelled: the backend has left, or the pool ends.
        self.is_cancelled: bool = False
        self._send: trio.MemorySendChannel[list[S]]
        self._orders: trio.MemoryReceiveChannel[list[S]]
        self._send, self._orders = trio.open_memory_channel[list[S]](math.inf)
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
        if self.is_cancelled:
            nursery.cancel_scope.cancel()

    def cancel(self) -> None:
        """Cancel all I/O but closing, begun or not."""
        self.is_cancelled = True
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    def order_dials(self, slots: list[S]) -> None:
        """Order the dials of new slots from the task of the slot set."""
        self._send.send_nowait(slots)

    async def next_order(self, deadline: float) -> list[S] | None:
        """Wait for new slots to be dialled, until `deadline`; `None` if there are none by then."""
        if deadline == math.inf:
            return await self._orders.receive()
        with trio.move_on_at(deadline):
            return await self._orders.receive()
        return None

    def left_orders(self) -> list[S]:
        """Return the slots whose dial was ordered, but for which no task was started."""
        slots: list[S] = []
        while True:
            try:
                slots += self._orders.receive_nowait()
            except trio.WouldBlock:
                return slots

    def wake(self) -> None:
        """Have the task of the slot set look again at what is due."""
        self._send.send_nowait([])

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
