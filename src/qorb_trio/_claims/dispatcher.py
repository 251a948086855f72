"""`Dispatcher`: gives connections to claimants, and takes them back.

Trio runs one task at a time, so each method here is atomic. A claim takes a spare, and a
release hands the connection on, without any task of the pool taking part.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Generic, TypeVar, final

import attrs
import trio
from trio.lowlevel import current_task

from .._balancing.candidates import candidate_of
from .._balancing.idle_index import IdleIndex
from .._balancing.preference import NO_PREFERENCE, Preference
from .._balancing.strategy import BalancerError
from .._connections.closer import Closer
from .._connections.ejections import Ejections
from .._connections.hooks import Hooks
from .._connections.outcomes import Outcomes
from .._events.emitter import Emitter
from .._model.settings import Settings
from .._planning.targets import Targets
from .._slots.registry import Registry
from .._slots.slot_set import Slot, SlotSet
from .._slots.state import CHECKING, CLAIMED, NOT_YET
from .._slots.totals import Totals
from .diagnosis import Diagnosis
from .failure import ClaimFailure
from .in_run import InRun
from .nested_claims import NestedClaims
from .returns import Returns
from .spares import Spares
from .unreleased import warn_of_cut
from .wait_queue import WaitQueue

if TYPE_CHECKING:
    from .._balancing.guarded_balancer import Observe

C = TypeVar("C")

_CLAIM_IDS: Any = attrs.Factory(lambda: itertools.count(1).__next__)
_NESTED_CLAIMS: Any = attrs.Factory(lambda self: NestedClaims(self.pool), takes_self=True)


@final
@attrs.define(eq=False, repr=False)
class Dispatcher(InRun, Generic[C]):
    """Decides which claimant gets which connection of one pool."""

    settings: Settings
    events: Emitter
    hooks: Hooks[C]
    totals: Totals
    _registry: Registry[C]
    _idle_index: IdleIndex[SlotSet[C]]
    queue: WaitQueue[Slot[C]]
    _targets: Targets
    outcomes: Outcomes[C]
    _closer: Closer[C]
    _ejections: Ejections[C]
    _spares: Spares[C]
    returns: Returns[C]
    diagnosis: Diagnosis[C]
    _replan: Callable[[], None]
    next_claim_id: Callable[[], int] = attrs.field(init=False, default=_CLAIM_IDS)
    #: True if a claim that finds a spare has nothing else to do.
    is_plain: bool = attrs.field(init=False, default=False)
    #: True if a spare has to be looked at before it is lent.
    _inspects_spares: bool = attrs.field(init=False, default=True)
    #: True if the end of a good claim is told to nobody: it is only counted.
    _counts_verdicts: bool = attrs.field(init=False, default=False)
    #: The balancer's, if it is the only one to be told.
    _observe: Observe[SlotSet[C]] | None = attrs.field(init=False, default=None)
    #: True if a connection that comes back has to be looked at.
    _inspects_returned: bool = attrs.field(init=False, default=True)
    #: True if a spare, and a connection that comes back, are only looked at for age and use.
    _trusts_spares: bool = attrs.field(init=False, default=False)
    _trusts_returned: bool = attrs.field(init=False, default=False)
    #: True as soon as the pool is ending.
    is_closed: bool = attrs.field(init=False, default=False)
    #: True while nothing is lent on purpose.
    _is_suspended: bool = attrs.field(init=False, default=False)
    _claiming_tasks: set[trio.lowlevel.Task | None] = attrs.field(init=False, factory=set)
    _nested_claims: NestedClaims = attrs.field(init=False, default=_NESTED_CLAIMS)

    def start(self) -> None:
        """Bind to the present `trio.run`: the pool starts."""
        self.bind()
        self.update_flags()
        self.adopt_policy()

    def adopt_policy(self) -> None:
        """Let the wait queue go by the policy that is in force."""
        policy = self.settings.policy
        self.queue.configure(policy.max_waiting, policy.fail_fast_after, policy.queue_target)

    def update_flags(self) -> None:
        """Find out again which of the fast paths apply."""
        events = self.events
        self.is_plain = events.is_silent and not self.hooks.has_on_acquire
        self._inspects_spares = self._spares.need_inspection
        self._inspects_returned = self.returns.need_inspection
        self._trusts_spares = not self.hooks.has_is_broken
        self._trusts_returned = not self.hooks.inspects_returned
        is_quiet = not self.returns.has_readers and events.handle_returned is None
        self._observe = self.returns.observe if is_quiet else None
        self._counts_verdicts = is_quiet and self.returns.observe is None

    def acquire_nowait(
        self, claim_id: int = 0, label: str | None = None, preference: Preference | None = None
    ) -> Slot[C] | None:
        """Check out a usable spare, if there is one, for a claim with these options.

        `claim_id` is for instruments to see. It is 0 if there is none.

        Raises:
          ClaimError: if the balancer has failed.
        """
        index = self._idle_index
        while best := index.best:
            # With one backend there is nothing to choose, and a call is 1 % of a claim.
            try:
                if len(best) == 1:
                    slot_set = best[0]
                else:
                    slot_set = index.choose() if preference is None else index.prefer(preference)
            except BalancerError as exc:
                raise self.diagnosis.balancer(exc).error() from exc.__cause__ or exc
            slot = slot_set.pop_idle()
            clock = self.now  # not called as a method, which would cost twice as much
            slot.claimed_at = now = clock()
            if self._inspects_spares:
                expiry = slot.expiry
                if (
                    expiry is not None
                    and now < expiry.calm_until
                    and expiry.uses < expiry.calm_uses
                    and self._trusts_spares
                ):
                    expiry.uses += 1.0  # fast path: `Retirement.check_out`, when nothing is due
                elif self._spares.close_if_unusable(slot):
                    continue
            # Fast path: `_check_out`, whose call would cost as much as all that it does.
            slot.holder = task = current_task()
            slot.label = label
            if task in self._claiming_tasks:
                self._nested_claims.warn(task)
            self._claiming_tasks.add(task)
            if self.totals.claimed > self._targets.covered_claims:
                self._replan()
            if claim_id and (emit := self.events.handle_claimed) is not None:
                emit(claim_id, slot.id, slot_set.backend)
            return slot
        return self._acquire_hidden(claim_id, label, preference or NO_PREFERENCE)

    def _acquire_hidden(
        self, claim_id: int, label: str | None, preference: Preference
    ) -> Slot[C] | None:
        """Check out a spare that is offered for a trial, or that such an offer hides."""
        while True:
            try:
                slot = self._spares.take(preference)
            except BalancerError as exc:
                raise self.diagnosis.balancer(exc).error() from exc.__cause__ or exc
            if slot is None:
                return None
            if not self._spares.close_if_expired(slot):
                self._check_out(slot, current_task(), claim_id, label)
                if self.totals.claimed > self._targets.covered_claims:
                    self._replan()
                return slot

    def wait(
        self, claim_id: int, deadline: float, *, again: bool = False
    ) -> Coroutine[Any, Any, Slot[C] | ClaimFailure]:
        """Park a claimant until it is handed a slot, or a failure."""
        task, queue = current_task(), self.queue
        if queue.admission.is_on:
            # The others are not affected: nothing is planned for a claimant that is refused.
            reason = queue.admission.refuse(queue.waiting, self.now(), again=again)
            if reason is not None:
                return self.diagnosis.refuse(reason)
        if task in self._claiming_tasks:
            self._nested_claims.warn(task)
        targets = self._targets
        if targets.may_cover_more or self.totals.claimed + queue.waiting >= targets.covered_claims:
            self._replan()
        return queue.wait(task, claim_id, deadline, again=again)

    def _check_out(
        self, slot: Slot[C], task: trio.lowlevel.Task, claim_id: int, label: str | None = None
    ) -> None:
        """Note who holds a connection, and since when, and tell the instruments."""
        slot.holder = task
        slot.label = label
        slot.claimed_at = self.now()
        if task in self._claiming_tasks:
            self._nested_claims.warn(task)
        self._claiming_tasks.add(task)
        if (emit := self.events.handle_claimed) is not None:
            emit(claim_id, slot.id, slot.slot_set.backend)

    def set_label(self, slot: Slot[C], label: str) -> None:
        """Name the claim that holds a slot."""
        slot.label = label

    def release(self, slot: Slot[C], exc: BaseException | None) -> None:
        """Take a connection back whose claim has ended, by `exc` if any, to be lent again."""
        if slot.state is not CLAIMED:
            return  # the pool has ended, and has closed it under the claimant
        slot_set, holder = slot.slot_set, slot.holder
        self._claiming_tasks.discard(holder)
        slot.holder = None
        if exc is None and self._counts_verdicts and slot.claimed_at < slot_set.tally.clean_until:
            # Fast path: `_end` for a good claim on an active backend without bad verdicts.
            slot_set.tally.good += 1
        elif not self._end(slot, exc):
            return
        if self._inspects_returned:
            expiry = slot.expiry
            if expiry is not None and expiry.due is None and self._trusts_returned:
                # Fast path: `Retirement.is_over`. The timer finds due those that grow too old.
                clock = self.now
                expiry.unused_since = clock() if expiry.dates_returns else NOT_YET
            else:
                # Its holder is named if the connection is found spoilt only later.
                slot.label = slot.label or (holder.name if holder else None)
                if not self.returns.keep(slot, holder):
                    return
        if slot_set.detector.consecutive_failures:
            self.outcomes.succeeded(slot)
        if self._targets.reclaim and self.returns.reclaim_if_needed(slot):
            return
        if self.queue.waiting and not slot_set.is_ejected:
            self._hand_off(slot)
        else:
            slot_set.push_idle(slot)

    def _end(self, slot: Slot[C], exc: BaseException | None) -> bool:
        """Tell of the end of a claim; return False if its connection was closed."""
        slot_set, observe = slot.slot_set, self._observe
        if observe is not None and exc is None and slot.claimed_at < slot_set.tally.clean_until:
            # Fast path: what follows, for a good claim that only the balancer is told of.
            slot_set.tally.good += 1
            now = self.now()
            observe(slot_set.candidate or candidate_of(slot_set), now - slot.claimed_at, False, now)
            return True
        if (emit := self.events.handle_returned) is not None:
            emit(slot.id)
        if self.returns.judge(slot, exc) and slot.slot_set.is_active:
            return True
        # A cancelled claimant may leave, say, an unread reply behind, which is no fault of the
        # backend's. So this connection is not asked whether it is broken.
        self._closer.close(slot)
        return False

    def discard(self, slot: Slot[C], exc: BaseException | None = None) -> None:
        """Take a connection back that must not be lent again."""
        if slot.state is not CLAIMED:
            return  # the pool has ended, and has closed it under the claimant
        self._claiming_tasks.discard(slot.holder)
        slot.holder = None
        if (emit := self.events.handle_returned) is not None:
            emit(slot.id)
        self.returns.discard(slot, exc)

    def cut_claims(self) -> None:
        """Close the connections that are still checked out, because the pool ends."""
        for slot_set in self._registry:
            for slot in self._closer.claimed(slot_set) if slot_set.claimed else ():
                warn_of_cut(self.pool, slot)
                if (emit := self.events.claim_cut) is not None:
                    emit(slot.id, slot_set.backend)
                self._claiming_tasks.discard(slot.holder)
                slot.holder = None
                self._closer.cut_claim(slot)

    # Connections become free.

    def offer(self, slot: Slot[C]) -> None:
        """Give a free connection to the claimant that has waited longest."""
        is_checked = slot.state is CHECKING
        if is_checked and self._targets.reclaim and self.returns.reclaim_if_needed(slot):
            return
        if slot.slot_set.is_ejected:
            self._ejections.welcome(slot)
        elif self.queue.waiting:
            self._hand_off(slot)
        else:
            slot.slot_set.push_free(slot, lend_last=slot.is_due)

    def serve(self, take: Callable[[], Slot[C] | None]) -> None:
        """Lend spares to the claimants that wait, for as long as `take` returns any."""
        while self.queue.waiting and not self._is_suspended:
            try:
                slot = take()
            except BalancerError as exc:
                self.queue.hand_off(self.diagnosis.balancer(exc))
                continue
            if slot is None:
                break
            self._hand_off(slot)

    def _hand_off(self, slot: Slot[C]) -> None:
        """Lend a free slot to the first in the queue, unless it has to be a spare.

        It is free though it may be CLAIMED, because a hand-over is no transition.
        """
        queue = self.queue
        if queue.admission.overload is not None:
            queue.shed(self.diagnosis.overload)
        if self._is_suspended or not queue.waiting:
            slot.slot_set.push_free(slot, lend_last=slot.is_due)
            self._ejections.end_trial(slot)  # if it was meant to be one
            return
        if slot.state is not CLAIMED:
            slot.slot_set.transition(slot, CLAIMED)
        if slot.expiry is None or not self._spares.close_if_expired(slot):
            claim_id, task = queue.hand_off(slot)
            self._check_out(slot, task, claim_id)

    # Claims are put off, or refused.

    def suspend(self) -> None:
        """Lend nothing until `resume`. Returned connections become spares."""
        self._is_suspended = True
        self.diagnosis.note_suspension(is_suspended=True)
        self._idle_index.pause()
        self.queue.suspend()

    def resume(self) -> None:
        """End a `suspend`: serve the claimants that wait, in order, in one step."""
        self._is_suspended = False
        self.diagnosis.note_suspension(is_suspended=False)
        self._idle_index.resume()
        self.queue.resume()
        self.serve(self._spares.take)

    def close(self, crash: BaseException | None) -> None:
        """Fail all waiting claimants, and grant no more claims: the pool is ending."""
        self.is_closed = True
        self.diagnosis.note_crash(crash)
        if self.queue.waiting:  # to take statistics of thousands of backends takes time
            self.queue.fail_all(self.diagnosis.termination())
