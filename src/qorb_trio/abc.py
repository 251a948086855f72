"""The abstract base classes that users implement.

`Connector` knows one kind of connection, `Resolver` finds backends, `Instrument`
watches. None of them knows the pool; the pool knows only these.
"""

from __future__ import annotations

import abc
from collections.abc import Awaitable, Callable, Collection
from typing import Generic, TypeVar, cast

import trio

from ._model.backend import Backend
from ._model.errors import ClaimError

__all__ = ["Connector", "Instrument", "Resolver"]

C = TypeVar("C")

_BACKEND_FAILURES = (ConnectionError, trio.BrokenResourceError, trio.TooSlowError)


class Connector(abc.ABC, Generic[C]):
    """Knows how to connect to one backend, and to check, clean and close a connection.

    Only `connect` must be written. Any `Exception` that a method raises is a failure
    of that one connection: it is logged, counted, kept as the backend's
    ``last_error``, and the slot connects again after a back-off. It never kills the
    pool. A hook that is not overridden costs nothing.
    """

    @abc.abstractmethod
    async def connect(self, backend: Backend) -> C:
        """Return a live connection to `backend`, or raise.

        Bounded by ``connect_timeout``. Belongs to the pool, not to a claimant: no
        claimant's cancellation reaches it. It is cancelled when the backend leaves or
        the pool ends, and must then close what it had opened so far. To return `None`,
        or an object that the pool already holds, is a failure.
        """

    async def is_valid(self, conn: C) -> bool:
        """Check the health of an idle connection; by default it is healthy.

        `False` or an exception: the slot reconnects. Bounded by
        ``health_check_timeout``. Called when a connection has been idle for
        ``health_interval``, and at its return unless `on_recycle` is overridden.
        """
        return True

    async def on_acquire(self, conn: C) -> None:
        """Set a connection up as it is claimed; by default do nothing.

        Runs in the claimant's task. Raising discards the connection, and the claimant
        tries the next, keeping its place and its deadline. Bounded by
        ``health_check_timeout`` and by what the claim's timeout has left.
        """

    async def on_recycle(self, conn: C) -> None:
        """Clean a returned connection for the next claim; by default, `is_valid`.

        Runs in the pool, off the claimant's path. Raising discards the connection.
        Bounded by ``health_check_timeout``.
        """
        verdict: object = await self.is_valid(conn)
        if not verdict:
            nothing = ": is_valid returned None" if verdict is None else ""
            raise ConnectionError(f"the returned connection is not valid{nothing}")

    async def disconnect(self, conn: C) -> None:
        """Close a connection; by default ``await conn.aclose()`` where it has one.

        Called exactly once for each connection that `connect` returned. Shielded from
        cancellation, but bounded by ``disconnect_timeout``, after which it is
        cancelled.
        """
        aclose = getattr(conn, "aclose", None)
        if aclose is not None:
            await cast("Callable[[], Awaitable[object]]", aclose)()

    def is_broken(self, conn: C) -> bool:
        """Tell at once, without I/O that could block, whether a connection is dead.

        Asked whenever a connection is handed out or comes back, so it must be cheap.
        By default `False`. Raising an exception is a way to say why: it becomes the reason in
        the log, the events and ``last_error``.

        Of an idle connection that had worked, `True`, a `ConnectionError` or a
        `trio.BrokenResourceError` means that the peer has closed it, which is no failure.
        `StaleConnectionError` means so of a returned one too; `MisusedConnectionError` and
        `IneligibleBackendError` are no failures either. All else counts as a failure of the
        backend.
        """
        return False

    def should_recycle(self, conn: C, exc: BaseException | None) -> bool:
        """Tell at release whether a connection may be lent again.

        `exc` is what ended the body of ``async with pool.claim()``, `trio.Cancelled`
        included; `None` if nothing did. By default only a claim that ended without an
        exception is recycled: a half-finished exchange must never reach the next
        claimant.
        """
        return exc is None

    def needs_recycle(self, conn: C) -> bool:
        """Tell at release whether a kept connection needs `on_recycle`; by default it does.

        Synchronous and cheap. `False` skips `on_recycle` for this return, and with it the
        task in which it runs. Never called unless overridden.
        """
        return True

    def is_failure(self, conn: C, exc: BaseException) -> bool:
        """Tell whether the exception that ended a claim's body is the backend's fault.

        The verdict feeds ejection (`Policy.ejection`). By default `ConnectionError`,
        `trio.BrokenResourceError` and `trio.TooSlowError` are, but a `ClaimError` is not. In
        an exception group one such exception is enough, if none of the group is a
        `trio.Cancelled`. Never asked about a cancellation.
        """
        return is_backend_failure(exc)

    def fileno(self, conn: C) -> int | None:
        """Return the descriptor to watch while `conn` is idle; by default `None`, no watching.

        The pool's idle watcher notices that the peer closes the connection, and replaces it.
        Asked once for each connection, right after `connect`.
        """
        return None


def is_backend_failure(exc: BaseException) -> bool:
    """Return the default verdict of `Connector.is_failure`."""
    if isinstance(exc, BaseExceptionGroup):
        if exc.subgroup(trio.Cancelled) is not None:
            return False
        return any(is_backend_failure(leaf) for leaf in exc.exceptions)
    return isinstance(exc, _BACKEND_FAILURES) and not isinstance(exc, ClaimError)


class Resolver(abc.ABC):
    """Finds the backends of a service, and keeps finding them as they change."""

    @abc.abstractmethod
    async def run(self, updates: trio.MemorySendChannel[Collection[Backend]]) -> None:
        """Send the complete set of backends each time that it changes.

        Runs as a child task of the pool, for as long as the pool lives. Returning means
        that the last set is final. Being cancelled means stop. An exception crashes the
        pool into the caller's nursery, so a resolver handles what it can outlive.

        Names are unique within a set: equal backends count once, two addresses under
        one name are a `ValueError` that crashes the pool.
        """

    def snapshot(self) -> object:
        """Return a record of what the resolver knows, for people and monitoring; or `None`.

        Synchronous and quick. ``Pool.stats()`` has it as ``resolution``. If it has an
        attribute ``trouble`` that is a string, `NoBackendsError` gives that as the reason
        why there is no backend.
        """
        return None


class Instrument:
    """Watches a pool: one method per event, and each does nothing.

    Subclass it, override the events of interest, and give an instance to
    ``open_pool(instruments=[...])``. Events that no instrument overrides cost nothing.
    The methods are synchronous and are called in the middle of the pool's work: be
    quick, and do not call back into the pool except for ``stats()``. An instrument
    that raises is logged and removed.

    The first events and their arguments are those of qorb's DTrace probes: `pool` is the
    pool's name, `claim_id` and `slot_id` are numbers that are unique within the pool,
    `reason` is the exception (in `backend_ejected`, a text).
    """

    def claim_start(self, pool: str, claim_id: int) -> None:
        """A task asks for a connection."""

    def claim_done(self, pool: str, claim_id: int, slot_id: int) -> None:
        """The claim is granted: the claimant gets its connection."""

    def claim_failed(self, pool: str, claim_id: int, reason: BaseException) -> None:
        """The claim fails: a `ClaimError`, or the `trio.Cancelled` that ended it."""

    def claim_acquire_failed(
        self, pool: str, claim_id: int, slot_id: int, reason: BaseException
    ) -> None:
        """``on_acquire`` fails: the connection is discarded, and the claim goes on."""

    def claim_cut(self, pool: str, slot_id: int, backend: Backend) -> None:
        """A connection is closed under its claimant, because ``drain_timeout`` is over."""

    def connect_start(self, pool: str, slot_id: int, backend: Backend) -> None:
        """A slot begins to connect."""

    def connect_done(self, pool: str, slot_id: int, backend: Backend) -> None:
        """A slot has connected."""

    def connect_failed(
        self, pool: str, slot_id: int, backend: Backend, reason: BaseException
    ) -> None:
        """A slot could not connect, or was cancelled while it tried."""

    def connection_stale(
        self, pool: str, slot_id: int, backend: Backend, reason: BaseException
    ) -> None:
        """The peer has closed an idle connection that had worked: no failure of the backend."""

    def connection_broken(
        self, pool: str, slot_id: int, backend: Backend, reason: BaseException
    ) -> None:
        """A connection is found broken, at its hand-out, at its return or while it is idle."""

    def connection_retired(self, pool: str, slot_id: int, backend: Backend, why: str) -> None:
        """A connection becomes due for replacement, once in its life. `why` is ``"lifetime"``,
        ``"idle"``, ``"uses"`` or ``"recycle"``."""

    def handle_claimed(self, pool: str, claim_id: int, slot_id: int, backend: Backend) -> None:
        """A connection is taken for a claim; ``on_acquire`` comes next."""

    def handle_returned(self, pool: str, slot_id: int) -> None:
        """A connection comes back from a claim, to be recycled or closed."""

    def health_check_start(self, pool: str, slot_id: int, backend: Backend) -> None:
        """The check of an idle connection begins."""

    def health_check_done(self, pool: str, slot_id: int) -> None:
        """The connection is healthy."""

    def health_check_failed(self, pool: str, slot_id: int, reason: BaseException) -> None:
        """The connection is not healthy: it is closed."""

    def recycle_start(self, pool: str, slot_id: int, backend: Backend) -> None:
        """``on_recycle`` begins for a returned connection."""

    def recycle_done(self, pool: str, slot_id: int) -> None:
        """The connection is clean again."""

    def recycle_failed(self, pool: str, slot_id: int, reason: BaseException) -> None:
        """The connection could not be cleaned: it is closed."""

    def slot_set_online(self, pool: str, backend: Backend) -> None:
        """A backend has its first established connection."""

    def slot_set_offline(self, pool: str, backend: Backend) -> None:
        """A backend has lost its last established connection."""

    def slot_state_change(
        self, pool: str, slot_id: int, backend: Backend, old: str, new: str
    ) -> None:
        """A slot changes its state: ``"connecting"``, ``"unclaimed"``, ``"checking"``,
        ``"claimed"``, ``"closing"`` or ``"closed"``."""

    def rebalance_start(self, pool: str) -> None:
        """The pool begins to plan how many slots each backend should have."""

    def rebalance_done(self, pool: str) -> None:
        """The plan is made, and is being carried out."""

    def backend_added(self, pool: str, backend: Backend) -> None:
        """A backend becomes active: the resolver names it, or, where thousands are known, its
        turn has come."""

    def backend_removed(self, pool: str, backend: Backend) -> None:
        """A backend is no longer active: it has left the resolver's set, or its turn is over."""

    def backend_ejected(self, pool: str, backend: Backend, reason: str, seconds: float) -> None:
        """A backend is ejected because its claims failed: it gets none for `seconds`. Also
        called when its trial claim fails, which ejects it again."""

    def backend_restored(self, pool: str, backend: Backend) -> None:
        """A backend that was ejected gets claims again."""
