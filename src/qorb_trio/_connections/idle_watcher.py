"""`IdleWatcher`: notices that a peer closes an idle connection.

All connections are in one epoll instance, each registered once, when it has been dialled, for
the edge at which its peer hangs up. Trio waits for the epoll instance's own descriptor. So
replies on lent connections wake nobody, a claim makes no system call for it, and neither does
an idle pool.
"""

from __future__ import annotations

import select
from typing import Final, Generic, TypeVar, final

import attrs
import trio

from .._model.errors import StaleConnectionError
from .._slots.slot_set import Slot
from .._slots.state import UNCLAIMED
from .closer import CLOSED_BY_PEER, Closer
from .hooks import Hooks
from .outcomes import Outcomes

C = TypeVar("C")

#: The maximum number of connections that are handled before other tasks have their turn.
BATCH_SIZE: Final = 50

#: True where the system can watch for this. Elsewhere, ``is_broken`` finds out at the claim.
IS_SUPPORTED: Final = hasattr(select, "epoll")


@final
@attrs.define(eq=False, repr=False)
class IdleWatcher(Generic[C]):
    """Watches the connections of one pool for which the connector has a `fileno`."""

    _hooks: Hooks[C]
    _outcomes: Outcomes[C]
    _closer: Closer[C]
    _epoll: select.epoll | None = attrs.field(init=False, default=None)
    _slots: dict[int, Slot[C]] = attrs.field(init=False, factory=dict)
    _descriptors: dict[Slot[C], int] = attrs.field(init=False, factory=dict)

    @property
    def is_needed(self) -> bool:
        """True if there is anything to watch."""
        return IS_SUPPORTED and self._hooks.has_fileno

    def watch(self, slot: Slot[C]) -> None:
        """Watch a connection that has been established, until `forget`."""
        if self._epoll is None:
            return
        try:
            descriptor = self._hooks.fileno(slot.connection)
            if descriptor is None:
                return
            self._epoll.register(descriptor, select.EPOLLRDHUP | select.EPOLLET)
        except Exception as exc:  # noqa: BLE001 - the user's code
            self._outcomes.error(slot, exc, "fileno")
            return
        if (former := self._slots.get(descriptor)) is not None:
            # The program has closed that connection itself, and the number is used again.
            del self._descriptors[former]
        self._slots[descriptor] = slot
        self._descriptors[slot] = descriptor

    def forget(self, slot: Slot[C]) -> None:
        """Do not watch a connection any more: it is about to be closed."""
        self._closer.hung_up.discard(slot)
        descriptor = self._descriptors.pop(slot, None)
        if descriptor is None or self._epoll is None:
            return
        del self._slots[descriptor]
        try:
            self._epoll.unregister(descriptor)
        except OSError:
            pass  # the program has closed it

    async def run(self) -> None:
        """Close connections whose peer hangs up, until cancelled."""
        with select.epoll() as epoll:
            self._epoll = epoll
            try:
                while True:
                    await trio.lowlevel.wait_readable(epoll.fileno())
                    for descriptor, _ in epoll.poll(0, BATCH_SIZE):
                        self._on_hang_up(descriptor)
            finally:
                self._epoll = None

    def _on_hang_up(self, descriptor: int) -> None:
        slot = self._slots.get(descriptor)
        if slot is None or not slot.slot_set.is_active:
            return
        if slot.state is UNCLAIMED:
            reason = self._hooks.broken_reason(slot.connection)
            slot.slot_set.remove_idle(slot)
            self._closer.close_broken(slot, reason or StaleConnectionError(CLOSED_BY_PEER))
        elif not self._hooks.has_is_broken:
            self._closer.hung_up.add(slot)
