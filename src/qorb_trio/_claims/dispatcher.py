"""`Dispatcher`: gives connections to claimants, and takes them back.

Trio runs one task at a time, so each method here is atomic. A claim takes a spare, and a
release hands the connection on, without any task of the pool taking part.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import warnings
from collections.abc import Callable, Coroutine, Sequence
from threading import get_ident
from typing import TYPE_CHECKING, Any, Generic, TypeVar, final

import attrs
import trio
from trio.lowlevel import current_task

from .._balancing.guarded_balancer import GuardedBalancer
from .._balancing.idle_index import IdleIndex
from .._balancing.strategy import BalancerError
from .._connections.checker import Checker
from .._connections.closer import Closer
from .._connections.ejections import Ejections
from .._connections.hooks import Hooks
from .._connections.outcomes import Outcomes
from .._connections.retirement import Retirement
from .._connections.verdicts import Verdicts
from .._events.emitter import Emitter
from .._model.settings import Settings
from .._planning.targets import Targets
from .._slots.registry import Registry
from .._slots.slot import Slot
from .._slots.slot_set import SlotSet
from .._slots.state import CHECKING, CLAIMED
from .._slots.totals import Totals
from .._util import log_safely, printable
from .admission import Reason
from .diagnosis import Diagnosis
from .failure import ClaimFailure
from .holders import holder_name
from .wait_queue import WaitQueue

if TYPE_CHECKING:
    from .._balancing.affinity import Key
    from .._model.backend import Backend
    from .request import ClaimRequest

logger = logging.getLogger("qorb_trio.pool")

C = TypeVar("C")


async def _refused(failure: ClaimFailure) -> ClaimFailure:
    """Return a failure after a checkpoint: a claimant may retry at once, and others must run."""
    await trio.lowlevel.checkpoint()
    return failure


def _counter() -> Callable[[], int]:
    return itertools.count(1).__next__


@final
@attrs.define(kw_only=True, eq=False)
class Dispatcher(Generic[C]):
    """Decides which claimant gets which connection of one pool."""

    _pool: str
    settings: Settings
    events: Emitter
    hooks: Hooks[C]
    totals: Totals
    _registry: Registry[C]
    _idle_index: IdleIndex[SlotSet[C]]
    #: Is told how long claims are held, if the balancer wants to know.
    _observer: GuardedBalancer[SlotSet[C]] | None
    queue: WaitQueue[Slot[C]]
    _targets: Targets
    outcomes: Outcomes[C]
    _checker: Checker[C]
    _closer: Closer[C]
    _ejections: Ejections[C]
    _verdicts: Verdicts[C]
    diagnosis: Diagnosis[C]
    _retirement: Retirement[C]
    _replan: Callable[[], None]
    next_claim_id: Callable[[], int] = attrs.field(init=False, factory=_counter)
    #: True if a claim that finds a spare has nothing else to do.
    is_plain: bool = attrs.field(init=False, default=False)
    #: True if the end of each claim is looked at.
    _is_judging: bool = attrs.field(init=False, default=False)
    #: True as soon as the pool is ending.
    is_closed: bool = attrs.field(init=False, default=False)
    #: True while nothing is lent on purpose.
    is_suspended: bool = attrs.field(init=False, default=False)
    #: The run's clock, found once when the pool starts: Trio's own way to it takes three
    #: calls.
    now: Callable[[], float] = attrs.field(init=False, factory=lambda: trio.current_time)
    _token: trio.lowlevel.TrioToken | None = attrs.field(init=False, default=None)
    #: The thread of the pool's `trio.run`; see `check_run`.
    thread_id: int = attrs.field(init=False, factory=get_ident)
    #: The tasks whose claims are outstanding.
    _claiming_tasks: set[trio.lowlevel.Task | None] = attrs.field(init=False, factory=set)
    _has_warned_nested_claim: bool = attrs.field(init=False, default=False)

    def __attrs_post_init__(self) -> None:
        self.events.on_change(self._update_plain)
        self._update_plain()

    def _update_plain(self) -> None:
        self.is_plain = self.events.is_silent and not self.hooks.has_on_acquire

    def start(self) -> None:
        """Bind to the present `trio.run`: the pool starts."""
        self._token = trio.lowlevel.current_trio_token()
        self.thread_id = get_ident()
        self.now = trio.lowlevel.current_clock().current_time
        self.adopt_policy()

    def adopt_policy(self) -> None:
        """Take over the numbers of the policy that are kept here and by the wait queue."""
        policy = self.settings.policy
        is_judging = policy.ejection is not None or self._observer is not None
        is_judging = is_judging or bool(self._verdicts.reports)
        self._is_judging = is_judging or self.hooks.has_should_recycle
        self.queue.configure(policy.max_waiting, policy.fail_fast_after, policy.queue_target)

    def check_run(self) -> None:
        """Raise `RuntimeError`, with nothing changed, outside of the pool's own `trio.run`.

        One run has one thread, and to ask for the thread costs a tenth of what it costs to ask
        Trio for the run.
        """
        if get_ident() != self.thread_id:
            raise RuntimeError(
                f"pool {self._pool!r} belongs to another trio.run, or to another thread: from a"
                " thread that Trio started, use trio.from_thread.run_sync(claim.release),"
                " for example"
            )

    # Claims begin.

    def acquire_nowait(self, claim_id: int = 0) -> Slot[C] | None:
        """Check out a usable spare, if there is one.

        `claim_id` is only for instruments to see.

        Raises:
          ClaimError: if the balancer has failed.
        """
        index = self._idle_index
        while best := index.best:
            # With one backend there is nothing to choose, and a call is 1 % of a claim.
            try:
                slot_set = best[0] if len(best) == 1 else index.choose()
            except BalancerError as exc:
                raise self.diagnosis.balancer(exc).error() from exc.__cause__ or exc
            slot = slot_set.pop_idle()
            if self.hooks.has_is_broken and self._closer.close_if_broken(slot):
                continue
            if slot.expiry is not None and not self._retirement.check_out(slot):
                continue
            # Fast path: `_check_out`, whose call would cost as much as all that it does.
            slot.holder = task = current_task()
            slot.label = None
            slot.claimed_at = self.now()
            if task in self._claiming_tasks:
                self._warn_nested_claim()
            self._claiming_tasks.add(task)
            if self.totals.claimed > self._targets.covered_claims:
                self._replan()
            if (emit := self.events.handle_claimed) is not None:
                emit(claim_id, slot.id, slot_set.backend)
            return slot
        while (offered := self._take_offered()) is not None:
            if self._grant(offered, claim_id):
                return offered
        # An offer hides all other spares, and the trial may not have taken place.
        return self.acquire_nowait(claim_id) if index.best else None

    def _take_offered(self) -> Slot[C] | None:
        """Take a usable spare that an ejected backend offers for its trial, if there is one."""
        while (slot_set := self._idle_index.take_offer()) is not None:
            slot = self._ejections.begin_trial(slot_set)
            if slot is not None:
                return slot
        return None

    def acquire_for(self, request: ClaimRequest, claim_id: int = 0) -> Slot[C] | None:
        """Check out a usable spare for a claim with a key or with backends to avoid.

        Raises:
          ClaimError: if the balancer has failed.
        """
        while True:
            try:
                slot = self._pop_idle(request.key, request.avoid)
            except BalancerError as exc:
                raise self.diagnosis.balancer(exc).error() from exc.__cause__ or exc
            if slot is None or self._grant(slot, claim_id):
                return slot

    def _grant(self, slot: Slot[C], claim_id: int) -> bool:
        """Check a spare out for the current task; return False if it has expired."""
        if slot.expiry is not None and not self._retirement.check_out(slot):
            self._ejections.end_trial(slot)
            return False
        self._check_out(slot, current_task())
        if self.totals.claimed > self._targets.covered_claims:
            self._replan()
        if (emit := self.events.handle_claimed) is not None:
            emit(claim_id, slot.id, slot.slot_set.backend)
        return True

    def _pop_idle(self, key: Key | None = None, avoid: Sequence[Backend] = ()) -> Slot[C] | None:
        """Take a usable spare out of the idle ones, if there is one."""
        while (slot_set := self._idle_index.choose_for(key, avoid)) is not None:
            if slot_set.is_ejected:
                trial = self._ejections.begin_trial(slot_set)
                if trial is not None:
                    return trial
                continue
            slot = slot_set.pop_idle()
            if not (self.hooks.has_is_broken and self._closer.close_if_broken(slot)):
                return slot
        return None

    def wait(
        self, claim_id: int, deadline: float, *, again: bool = False
    ) -> Coroutine[Any, Any, Slot[C] | ClaimFailure]:
        """Park a claimant until it is handed a slot, or a failure."""
        task = current_task()
        queue = self.queue
        if queue.admission.is_on and (failure := self._refusal(again=again)) is not None:
            return _refused(failure)
        if task in self._claiming_tasks:
            self._warn_nested_claim()
        if self.totals.claimed + queue.waiting >= self._targets.covered_claims:
            self._replan()
        return queue.wait(task, claim_id, deadline, again=again)

    def _check_out(self, slot: Slot[C], task: trio.lowlevel.Task) -> None:
        """Note who holds a connection, and since when."""
        slot.holder = task
        slot.label = None
        slot.claimed_at = self.now()
        if task in self._claiming_tasks:
            self._warn_nested_claim()
        self._claiming_tasks.add(task)

    def _refusal(self, *, again: bool) -> ClaimFailure | None:
        """Return why a claimant may not wait; `None` if it may."""
        queue = self.queue
        reason = queue.admission.refuse(queue.waiting, self.now(), again=again)
        if reason is None:
            return None
        # The others are not affected: nothing is planned for a claimant that is refused.
        too_many = reason is Reason.TOO_MANY_WAIT
        return self.diagnosis.full_queue() if too_many else self.timeout_failure()

    def set_label(self, slot: Slot[C], label: str) -> None:
        """Name the claim that holds a slot."""
        slot.label = label

    def granted(self, slot: Slot[C]) -> None:
        """Count a claim that has got its connection, set up and all."""
        slot.slot_set.total_claims += 1

    def _warn_nested_claim(self) -> None:
        """Warn once that a task claims while it holds a claim.

        Such a task can deadlock, alone or with other tasks that do the same.
        """
        if self._has_warned_nested_claim:
            return
        self._has_warned_nested_claim = True
        log_safely(
            logger,
            logging.WARNING,
            "pool %s: task %s claims while it holds a claim of this pool; when all"
            " connections are in use, such tasks wait for one another",
            printable(self._pool),
            printable(current_task().name),
        )

    # Claims end.

    def release(self, slot: Slot[C], exc: BaseException | None, *, keep: bool) -> None:
        """Take a connection back whose claim has ended, by `exc` if any.

        `keep`: it may be lent again, if the connector agrees.
        """
        if slot.state is not CLAIMED:
            return  # the pool has ended, and has closed it under the claimant
        slot_set, holder = slot.slot_set, slot.holder
        self._claiming_tasks.discard(holder)
        slot.holder = None
        if (emit := self.events.handle_returned) is not None:
            emit(slot.id)
        hooks = self.hooks
        if exc is not None or self._is_judging:
            keep = self._judge(slot, exc, keep=keep)
        if slot.expiry is not None and self._retirement.is_over(slot):
            keep = False
        if not (keep and slot_set.is_active):
            # A cancelled claimant may leave, say, an unread reply behind, which is no fault of
            # the backend's. So this connection is not asked whether it is broken.
            self._closer.close(slot)
        elif not (hooks.inspects_returned and self._inspect_returned(slot, holder)):
            if slot_set.detector.consecutive_failures:
                self.outcomes.succeeded(slot)
            if self._targets.reclaim and self._reclaim_if_needed(slot):
                pass  # it is being closed
            elif self.queue.waiting and not slot_set.is_ejected:
                self._hand_off(slot)
            else:
                slot_set.push_idle(slot)

    def observe(
        self, slot: Slot[C], exc: BaseException | None, *, failed: bool | None = None
    ) -> None:
        """Tell the balancer how long a claim was held. A claim that was cut short says nothing.

        `failed` is the verdict. An exception counts as a failure here even if it is none of the
        backend's, because a body that it ended early says little about the backend's speed.
        """
        if self._observer is None or slot.state is not CLAIMED:
            return
        if exc is None or isinstance(exc, Exception):
            seconds = self.now() - slot.claimed_at
            self._observer.observe(slot.slot_set, seconds, exc is not None or bool(failed))

    def report(self, slot: Slot[C], *, failed: bool) -> None:
        """Adopt the holder's own verdict on its claim."""
        self._is_judging = True  # from now on, even if ejection is off
        self._verdicts.report(slot, failed=failed)

    def _judge(self, slot: Slot[C], exc: BaseException | None, *, keep: bool) -> bool:
        """Record the verdict on a claim; return True if its connection may be lent again."""
        ejector, verdicts = slot.slot_set.ejector, self._verdicts
        failed: bool | None = False
        if (
            exc is None
            and keep
            and ejector is not None
            and not verdicts.reports
            and self.now() < ejector.clean_until
        ):
            # Fast path: `Verdicts.claim_ended` for a good claim on a backend without bad ones.
            ejector.good += 1
        else:
            failed = verdicts.claim_ended(slot, exc, is_kept=keep)
        if keep and self._observer is not None:
            self.observe(slot, exc, failed=failed)
        if keep and self.hooks.has_should_recycle:
            return self._should_recycle(slot, exc)
        return keep and exc is None

    def _should_recycle(self, slot: Slot[C], exc: BaseException | None) -> bool:
        try:
            return self.hooks.should_recycle(slot.connection, exc)
        except Exception as failure:  # noqa: BLE001 - the user's code
            self.outcomes.error(slot, failure, "should_recycle")
            return False
        except BaseException:
            self._closer.close(slot)
            raise

    def _inspect_returned(self, slot: Slot[C], holder: trio.lowlevel.Task | None) -> bool:
        """Return True if a returned connection is being closed, or cleaned."""
        if self._closer.close_if_broken(slot, holder):
            return True
        if self.hooks.has_on_recycle and self._needs_recycle(slot):
            self._checker.recycle(slot)
            return True
        slot.mark_idle(self.now())
        return False

    def _needs_recycle(self, slot: Slot[C]) -> bool:
        try:
            return self.hooks.needs_recycle(slot.connection)
        except Exception as failure:  # noqa: BLE001 - the user's code
            self.outcomes.error(slot, failure, "needs_recycle")
            return True  # what cannot tell is cleaned
        except BaseException:
            self._closer.close(slot)
            raise

    def offer(self, slot: Slot[C]) -> None:
        """Give a free connection to the claimant that has waited longest."""
        if slot.state is CHECKING and self._targets.reclaim and self._reclaim_if_needed(slot):
            return
        if slot.slot_set.is_ejected:
            self._ejections.welcome(slot)
        elif self.queue.waiting:
            self._hand_off(slot)
        else:
            self._make_idle(slot)

    def lend_offered(self) -> None:
        """Lend spares that are offered for a trial to those who wait."""
        while self.queue.waiting and (slot := self._take_offered()) is not None:
            self._hand_off(slot)

    def lend_idle(self, slot_set: SlotSet[C]) -> None:
        """Lend the spares of a set that was ejected until now to those who wait."""
        while self.queue.waiting and slot_set.idle_slots and not self.is_suspended:
            slot = slot_set.pop_idle()
            if not self._closer.close_if_broken(slot):
                self._hand_off(slot)

    def _reclaim_if_needed(self, slot: Slot[C]) -> bool:
        """Close a returned connection, though claimants wait, if another backend needs its place.

        Return True if it was closed. The last connection is never reclaimed.
        """
        if not slot.slot_set.is_reclaimable or self.totals.connected <= 1:
            return False
        self._targets.take_reclaim()
        self._closer.close(slot)
        return True

    def _make_idle(self, slot: Slot[C]) -> None:
        """Make a free connection a spare; one that is due is lent last."""
        if slot.is_due:
            slot.slot_set.push_idle_last(slot)
        else:
            slot.slot_set.push_idle(slot)

    def _hand_off(self, slot: Slot[C]) -> None:
        """Lend a free slot to the first in the queue, unless it has to be a spare.

        It is free though it may be CLAIMED, because a hand-over is no transition.
        """
        queue = self.queue
        if queue.admission.overload is not None:
            queue.shed(self.diagnosis.overload)
        if self.is_suspended or not queue.waiting:
            self._make_idle(slot)
            self._ejections.end_trial(slot)  # if it was meant to be one
            return
        if slot.state is not CLAIMED:
            slot.slot_set.transition(slot, CLAIMED)
        if slot.expiry is not None and not self._retirement.check_out(slot):
            self._ejections.end_trial(slot)
            return
        claim_id, task = queue.hand_off(slot)
        self._check_out(slot, task)
        if (emit := self.events.handle_claimed) is not None:
            emit(claim_id, slot.id, slot.slot_set.backend)

    def release_leaked(self, slot: Slot[C]) -> None:
        """Take back the connection of a claim that was garbage collected.

        That may happen in another thread, or half-way through something in this one. So
        nothing may be done right now.
        """
        assert self._token is not None
        backend = slot.slot_set.backend.name
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._close_leaked, slot)
        warnings.warn(
            f"a claim of pool {self._pool!r} on backend {backend!r} was not released",
            ResourceWarning,
            stacklevel=2,
        )

    def _close_leaked(self, slot: Slot[C]) -> None:
        self.release(slot, None, keep=False)

    # Claims fail, or are put off.

    def timeout_failure(self) -> ClaimFailure:
        """Return why there is no connection."""
        return self.diagnosis.suspension() if self.is_suspended else self.diagnosis.timeout()

    def suspend(self) -> None:
        """Lend nothing until `resume`. Returned connections become spares."""
        self.is_suspended = True
        self._idle_index.pause()
        self.queue.suspend()

    def resume(self) -> None:
        """End a `suspend`: serve the claimants that wait, in order, in one step."""
        self.is_suspended = False
        self._idle_index.resume()
        self.queue.resume()
        while self.queue.waiting:
            try:
                slot = self._pop_idle()
            except BalancerError as exc:
                self.queue.hand_off(self.diagnosis.balancer(exc))
                continue
            if slot is None:
                break
            self._hand_off(slot)

    def close(self, crash: BaseException | None) -> None:
        """Fail all waiting claimants, and grant no more claims: the pool is ending."""
        self.is_closed = True
        self.diagnosis.note_crash(crash)
        self.queue.fail_all(self.diagnosis.termination())

    def cut_claims(self) -> None:
        """Close the connections that are still checked out."""
        for slot_set in self._registry:
            for slot in self._closer.claimed(slot_set):
                self._warn_cut(slot)
                self._claiming_tasks.discard(slot.holder)
                slot.holder = None
                self._closer.cut_claim(slot)

    def _warn_cut(self, slot: Slot[C]) -> None:
        backend = slot.slot_set.backend
        log_safely(
            logger,
            logging.WARNING,
            "pool %s: the claim of task %s on backend %s is cut off after %.3g s: the pool ends",
            printable(self._pool),
            printable(holder_name(slot)),
            printable(backend.name),
            trio.current_time() - slot.claimed_at,
        )
        if (emit := self.events.claim_cut) is not None:
            emit(slot.id, backend)
