"""`Claim`: the right to use one connection until it is released."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Generic, TypeVar, final

import trio
from trio.lowlevel import cancel_shielded_checkpoint, checkpoint_if_cancelled, enable_ki_protection

from .._slots.state import CLAIMED, Slot
from .._util import forget_frames
from .failure import ClaimFailure

if TYPE_CHECKING:
    from .._model.backend import Backend
    from .dispatcher import Core

C = TypeVar("C")

#: The deadline of a claim that takes a spare or fails at once.
NEVER = float("-inf")


@final
class Claim(Generic[C]):
    """The right to use one connection of a pool until it is released.

    Made by `Pool.claim`, as an async context manager that yields the connection, and
    by `Pool.acquire`, to be released by hand. A claim is made once; it cannot be
    entered again.

    A claim that is garbage collected before it was released gives its slot back, has
    its connection closed, and issues a `ResourceWarning`.
    """

    __slots__ = ("__weakref__", "_core", "_entered", "_handled", "_held", "_slot", "_timeout")

    def __init__(self, core: Core[C], timeout: float | None) -> None:
        #: The slot for as long as the claim lasts.
        self._held: Slot[C] | None = None
        self._entered: bool = False
        self._core: Core[C] = core
        self._timeout: float | None = timeout
        #: The slot from the grant on, and for good.
        self._slot: Slot[C] | None = None
        self._handled: BaseException | None = None

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
        return self._granted().home.backend

    @enable_ki_protection
    def release(self) -> None:
        """Give the connection back, to be recycled and lent again.

        Synchronous and never a checkpoint, so that it is safe in ``finally``, under
        cancellation, and from any task. When an exception is passing, as it is in
        ``finally`` after a cancellation, then that is what has ended the claim, and
        ``Connector.should_recycle`` is asked about it.

        Raises:
          RuntimeError: if the claim has been released already, or was not granted.
        """
        exc = sys.exc_info()[1]
        # What was being handled when the claim was granted has nothing to do with it.
        self._check_held()
        self._end(None if exc is self._handled else exc, keep=True)

    @enable_ki_protection
    def discard(self) -> None:
        """End the claim, and have the connection closed instead of recycled.

        Synchronous and never a checkpoint. It is no failure of the backend.

        Raises:
          RuntimeError: if the claim has been released already, or was not granted.
        """
        self._check_held()
        self._end(None, keep=False)

    def _granted(self) -> Slot[C]:
        if self._slot is None:
            raise RuntimeError("this claim has not been granted")
        return self._slot

    def _check_held(self) -> None:
        self._granted()
        if self._held is None:
            raise RuntimeError("this claim has been released already")

    def _end(self, exc: BaseException | None, *, keep: bool) -> None:
        """Give up what is held, if anything is."""
        slot = self._held
        if slot is not None:
            self._held = None
            self._core.take_back(slot, exc, keep)

    @enable_ki_protection
    async def __aenter__(self) -> C:
        if self._entered:
            hint = "call claim() again"
            if self._held is not None:
                hint = "it is held: use its connection, then release()"
            raise RuntimeError(f"a claim can be made only once; {hint}")
        self._entered = True
        core = self._core
        await checkpoint_if_cancelled()
        if not core.plain:
            return await self._acquire(core.next_id(), self._deadline())
        # What follows is `_acquire` without set-up and instruments, and without its
        # coroutines: as each claimant parks and wakes, each coroutine costs it a tenth.
        claim_id, deadline = 0, 0.0
        # Where somebody waits there is no spare, and a newcomer would pass nobody.
        slot = None if core.line.waiting else core.take()
        if slot is not None:
            self._held = self._slot = slot
            # Cancellation was looked for before the slot was taken. From here on it would
            # have to be given back.
            await cancel_shielded_checkpoint()
        else:
            claim_id, deadline = core.next_id(), self._deadline()
            if core.closing or deadline == NEVER:
                return await self._acquire(claim_id, deadline)
            outcome = await core.wait(claim_id, deadline)
            if isinstance(outcome, ClaimFailure):
                raise outcome.error()
            self._held = self._slot = slot = outcome
            if core.watch is not None:  # it may have come meanwhile
                core.fire("claim_done", claim_id, slot.id)
        home = slot.home
        if self._held is not slot or slot.state is not CLAIMED or not home.active:
            # Meanwhile the pool has ended, or the backend has left.
            self._end(None, keep=False)
            if not claim_id:
                claim_id, deadline = core.next_id(), self._deadline()
            return await self._acquire(claim_id, deadline, again=True)
        home.total_claims += 1
        connection: C = slot.connection
        return connection

    def _deadline(self) -> float:
        """When the acquisition must be over; `NEVER` if it must not even wait."""
        timeout = self._timeout
        if timeout is None:
            timeout = self._core.policy.claim_timeout
        return self._core.now() + timeout if timeout else NEVER

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
            self._core.take_back(slot, exc, True)

    async def _enter_by_hand(self) -> None:
        """Enter the claim, for `Pool.acquire`."""
        await self.__aenter__()
        self._handled = sys.exc_info()[1]

    async def _acquire(self, claim_id: int, deadline: float, *, again: bool = False) -> C:
        """The whole of it: wait in line, set the connection up, tell the instruments.

        `again`: the claim has had its turn, so that it comes before those in line.
        """
        core = self._core
        core.fire("claim_start", claim_id)
        try:
            slot = await self._find(claim_id, deadline, again=again)
        except BaseException as exc:
            self._end(exc, keep=False)
            core.fire("claim_failed", claim_id, exc)
            raise
        slot.home.total_claims += 1
        core.fire("claim_done", claim_id, slot.id)
        return self.connection

    async def _find(self, claim_id: int, deadline: float, *, again: bool) -> Slot[C]:
        """Take or await connections until one can be set up.

        The claim's number is its place in line too: whoever asked first has the lower.
        """
        core = self._core
        waits = deadline != NEVER
        cause: Exception | None = None
        late = False
        # Who does not wait tries those that are there now. While each is being set up others
        # connect, and to try them too would be to wait for them, perhaps for ever.
        tries = 0 if waits else core.unclaimed
        while True:
            if core.closing:
                # The pool may be ending because all of the program is being cancelled.
                await trio.lowlevel.checkpoint()
                raise core.terminated().error()
            slot = None if late else core.take(claim_id)
            if slot is not None:
                self._hold(slot)
                await cancel_shielded_checkpoint()
            elif late or not waits:
                await trio.lowlevel.checkpoint()
                raise core.timed_out().error(cause)
            else:
                outcome = await core.wait(claim_id, deadline, again=again)
                if isinstance(outcome, ClaimFailure):
                    raise outcome.error(cause)
                slot = self._hold(outcome)
            if self._still_good(slot) and core.hooks.sets_up:
                until = deadline if waits else float("inf")
                failure = await self._set_up(slot, claim_id, until)
                # What was cut short by the deadline tells less than what failed before.
                if failure and (cause is None or trio.current_time() < until):
                    cause, failure = failure, cause
                forget_frames(failure)
            if self._still_good(slot):
                forget_frames(cause)
                return slot
            self._end(None, keep=False)
            again = True
            tries -= 1
            late = trio.current_time() >= deadline if waits else tries <= 0

    def _hold(self, slot: Slot[C]) -> Slot[C]:
        self._held = self._slot = slot
        return slot

    def _still_good(self, slot: Slot[C]) -> bool:
        """While this task did not run, the pool may have ended, or the backend left."""
        return self._held is not None and slot.state is CLAIMED and slot.home.active

    async def _set_up(self, slot: Slot[C], claim_id: int, deadline: float) -> Exception | None:
        """Call ``on_acquire``. If it fails, the slot is given up; the failure if any."""
        core = self._core
        assert slot.connection is not None
        limit = trio.current_time() + core.policy.set_config.health_check_timeout
        failure: Exception | None = None
        scope = trio.CancelScope(deadline=min(limit, deadline))
        try:
            with scope:
                await core.hooks.set_up(slot.connection)
        except Exception as exc:  # noqa: BLE001 - the user's code
            failure = exc
        if scope.cancelled_caught:
            failure = trio.TooSlowError("on_acquire took longer than its timeout")
        if failure is None:
            return None
        core.fire("claim_acquire_failed", claim_id, slot.id, failure)
        # That the claim's own time is up is not the backend's fault.
        if slot.home.active and not (scope.cancelled_caught and deadline < limit):
            slot.home.failed(slot, failure)
        self._end(None, keep=False)
        return failure

    def __del__(self) -> None:
        try:
            slot = self._held
        except AttributeError:
            return  # it was not made: wrong arguments, or interrupted in `__init__`
        if slot is not None:
            self._core.abandoned(slot)
