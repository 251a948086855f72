"""`SlotTasks`: where the I/O of one slot set runs."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeAlias, TypeVar, final

import trio

from .bell import Bell
from .cancellation import is_cancellation

S = TypeVar("S")

#: The I/O on one slot, as a coroutine function.
Work: TypeAlias = Callable[[S], Awaitable[None]]


@final
class SlotTasks(Bell, Generic[S]):
    """The nursery of one slot set, while I/O is under way, and what waits for it.

    `SlotSetTask` opens it; dialer, checker and closer start their I/O in it. As a bell, it
    wakes the task that keeps it open.

    A pool has one for each backend, so it holds few objects: the garbage collector, which stops
    the program, looks at each of them. While no I/O is under way, there is no task either.
    """

    __slots__ = (
        "_begun",
        "_nursery",
        "_on_crash",
        "_orders",
        "_running",
        "_scopes",
        "_stays",
        "is_cancelled",
    )

    def __init__(self) -> None:
        super().__init__()
        #: True when all I/O but closing is cancelled: the backend has left, or the pool ends.
        self.is_cancelled: bool = False
        #: Slots whose dial was ordered, but has to wait for the end of a back-off.
        self._orders: Sequence[S] = ()
        #: I/O that waits for the nursery.
        self._begun: list[tuple[Work[S], S]] | None = None
        self._nursery: trio.Nursery | None = None
        #: The number of pieces of I/O in the nursery.
        self._running: int = 0
        #: True while the nursery stays open without any.
        self._stays: bool = False
        self._scopes: dict[S, trio.CancelScope] | None = None
        self._on_crash: Callable[[BaseException], None]

    # The nursery.

    async def run(
        self, nursery: trio.Nursery, on_crash: Callable[[BaseException], None], *, stays: bool
    ) -> None:
        """Run in the nursery what waits for it, and what is started from now on.

        `on_crash` is called at once when I/O crashes: the nursery itself ends only when all of
        it has ended. `stays`: keep the nursery open until the set is cancelled, whether there is
        I/O or not.
        """
        self._nursery = nursery
        self._on_crash = on_crash
        self._stays = stays
        begun, self._begun = self._begun or (), None
        try:
            if len(begun) == 1:
                # Mostly there is only one, and a task of its own would be a third of its cost.
                self._running += 1
                await self._guard(*begun[0])
            else:
                for work, slot in begun:
                    self._spawn(nursery, work, slot)
            while stays and not self.is_cancelled:
                await self.wait()
        finally:
            self._stays = False
            self._close_if_unused()

    def _close_if_unused(self) -> None:
        """Take no more I/O into the nursery once all has ended, since it is closing then."""
        if not (self._running or self._stays):
            self._nursery = None

    def end(self) -> None:
        """Keep the nursery open no longer than until the I/O in it has ended."""
        self.is_cancelled = True
        self.ring()

    def cancel(self) -> None:
        """Cancel all I/O but closing, begun or not."""
        self.end()  # to end without `Cancelled` costs half as much
        if self._nursery is not None and self._running:
            self._nursery.cancel_scope.cancel()

    # I/O.

    def start(self, work: Work[S], slot: S) -> bool:
        """Start I/O on a slot, now or as soon as there is a nursery.

        Return True if a task has to be started that opens one. The I/O runs in the context
        variables of the pool, never in a claimant's.
        """
        nursery = self._nursery
        if nursery is not None:
            # Not those of the slot set's own task, in which other I/O may have set some.
            pool = nursery.parent_task.parent_nursery
            assert pool is not None
            spawn = functools.partial(self._spawn, nursery, work, slot)
            pool.parent_task.context.copy().run(spawn)
            return False
        if self._begun is None:
            self._begun = [(work, slot)]
            return True
        self._begun.append((work, slot))
        return False

    def _spawn(self, nursery: trio.Nursery, work: Work[S], slot: S) -> None:
        self._running += 1
        nursery.start_soon(self._guard, work, slot, name=work)

    @trio.lowlevel.enable_ki_protection
    async def _guard(self, work: Work[S], slot: S) -> None:
        try:
            await work(slot)
        except BaseException as exc:
            if not is_cancellation(exc):
                self._on_crash(exc)
            raise
        finally:
            self._running -= 1
            self._close_if_unused()

    # Dials that wait for the end of a back-off.

    def put_off(self, slots: Sequence[S]) -> None:
        """Keep slots whose dials cannot begin yet."""
        self._orders = [*self._orders, *slots]

    def take_orders(self) -> Sequence[S]:
        """Take the slots whose dials were put off."""
        slots, self._orders = self._orders, ()
        return slots

    def withdraw(self, slot: S) -> bool:
        """Take one slot out of those that were put off; return True if it was one."""
        if slot not in self._orders:
            return False
        self._orders = [it for it in self._orders if it is not slot]
        return True

    @property
    def has_waiting(self) -> bool:
        """True if dials were put off."""
        return bool(self._orders)

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
