"""`Closer`: closes connections, each exactly once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Generic, TypeVar, final

import attrs
import trio

from .._model.errors import StaleConnectionError
from .._model.settings import Settings
from .._slots.slot_set import Slot, SlotSet
from .._slots.state import CLAIMED, CLOSED, CLOSING, CONNECTED
from .hooks import Hooks
from .open_connections import OpenConnections
from .outcomes import Outcomes

C = TypeVar("C")

#: The reason of a connection that is closed because its descriptor says so.
CLOSED_BY_PEER: Final = "the peer has closed the connection while it was idle"


@final
@attrs.define(eq=False, repr=False)
class Closer(Generic[C]):
    """Closes the connections of one pool, and ends their slots."""

    _settings: Settings
    _hooks: Hooks[C]
    _outcomes: Outcomes[C]
    _open: OpenConnections
    _on_closed: Callable[[], None]
    #: Forgets a connection that was watched while idle. The idle watcher's.
    on_close: Callable[[Slot[C]], None] = attrs.field(init=False, default=lambda _: None)
    #: Connections in use whose peer has closed them, where ``is_broken`` will not tell.
    hung_up: set[Slot[C]] = attrs.field(init=False, factory=set)

    def close(self, slot: Slot[C]) -> None:
        """Close a slot's connection, in a task of its own where that takes I/O.

        The slot must not be among the idle ones.
        """
        slot_set = slot.slot_set
        was_connected = slot.state in CONNECTED
        if slot.state is not CLOSING:
            slot_set.transition(slot, CLOSING)
        probe_lost = slot_set.end_probe(slot)
        self.on_close(slot)
        assert slot.connection is not None
        if self._hooks.needs_close(slot.connection):
            slot_set.start_io(self._disconnect, slot)
        else:
            self.finish(slot)
        if was_connected:
            self._outcomes.connection_lost(slot_set)
        if probe_lost:
            self._outcomes.probe_lost(slot)

    def close_if_broken(self, slot: Slot[C], holder: trio.lowlevel.Task | None = None) -> bool:
        """Close a connection that ``is_broken`` reports; return True if it was closed.

        `holder` is the task that has just given it back, if one has. Whatever the user's code
        raises, the slot is not lost.
        """
        try:
            reason = self._hooks.broken_reason(slot.connection)
        except BaseException:
            self.close(slot)
            raise
        if reason is None and slot in self.hung_up:
            reason = StaleConnectionError(CLOSED_BY_PEER)
        if reason is None:
            return False
        self.close_broken(slot, reason, holder)
        return True

    def close_broken(
        self, slot: Slot[C], reason: Exception, holder: trio.lowlevel.Task | None = None
    ) -> None:
        """Close a connection that is broken for a known reason."""
        # First change the state, then tell: an instrument or a log handler may look at it.
        self.close(slot)
        self._outcomes.found_broken(slot, reason, holder)

    def close_idle(self, slot_set: SlotSet[C], count: int) -> None:
        """Close `count` spares, longest idle first."""
        for _ in range(count):
            self.close(slot_set.pop_oldest_idle())

    def clear(self, slot_set: SlotSet[C]) -> None:
        """Close all that is not checked out, and cancel all other I/O of a set.

        The set must be inactive. A claim whose ``on_acquire`` is under way could not be granted
        any more, so that is cancelled too.
        """
        slot_set.tasks.cancel()
        for slot in slot_set.tasks.take_orders():
            self.finish(slot)
        for slot in self.claimed(slot_set) if slot_set.claimed else ():
            slot.interrupt()
        self.close_idle(slot_set, slot_set.idle)

    def cut_claim(self, slot: Slot[C]) -> None:
        """Close a connection that a claimant still holds. The claim ends with this."""
        slot.interrupt()  # its `on_acquire`, if that is where the claimant is
        self.close(slot)

    def claimed(self, slot_set: SlotSet[C]) -> list[Slot[C]]:
        """Return the slots of a set that are checked out."""
        return [slot for slot in slot_set.slots if slot.state is CLAIMED]

    def finish(self, slot: Slot[C]) -> None:
        """End a slot that has nothing open any more."""
        if slot.connection is not None:
            self._open.remove(slot.connection)
            slot.detach()
        slot.slot_set.transition(slot, CLOSED)
        self._on_closed()

    @trio.lowlevel.enable_ki_protection
    async def _disconnect(self, slot: Slot[C]) -> None:
        assert slot.connection is not None
        limit = trio.current_time() + self._settings.set_config.disconnect_timeout
        try:
            with trio.CancelScope(shield=True, deadline=limit) as scope:
                await self._hooks.disconnect(slot.connection)
            if scope.cancelled_caught:
                late = trio.TooSlowError("disconnect took longer than its timeout")
                self._outcomes.error(slot, late, "disconnect")
        except Exception as exc:  # noqa: BLE001 - the user's code
            self._outcomes.error(slot, exc, "disconnect")
        finally:
            self.finish(slot)
