"""`Claim`: the right to use one connection until it is released."""

from __future__ import annotations

import sys
from collections.abc import Coroutine
from threading import get_ident
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar, final

import trio
from trio.lowlevel import cancel_shielded_checkpoint, checkpoint_if_cancelled, enable_ki_protection

from .._slots.slot import Slot
from .._slots.state import CLAIMED
from .._util import strip_traceback
from .failure import ClaimFailure

if TYPE_CHECKING:
    from .._model.backend import Backend
    from .dispatcher import Dispatcher
    from .request import ClaimRequest

C = TypeVar("C")

#: The deadline of a claim that takes a spare or fails at once.
NEVER = float("-inf")


@final
class Claim(Generic[C]):
    """The right to use one connection of a pool until it is released.

    Made by `Pool.claim`, as an async context manager that yields the connection, and
    by `Pool.acquire` and `Pool.claim_nowait`, to be released by hand. A claim is made once; it
    cannot be entered again. A claim that is held is also a context manager that yields the
    connection and releases it: ``with await pool.acquire() as connection``.

    A claim that is garbage collected before it was released gives its slot back, has
    its connection closed, and issues a `ResourceWarning`.
    """

    __slots__ = (
        "__weakref__",
        "_dispatcher",
        "_entered",
        "_handled",
        "_held",
        "_request",
        "_slot",
        "_timeout",
    )

    def __init__(
        self,
        dispatcher: Dispatcher[C],
        timeout: float | None,
        request: ClaimRequest | None = None,
        slot: Slot[C] | None = None,
        handled: BaseException | None = None,
    ) -> None:
        #: The slot for as long as the claim lasts.
        self._held: Slot[C] | None = slot
        self._entered: bool = slot is not None
        self._dispatcher: Dispatcher[C] = dispatcher
        self._timeout: float | None = timeout
        #: The options other than the timeout, if there are any.
        self._request: ClaimRequest | None = request
        #: The slot from the grant on, also after the claim has ended.
        self._slot: Slot[C] | None = slot
        #: The exception that was being handled as the claim was granted.
        self._handled: BaseException | None = handled

    # What users read and call.

    @property
    def connection(self) -> C:
        """The connection.

        Raises:
          RuntimeError: before the claim is granted, and after it has been released.
        """
        if self._held is None:
            state = "has been released" if self._slot else "has not been granted"
            raise RuntimeError(f"this claim {state}; it has no connection")
        connection = self._held.connection
        if connection is None:
            raise RuntimeError("the pool has ended, and has closed this connection")
        return connection

    @property
    def backend(self) -> Backend:
        """The backend that the connection leads, or led, to.

        Raises:
          RuntimeError: before the claim is granted.
        """
        return self._granted().slot_set.backend

    @enable_ki_protection
    def release(self) -> None:
        """Give the connection back, to be recycled and lent again.

        Synchronous and never a checkpoint, so that it is safe in ``finally``, under
        cancellation, and from any task. When an exception is passing, as it is in
        ``finally`` after a cancellation, then that is what has ended the claim, and
        ``Connector.should_recycle`` is asked about it.

        Raises:
          RuntimeError: if the claim has been released already, or was not granted; or if
            this is called outside of the pool's own `trio.run`, as from another thread. In
            that case nothing has changed.
        """
        exc = sys.exc_info()[1]
        self._check_held()
        # What was being handled when the claim was granted has nothing to do with it.
        self._end(None if exc is self._handled else exc, keep=True)

    @enable_ki_protection
    def discard(self) -> None:
        """End the claim, and have the connection closed instead of recycled.

        Synchronous and never a checkpoint. It is no failure of the backend.

        Raises:
          RuntimeError: as `release`.
        """
        self._check_held()
        assert self._slot is not None
        self._dispatcher.observe(self._slot, None)
        self._end(None, keep=False)

    @enable_ki_protection
    def report(self, *, failed: bool) -> None:
        """Say whether the backend served this claim well, before the claim ends.

        It counts for ejection (`Policy.ejection`) instead of what the end of the claim would
        tell: ``Connector.is_failure`` is not asked. Use it where a failure raises no exception,
        as an HTTP response with status 503, or where an exception is not the backend's fault.
        The last report counts. It counts even if the claim is cancelled, or ends by `discard`.
        Synchronous and never a checkpoint.

        Raises:
          RuntimeError: as `release`.
          TypeError: if `failed` is not a `bool`.
        """
        self._check_held()
        if not isinstance(failed, bool):
            raise TypeError(f"failed must be a bool, not {failed!r}")
        self._dispatcher.report(self._granted(), failed=failed)

    def _granted(self) -> Slot[C]:
        if self._slot is None:
            raise RuntimeError("this claim has not been granted")
        return self._slot

    def _check_held(self) -> None:
        self._dispatcher.check_run()
        self._granted()
        if self._held is None:
            raise RuntimeError("this claim has been released already")

    def _end(self, exc: BaseException | None, *, keep: bool) -> None:
        """Give up what is held, if anything is."""
        slot = self._held
        if slot is not None:
            self._held = None
            self._dispatcher.release(slot, exc, keep=keep)

    # Context managers.

    def __aenter__(self) -> Coroutine[Any, Any, C]:
        # A plain function, because each coroutine that a claim goes through costs a tenth of it.
        if self._entered:
            self._refuse_second_entry()
        self._dispatcher.check_run()
        self._entered = True
        if self._request is None and self._dispatcher.is_plain:
            return self._enter_fast()
        return self._enter_slow()

    def _refuse_second_entry(self) -> NoReturn:
        hint = "call claim() again"
        if self._held is not None:
            hint = "it is held: use its connection, then release()"
        raise RuntimeError(f"a claim can be made only once; {hint}")

    @enable_ki_protection
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # No checkpoint: under a cancelled scope it would replace the body's exception.
        slot = self._held
        if slot is not None:
            self._held = None
            self._dispatcher.release(slot, exc, keep=True)

    def __enter__(self) -> C:
        slot = self._held
        if slot is None:
            raise RuntimeError(
                "this claim is not held: use `async with pool.claim() as connection`,"
                " or `with await pool.acquire() as connection`"
            )
        connection: C | None = slot.connection
        return self.connection if connection is None else connection

    @enable_ki_protection
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        dispatcher = self._dispatcher
        # Without the calls of `check_run` and `_end`, because `Pool.claim_nowait` must be cheap.
        if get_ident() != dispatcher.thread_id:
            dispatcher.check_run()
        slot = self._held
        if slot is not None:
            self._held = None
            dispatcher.release(slot, exc, keep=True)

    if not TYPE_CHECKING:  # type checkers report an `await` themselves

        def __await__(self) -> NoReturn:
            raise RuntimeError(
                "a claim cannot be awaited: use `async with pool.claim() as connection`,"
                " or `claim = await pool.acquire()`"
            )

    async def _enter_by_hand(self) -> Claim[C]:
        """Enter the claim, for `Pool.acquire`."""
        await self.__aenter__()
        self._handled = sys.exception()
        return self

    # The acquisition.

    @enable_ki_protection
    async def _enter_fast(self) -> C:
        # `_enter_slow` for a connector without `on_acquire`, a pool without instruments and a
        # claim without options, and without its coroutines. It leaves out: the events, the
        # set-up, key, backends to avoid and label, and the loop that tries another connection.
        # In the rare cases that need one of these it goes on there.
        dispatcher = self._dispatcher
        await checkpoint_if_cancelled()
        claim_id, deadline = 0, 0.0
        # While somebody waits there is no spare, so that a newcomer passes nobody.
        slot = None if dispatcher.queue.waiting else dispatcher.acquire_nowait()
        if slot is not None:
            self._held = self._slot = slot
            # Cancellation was looked for before the slot was taken. From here on it would
            # have to be given back.
            await cancel_shielded_checkpoint()
        else:
            claim_id, deadline = dispatcher.next_claim_id(), self._deadline()
            if dispatcher.is_closed or deadline == NEVER:
                return await self._acquire(claim_id, deadline)
            outcome = await dispatcher.wait(claim_id, deadline)
            if isinstance(outcome, ClaimFailure):
                raise outcome.error()
            self._held = self._slot = slot = outcome
            if (emit := dispatcher.events.claim_done) is not None:  # it may have come meanwhile
                emit(claim_id, slot.id)
        # Meanwhile the pool may have ended, or the backend may have left.
        if self._held is not slot or slot.state is not CLAIMED or not slot.slot_set.is_active:
            self._end(None, keep=False)
            if not claim_id:
                claim_id, deadline = dispatcher.next_claim_id(), self._deadline()
            return await self._acquire(claim_id, deadline, again=True)
        slot.slot_set.total_claims += 1  # `Dispatcher.granted`, without its call
        connection: C = slot.connection
        return connection

    def _enter_nowait(self) -> None:
        """Take a spare, and tell the instruments, for `Pool.claim_nowait`.

        Raises:
          trio.WouldBlock: if there is none.
        """
        dispatcher = self._dispatcher
        if dispatcher.hooks.has_on_acquire:
            raise RuntimeError(
                "claim_nowait() cannot wait for the connector's on_acquire;"
                " use `async with pool.claim()`"
            )
        if dispatcher.is_closed:
            raise dispatcher.diagnosis.termination().error()
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
        self._hold(slot)
        self._handled = sys.exception()
        dispatcher.granted(slot)
        if (emit_done := events.claim_done) is not None:
            emit_done(claim_id, slot.id)

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
            self._end(exc, keep=False)
            if (emit_failed := events.claim_failed) is not None:
                emit_failed(claim_id, exc)
            raise
        self._dispatcher.granted(slot)
        if (emit_done := events.claim_done) is not None:
            emit_done(claim_id, slot.id)
        return self.connection

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
            self._end(None, keep=False)
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
        slot = None if is_late else self._take(claim_id)
        if slot is not None:
            self._hold(slot)
            await cancel_shielded_checkpoint()
            return slot
        if is_late or deadline == NEVER:
            await trio.lowlevel.checkpoint()
            raise dispatcher.timeout_failure().error(cause)
        outcome = await dispatcher.wait(claim_id, deadline, again=again)
        if isinstance(outcome, ClaimFailure):
            raise outcome.error(cause)
        return self._hold(outcome)

    def _take(self, claim_id: int) -> Slot[C] | None:
        """Check out the spare that this claim prefers, if there is one."""
        request = self._request
        if request is None or not request.has_preference:
            return self._dispatcher.acquire_nowait(claim_id)
        return self._dispatcher.acquire_for(request, claim_id)

    def _hold(self, slot: Slot[C]) -> Slot[C]:
        self._held = self._slot = slot
        if self._request is not None and self._request.label is not None:
            self._dispatcher.set_label(slot, self._request.label)
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
            failure = trio.TooSlowError("on_acquire took longer than its timeout")
        if failure is None:
            return None
        if (emit := dispatcher.events.claim_acquire_failed) is not None:
            emit(claim_id, slot.id, failure)
        # That the claim's own time is up is not the backend's fault.
        if self._is_usable(slot) and not (scope.cancelled_caught and deadline < limit):
            dispatcher.outcomes.failed(slot, failure, "on_acquire")
        self._end(None, keep=False)
        return failure

    def __del__(self) -> None:
        try:
            slot = self._held
        except AttributeError:
            return  # it was not made: wrong arguments, or interrupted in `__init__`
        if slot is not None:
            self._dispatcher.release_leaked(slot)
