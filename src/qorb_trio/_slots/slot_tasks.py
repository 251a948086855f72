"""`SlotTasks`: the I/O on the slots of one slot set that waits for a task, or is under way."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeAlias, TypeVar, final

import trio

S = TypeVar("S")

#: The I/O on one slot, as a coroutine function.
Work: TypeAlias = Callable[[S], Awaitable[None]]


@final
class SlotTasks(Generic[S]):
    """The I/O of one slot set that waits for a task, and the scopes of that which is under way.

    Dialer, checker and closer start it by `SlotSet.start_io`, and `SlotSetTask` runs it.

    A pool has one for each backend, so it holds few objects: the garbage collector, which stops
    the program, looks at each of them. While no I/O is under way, there is no task either.
    """

    __slots__ = ("_begun", "_orders", "_scopes", "is_cancelled")

    def __init__(self) -> None:
        #: True when all I/O but closing is cancelled: the backend has left, or the pool ends.
        self.is_cancelled: bool = False
        #: Slots whose dial was ordered, but has to wait for the end of a back-off.
        self._orders: Sequence[S] = ()
        #: I/O that waits for a task.
        self._begun: list[tuple[Work[S], S]] | None = None
        self._scopes: dict[S, trio.CancelScope] | None = None

    # I/O.

    def start(self, work: Work[S], slot: S) -> bool:
        """Start I/O on a slot as soon as there is a task for it.

        Return True if a task has to be started.
        """
        if self._begun is None:
            self._begun = [(work, slot)]
            return True
        self._begun.append((work, slot))
        return False

    def take_begun(self) -> Sequence[tuple[Work[S], S]]:
        """Take the I/O that waits for a task. What is started later needs another one."""
        begun, self._begun = self._begun, None
        assert begun is not None
        return begun

    def cancel(self) -> None:
        """Cancel all I/O that is under way, but closing.

        What has not begun yet sees for itself that its slot set is not active any more.
        """
        self.is_cancelled = True
        if self._scopes is not None:
            for scope in self._scopes.values():
                scope.cancel()

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
