"""`Claim`: the right to use one connection until it is released."""

from __future__ import annotations

import sys
from collections.abc import Coroutine
from threading import get_ident
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, final

from trio.lowlevel import enable_ki_protection

from .._slots.slot_set import Slot
from .._slots.state import CLAIMED
from .grant import Grant

if TYPE_CHECKING:
    from .._model.backend import Backend

C = TypeVar("C")


@final
class Claim(Grant[C]):
    """The right to use one connection of a pool until it is released.

    Made by `Pool.claim`, as an async context manager that yields the connection, and
    by `Pool.acquire` and `Pool.claim_nowait`, to be released by hand. A claim is made once; it
    cannot be entered again. A claim that is held is also a context manager that yields the
    connection and releases it: ``with await pool.acquire() as connection``.

    A claim that is garbage collected before it was released gives its slot back, has
    its connection closed, and issues a `ResourceWarning`.
    """

    __slots__ = ()

    # What users read and call.

    @property
    def connection(self) -> C:
        """The connection.

        Raises:
          RuntimeError: before the claim is granted, and after it has been released.
        """
        if self._held is None:
            state = "has been released" if hasattr(self, "_slot") else "has not been granted"
            raise RuntimeError(f"this claim {state}; it has no connection")
        # When the pool's end cuts a claim off, the slot keeps its connection until that is closed.
        connection = self._held.connection if self._held.state is CLAIMED else None
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
        slot, self._held = self._granted(), None
        self._dispatcher.release(slot, None if exc is self._entered else exc)

    @enable_ki_protection
    def discard(self) -> None:
        """End the claim, and have the connection closed instead of recycled.

        Synchronous and never a checkpoint. It is no failure of the backend.

        Raises:
          RuntimeError: as `release`.
        """
        self._check_held()
        self._dispatcher.returns.tell_balancer(self._granted(), None)
        self._give_up()

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
        self._dispatcher.returns.report(self._granted(), failed=failed)

    def _granted(self) -> Slot[C]:
        try:
            return self._slot
        except AttributeError:
            raise RuntimeError("this claim has not been granted") from None

    def _check_held(self) -> None:
        self._dispatcher.check_run()
        self._granted()
        if self._held is None:
            raise RuntimeError("this claim has been released already")

    # Context managers.

    def __aenter__(self) -> Coroutine[Any, Any, C]:
        # A plain function, because each coroutine that a claim goes through costs a tenth of it.
        if self._entered:
            self._refuse_second_entry()
        dispatcher = self._dispatcher
        if get_ident() != dispatcher.thread_id:
            dispatcher.check_run()
        self._entered = True
        return self._enter_fast() if dispatcher.is_plain else self._enter_slow()

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
            self._dispatcher.release(slot, exc)

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
        # Without the call of `check_run`, because `Pool.claim_nowait` must be cheap.
        if get_ident() != dispatcher.thread_id:
            dispatcher.check_run()
        slot = self._held
        if slot is not None:
            self._held = None
            dispatcher.release(slot, exc)

    if not TYPE_CHECKING:  # type checkers report an `await` themselves

        def __await__(self) -> NoReturn:
            raise RuntimeError(
                "a claim cannot be awaited: use `async with pool.claim() as connection`,"
                " or `claim = await pool.acquire()`"
            )

    async def _enter_by_hand(self) -> Claim[C]:
        """Enter the claim, for `Pool.acquire`."""
        await self.__aenter__()
        self._entered = sys.exception() or True
        return self
