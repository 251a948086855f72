"""`Ejections`: ejects backends that fail their claims, and lets them back by trial claims.

`Ejector` decides by the verdicts on one backend. Here are the counts of the others that may
forbid an ejection, and the connections: the spares of an ejected backend are kept but not lent,
until its time is over and one of them serves the trial.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable
from typing import Generic, TypeVar, final

import attrs
import trio

from .._balancing.idle_index import IdleIndex
from .._events.emitter import Emitter
from .._health.ejection import COUNTS_NOTHING, Action, Ejector, Tally, may_eject
from .._model.settings import Settings
from .._planning.targets import Targets
from .._slots.registry import Registry
from .._slots.slot_set import Slot, SlotSet
from .._slots.state import CLOSED, CLOSING
from .._util import log_safely, printable
from .checker import Checker
from .closer import Closer
from .hooks import Hooks

logger = logging.getLogger("qorb_trio.backend")

C = TypeVar("C")


@final
@attrs.define(eq=False, repr=False)
class Trial(Generic[C]):
    """The way of one ejected backend to its trial claim."""

    #: True from the end of the ejection's time on.
    is_due: bool = False
    #: The spare that is checked before the backend is offered.
    checked_slot: Slot[C] | None = None
    #: True while the backend is offered to the next claim.
    is_offered: bool = False
    #: The connection that the trial claim holds.
    claimed_slot: Slot[C] | None = None

    @property
    def is_under_way(self) -> bool:
        """True if the trial is offered or claimed, or will be as soon as a check has ended."""
        is_checking = self.checked_slot is not None and self.checked_slot.state not in {
            CLOSING,
            CLOSED,
        }
        return is_checking or self.is_offered or self.claimed_slot is not None


@final
@attrs.define(eq=False, repr=False)
class Ejections(Generic[C]):
    """The ejected backends of one pool."""

    _pool: str
    _settings: Settings
    _events: Emitter
    _hooks: Hooks[C]
    _registry: Registry[C]
    _idle_index: IdleIndex[SlotSet[C]]
    _checker: Checker[C]
    _closer: Closer[C]
    _targets: Targets
    _rng: random.Random
    _replan: Callable[[], None]
    #: Called when a spare is offered for a trial: claimants may wait. The dispatcher's.
    on_offer: Callable[[], None] = attrs.field(init=False)
    #: Called with each set whose spares may be lent again. The dispatcher's.
    on_restored: Callable[[SlotSet[C]], None] = attrs.field(init=False)
    #: The trial of each ejected backend, in the order of the ejections.
    _trials: dict[SlotSet[C], Trial[C]] = attrs.field(init=False, factory=dict)

    # The rules in force.

    def enroll(self, slot_set: SlotSet[C]) -> None:
        """Judge a new backend by its claims, if ejection is on."""
        config = self._settings.policy.ejection
        if config is None:
            slot_set.ejector, slot_set.tally = None, Tally(clean_until=math.inf)
        else:
            slot_set.ejector = slot_set.tally = Ejector(config, self._rng)

    def adopt_policy(self) -> None:
        """Follow the policy, which has changed. The present ejections keep their times."""
        config = self._settings.policy.ejection
        for slot_set in self._registry.active.values():
            if config is None:
                self._restore(slot_set, "ejection is switched off")
                self.enroll(slot_set)
            elif slot_set.ejector is None:
                self.enroll(slot_set)
            else:
                slot_set.ejector.configure(config)

    # Verdicts.

    def record(self, slot: Slot[C], *, failed: bool) -> None:
        """Record the verdict of a claim that has ended."""
        slot_set = slot.slot_set
        ejector = slot_set.ejector
        if ejector is None or not slot_set.is_active:
            return
        action = ejector.record(failed=failed, began=slot.claimed_at, now=trio.current_time())
        if action is Action.EJECT:
            if slot_set.is_ejected or self._may_eject(slot_set):
                self._eject(slot_set, ejector)
        elif action is Action.RESTORE:
            self._restore(slot_set, "its trial claim succeeded")
        else:
            self.end_trial(slot)

    def _may_eject(self, slot_set: SlotSet[C]) -> bool:
        """Return True if enough of the priority's other backends work."""
        assert self._settings.policy.ejection is not None
        others = [it for it in self._peers(slot_set.priority) if it is not slot_set]
        return any(it.connected for it in others if not it.is_ejected) and may_eject(
            ejected=sum([it.is_ejected for it in others]),
            failing=sum([it.is_failing and not it.is_ejected for it in others]),
            total=len(others) + 1,
            max_ejected=self._settings.policy.ejection.max_ejected,
        )

    def _peers(self, priority: int) -> list[SlotSet[C]]:
        return [it for it in self._registry.active.values() if it.priority == priority]

    def _eject(self, slot_set: SlotSet[C], ejector: Ejector) -> None:
        """Lend nothing of a backend for a while, again if its trial has failed."""
        seconds = ejector.eject(trio.current_time())
        self._trials[slot_set] = Trial()
        if not slot_set.is_ejected:
            slot_set.begin_ejection(self)
        log_safely(
            logger,
            logging.WARNING,
            "pool %s: backend %s is ejected for %.3g s: %s",
            printable(self._pool),
            printable(slot_set.backend.name),
            seconds,
            ejector.reason,
        )
        if (emit := self._events.backend_ejected) is not None:
            emit(slot_set.backend, ejector.reason, seconds)
        self._replan()

    # The end of an ejection.

    def restore_stranded(self) -> None:
        """Let all ejected backends of a priority back if no other of it is online."""
        if not self._trials:
            return
        active = self._registry.active.values()
        online = {it.priority for it in active if it.connected and not it.is_ejected}
        for slot_set in list(self._trials):
            if slot_set.priority not in online:
                self._restore(slot_set, "no other backend of its priority is online")

    def _restore(self, slot_set: SlotSet[C], reason: str) -> None:
        """Let a backend have claims again, if it is ejected."""
        if self._trials.pop(slot_set, None) is None:
            return
        assert slot_set.ejector is not None
        slot_set.ejector.restore()
        self._idle_index.withdraw(slot_set)
        slot_set.needs_trial = False
        slot_set.end_ejection()
        log_safely(
            logger,
            logging.INFO,
            "pool %s: backend %s is no longer ejected: %s",
            printable(self._pool),
            printable(slot_set.backend.name),
            reason,
        )
        if (emit := self._events.backend_restored) is not None:
            emit(slot_set.backend)
        self.on_restored(slot_set)
        if not slot_set.connected:  # others have taken its places
            self._targets.request_rebalance()
        self._replan()

    def forget(self, slot_set: SlotSet[C]) -> None:
        """Forget a backend that has left, or whose pool ends."""
        self._idle_index.withdraw(slot_set)
        self._trials.pop(slot_set, None)
        slot_set.tally = COUNTS_NOTHING  # the end of a claim is not as usual

    # Trials.

    def review(self, now: float) -> float:
        """Do what has become due; return when the next trial is. Called before each plan."""
        self.restore_stranded()
        for slot_set, trial in list(self._trials.items()):
            assert slot_set.ejector is not None
            trial.is_due = trial.is_due or now >= slot_set.ejector.trial_at
            self._arrange(slot_set, trial)
            slot_set.needs_trial = trial.is_due and not (trial.is_under_way or _has_free(slot_set))
        return min(map(self._due_at, self._trials), default=math.inf)

    def _due_at(self, slot_set: SlotSet[C]) -> float:
        assert slot_set.ejector is not None
        return math.inf if self._trials[slot_set].is_due else slot_set.ejector.trial_at

    def _arrange(self, slot_set: SlotSet[C], trial: Trial[C]) -> None:
        """Offer a spare for the trial, if that is due; first check it, if the connector can.

        Where there is no spare, the next one leads here, and the planner has one dialled.
        """
        if not trial.is_due or trial.is_under_way or not slot_set.idle_slots:
            return
        if self._hooks.has_is_valid:
            trial.checked_slot = slot_set.idle_slots[-1]
            self._checker.check(trial.checked_slot)
        else:
            self._offer(slot_set, trial)

    def _offer(self, slot_set: SlotSet[C], trial: Trial[C]) -> None:
        trial.is_offered = True
        self._idle_index.offer_first(slot_set)
        self.on_offer()

    def welcome(self, slot: Slot[C]) -> None:
        """Keep a free connection of an ejected backend, for the trial or for later."""
        trial = self._trials[slot.slot_set]
        # Asked first, because the check of a new connection may be ordered by `push_free`.
        is_checked = trial.checked_slot is slot
        slot.slot_set.push_free(slot)
        if is_checked:
            trial.checked_slot = None
            self._offer(slot.slot_set, trial)

    def begin_trial(self, slot_set: SlotSet[C]) -> Slot[C] | None:
        """Check out a spare of a backend that was offered, for its trial claim.

        Return `None` if none is usable: the offer is repeated when there is another.
        """
        trial, ejector = self._trials[slot_set], slot_set.ejector
        assert ejector is not None
        trial.is_offered = False
        while slot_set.idle_slots:
            slot = slot_set.pop_idle()
            if not self._closer.close_if_broken(slot):
                trial.claimed_slot = slot
                ejector.begin_trial(trio.current_time())
                return slot
            if self._hooks.has_is_valid:
                self._arrange(slot_set, trial)
                break
        return None

    def end_trial(self, slot: Slot[C]) -> None:
        """Make the next claim the trial, if the one that ends has been it without a verdict."""
        trial = self._trials.get(slot.slot_set)
        if trial is not None and trial.claimed_slot is slot:
            assert slot.slot_set.ejector is not None
            trial.claimed_slot = None
            slot.slot_set.ejector.end_trial()
            self._arrange(slot.slot_set, trial)
            self._replan()

    # In place of the idle index, a slot set calls these while it is ejected.

    def add(self, slot_set: SlotSet[C]) -> None:
        """An ejected backend has got its first spare."""
        trial = self._trials.get(slot_set)
        if trial is not None:
            self._arrange(slot_set, trial)

    def remove(self, slot_set: SlotSet[C]) -> None:
        """An ejected backend has no spare any more."""
        trial = self._trials.get(slot_set)
        if trial is not None and trial.is_offered:
            trial.is_offered = False
            self._idle_index.withdraw(slot_set)


def _has_free(slot_set: SlotSet[C]) -> bool:
    """Return True if a backend has a connection that is idle, or will be after a check."""
    return slot_set.connected > slot_set.claimed
