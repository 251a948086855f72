"""`Spares`: takes usable connections out of the idle ones."""

from __future__ import annotations

from typing import Generic, TypeVar, final

import attrs

from .._balancing.idle_index import IdleIndex
from .._balancing.preference import NO_PREFERENCE, Preference
from .._connections.closer import Closer
from .._connections.ejections import Ejections
from .._connections.hooks import Hooks
from .._connections.retirement import Retirement
from .._slots.slot_set import Slot, SlotSet

C = TypeVar("C")


@final
@attrs.define(eq=False, repr=False)
class Spares(Generic[C]):
    """The spares of one pool: one that is broken or has expired is closed instead of lent.

    The slots that its methods return are CLAIMED. The dispatcher is its only user.
    """

    _hooks: Hooks[C]
    _idle_index: IdleIndex[SlotSet[C]]
    _closer: Closer[C]
    _ejections: Ejections[C]
    _retirement: Retirement[C]

    @property
    def need_inspection(self) -> bool:
        """True if a spare may be found to be broken, or to have expired."""
        return self._hooks.has_is_broken or self._retirement.limits_lives

    def take(self, preference: Preference = NO_PREFERENCE) -> Slot[C] | None:
        """Take a spare for a claim that prefers some backends to others, if there is one.

        Raises:
          BalancerError: if the user's balancer fails.
        """
        while (slot_set := self._idle_index.choose_for(preference)) is not None:
            if slot_set.is_ejected:
                slot = self._ejections.begin_trial(slot_set)
            else:
                slot = self._pop_unbroken(slot_set)
            if slot is not None:
                return slot
        return None

    def take_offered(self) -> Slot[C] | None:
        """Take a spare that an ejected backend offers for its trial, if there is one."""
        while (slot_set := self._idle_index.take_offer()) is not None:
            slot = self._ejections.begin_trial(slot_set)
            if slot is not None:
                return slot
        return None

    def take_of(self, slot_set: SlotSet[C]) -> Slot[C] | None:
        """Take a spare of one backend, if there is one."""
        while slot_set.idle_slots:
            slot = self._pop_unbroken(slot_set)
            if slot is not None:
                return slot
        return None

    def _pop_unbroken(self, slot_set: SlotSet[C]) -> Slot[C] | None:
        slot = slot_set.pop_idle()
        return None if self._closer.close_if_broken(slot) else slot

    def close_if_unusable(self, slot: Slot[C]) -> bool:
        """Close a connection that is broken, or has expired; return True if it was closed.

        If it was not, this counts as a use of it.
        """
        return self._closer.close_if_broken(slot) or self.close_if_expired(slot)

    def close_if_expired(self, slot: Slot[C]) -> bool:
        """Close a connection that has expired, or count a use; return True if it was closed."""
        if slot.expiry is None or self._retirement.check_out(slot):
            return False
        self._ejections.end_trial(slot)
        return True
