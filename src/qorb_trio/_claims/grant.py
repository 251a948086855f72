"""`Grant`: the way of a claim to its connection.

`Claim` adds to it what users may do. A claim goes one of three ways: `_enter_fast`, `_enter_slow`
or, without waiting, `_enter_nowait`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Generic, TypeVar

import trio
from trio.lowlevel import cancel_shielded_checkpoint, checkpoint_if_cancelled, enable_ki_protection

from .._slots.cancellation import interruption
from .._slots.slot_set import Slot
from .._slots.state import CLAIMED
from .._util import strip_traceback
from .failure import ClaimFailure
from .unreleased import take_back_leaked

if TYPE_CHECKING:
    from .._balancing.preference import Preference
    from .dispatcher import Dispatcher

C = TypeVar("C")

#: The deadline of a claim that takes a spare or fails at once.
NEVER = float("-inf")


class Grant(Generic[C]):
    """The acquisition of one connection, and the connection for as long as it is held.

    If it is garbage collected while it holds a connection, that is closed.
    """

    __slots__ = (
        "__weakref__",
        "_dispatcher",
        "_entered",
        "_held",
        "_label",
        "_preference",
        "_slot",
        "_timeout",
    )

    #: The slot, also after the claim has ended. It is set by the grant.
    _slot: Slot[C]

    def __init__(
        self,
        dispatcher: Dispatcher[C],
        timeout: float | None,
        label: str | None = None,
        preference: Preference | None = None,
    ) -> None:
        #: The slot for as long as the claim lasts.
        self._held: Slot[C] | None = None
        #: True from the entry on; or the exception that was being handled as the claim was
        #: granted by hand.
        self._entered: bool | BaseException = False
        self._dispatcher: Dispatcher[C] = dispatcher
        self._timeout: float | None = timeout
        #: Shown in place of the name of the claimant's task.
        self._label: str | None = label
        #: The key and the backends to avoid, if there are any.
        self._preference: Preference | None = preference

    @enable_ki_protection
    async def _enter_fast(self) -> C:
        # `_enter_slow` for a connector without `on_acquire` and a pool without instruments, and
        # without its coroutines. It leaves out: the events, the set-up, and the loop that tries
        # another connection. In the rare cases that need one of these it goes on there.
        dispatcher = self._dispatcher
        await checkpoint_if_cancelled()
        # While somebody waits there is no spare, so that a newcomer passes nobody.
        slot = None
        if not dispatcher.queue.waiting:
            slot = dispatcher.acquire_nowait(0, self._label, self._preference)
        if slot is not None:
            self._held = self._slot = slot
            # Cancellation was looked for before the slot was taken. From here on it would
            # have to be given back.
            await cancel_shielded_checkpoint()
            # Meanwhile the pool may have ended, or the backend may have left.
            if slot.state is CLAIMED and slot.slot_set.is_active and self._held is slot:
                slot.slot_set.total_claims += 1
                return slot.connection
            claim_id, deadline = dispatcher.next_claim_id(), self._deadline()
        else:
            claim_id, deadline = dispatcher.next_claim_id(), self._deadline()
            if dispatcher.is_closed or deadline == NEVER:
                return await self._acquire(claim_id, deadline)
            outcome = await dispatcher.wait(claim_id, deadline)
            if isinstance(outcome, ClaimFailure):
                raise outcome.error()
            # What `_hold`, `_is_usable` and `_count` do, whose calls would cost 2 % of a claim.
            self._held = self._slot = slot = outcome
            if self._label is not None:
                dispatcher.set_label(slot, self._label)
            if slot.state is CLAIMED and slot.slot_set.is_active:
                slot.slot_set.total_claims += 1
                if (emit := dispatcher.events.claim_done) is not None:
                    emit(claim_id, slot.id)
                return slot.connection
        self._give_up()
        return await self._acquire(claim_id, deadline, again=True)

    def _count(self, slot: Slot[C], claim_id: int) -> C:
        """Count the claim, which has got its connection, set up and all; return that."""
        slot.slot_set.total_claims += 1
        if (emit := self._dispatcher.events.claim_done) is not None:
            emit(claim_id, slot.id)
        connection: C = slot.connection
        return connection

    def _enter_nowait(self, dispatcher: Dispatcher[C]) -> None:
        """Take a spare, for `Pool.claim_nowait`. It takes the place of `__init__`.

        What only a claim that waits has is not set.

        Raises:
          trio.WouldBlock: if there is none.
        """
        self._dispatcher = dispatcher
        # The same fast path as that of `_enter_fast`.
        if dispatcher.is_plain and not dispatcher.queue.waiting:
            slot = dispatcher.acquire_nowait()
            if slot is not None:
                self._held = self._slot = slot
                self._entered = sys.exception() or True
                slot.slot_set.total_claims += 1
                return
        self._enter_slow_nowait()

    def _enter_slow_nowait(self) -> None:
        """Take a spare, tell the instruments, and say why there is none."""
        dispatcher = self._dispatcher
        if dispatcher.is_closed:
            raise dispatcher.diagnosis.termination().error()
        if dispatcher.hooks.has_on_acquire:
            raise RuntimeError(
                "claim_nowait() cannot wait for the connector's on_acquire;"
                " use `async with pool.claim()`"
            )
        self._entered = True
        claim_id, events = dispatcher.next_claim_id(), dispatcher.events
        if (emit := events.claim_start) is not None:
            emit(claim_id)
        try:
            slot = None if dispatcher.queue.waiting else dispatcher.acquire_nowait(claim_id)
            if slot is None:
                raise trio.WouldBlock
        except BaseException as exc:
            if (emit_failed := events.claim_failed) is not None:
                emit_failed(claim_id, exc)
            raise
        self._held = self._slot = slot
        self._entered = sys.exception() or True
        self._count(slot, claim_id)

    @enable_ki_protection
    async def _enter_slow(self) -> C:
        await checkpoint_if_cancelled()
        return await self._acquire(self._dispatcher.next_claim_id(), self._deadline())

    def _deadline(self) -> float:
        """Return when the acquisition must be over; `NEVER` if it must not even wait."""
        timeout = self._timeout
        if timeout is None:
            timeout = self._dispatcher.settings.policy.claim_timeout
        return self._dispatcher.now() + timeout if timeout else NEVER

    async def _acquire(self, claim_id: int, deadline: float, *, again: bool = False) -> C:
        """Wait in the queue, set the connection up, and tell the instruments.

        `again`: the claim has had its turn, so that it comes before those in the queue.
        """
        events = self._dispatcher.events
        if (emit := events.claim_start) is not None:
            emit(claim_id)
        try:
            slot = await self._find(claim_id, deadline, again=again)
        except BaseException as exc:
            self._give_up(exc)
            if (emit_failed := events.claim_failed) is not None:
                emit_failed(claim_id, exc)
            raise
        return self._count(slot, claim_id)

    async def _find(self, claim_id: int, deadline: float, *, again: bool) -> Slot[C]:
        """Take or await connections until one can be set up.

        The claim's number is also its place in the queue: who asked first has the lower one.
        """
        dispatcher = self._dispatcher
        waits = deadline != NEVER
        cause: Exception | None = None
        is_late = False
        # With `timeout=0`, try only the connections that are idle now. Connections that finish
        # dialling meanwhile are ignored; otherwise the claim might never return.
        tries = 0 if waits else dispatcher.totals.idle
        while True:
            slot = await self._next_slot(claim_id, deadline, cause, is_late=is_late, again=again)
            if self._is_usable(slot) and dispatcher.hooks.has_on_acquire:
                until = deadline if waits else float("inf")
                failure = await self._set_up(slot, claim_id, until)
                # What was cut short by the deadline tells less than what failed before.
                if failure and (cause is None or trio.current_time() < until):
                    cause, failure = failure, cause
                strip_traceback(failure)
            if self._is_usable(slot):
                strip_traceback(cause)
                return slot
            self._give_up()
            again = True
            tries -= 1
            is_late = trio.current_time() >= deadline if waits else tries <= 0

    async def _next_slot(
        self,
        claim_id: int,
        deadline: float,
        cause: Exception | None,
        *,
        is_late: bool,
        again: bool,
    ) -> Slot[C]:
        """Take a spare, or wait for a connection. Raise the claim's error if there is none."""
        dispatcher = self._dispatcher
        if dispatcher.is_closed:
            # The pool may be ending because all of the program is being cancelled.
            await trio.lowlevel.checkpoint()
            raise dispatcher.diagnosis.termination().error()
        slot = None
        if not is_late:
            slot = dispatcher.acquire_nowait(claim_id, self._label, self._preference)
        if slot is not None:
            self._held = self._slot = slot
            await cancel_shielded_checkpoint()
            return slot
        if is_late or deadline == NEVER:
            await trio.lowlevel.checkpoint()
            raise dispatcher.diagnosis.timeout().error(cause)
        outcome = await dispatcher.wait(claim_id, deadline, again=again)
        if isinstance(outcome, ClaimFailure):
            raise outcome.error(cause)
        return self._hold(outcome)

    def _hold(self, slot: Slot[C]) -> Slot[C]:
        """Keep a connection that was handed over, which has no label yet."""
        self._held = self._slot = slot
        if self._label is not None:
            self._dispatcher.set_label(slot, self._label)
        return slot

    def _is_usable(self, slot: Slot[C]) -> bool:
        """Return False if the pool has ended, or the backend has left, since the grant."""
        is_held = self._held is not None and slot.state is CLAIMED
        return is_held and slot.slot_set.is_active

    async def _set_up(self, slot: Slot[C], claim_id: int, deadline: float) -> Exception | None:
        """Call ``on_acquire``. If it fails, the slot is given up; the failure if any."""
        dispatcher = self._dispatcher
        assert slot.connection is not None
        timeout = dispatcher.settings.set_config.health_check_timeout
        limit = trio.current_time() + timeout
        failure: Exception | None = None
        scope = slot.begin_io(min(limit, deadline))
        try:
            with scope:
                await dispatcher.hooks.on_acquire(slot.connection)
        except Exception as exc:  # noqa: BLE001 - the user's code
            failure = exc
        finally:
            slot.end_io()
        if scope.cancelled_caught:
            failure = interruption("on_acquire", is_wanted=self._is_usable(slot))
        if failure is None:
            return None
        if (emit := dispatcher.events.claim_acquire_failed) is not None:
            emit(claim_id, slot.id, failure)
        # That the claim's own time is up is not the backend's fault.
        if self._is_usable(slot) and not (scope.cancelled_caught and deadline < limit):
            dispatcher.outcomes.failed(slot, failure, "on_acquire")
        self._give_up()
        return failure

    # The end.

    def _give_up(self, exc: BaseException | None = None) -> None:
        """Have the connection that is held closed, if any is."""
        slot = self._held
        if slot is not None:
            self._held = None
            self._dispatcher.discard(slot, exc)

    def __del__(self) -> None:
        try:
            slot = self._held
        except AttributeError:
            return  # it was not made: wrong arguments, or interrupted in `__init__`
        if slot is not None:
            dispatcher = self._dispatcher
            take_back_leaked(dispatcher.pool, slot, dispatcher.token, dispatcher.discard)
