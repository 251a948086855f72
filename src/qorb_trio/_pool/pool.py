"""`Pool`: what users hold of a pool."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, final

import trio

from .. import _validation
from .._balancing.preference import NO_BACKENDS, make_preference
from .._claims.acquisition import Acquisition
from .._claims.claim import Claim
from .._claims.dispatcher import Dispatcher
from .._claims.holders import Holder, find_holders
from .._model.backend import Backend
from .._model.policy import Policy
from .._model.stats import PoolStats
from .._util import NoPublicConstructor
from ..abc import Instrument
from .phase import Phase

if TYPE_CHECKING:
    from .._balancing.affinity import Key
    from .wiring import Parts

C = TypeVar("C")

_NEW_CLAIM: Final = Claim.__new__


@final
class Pool(Generic[C], metaclass=NoPublicConstructor):
    """A pool of connections to the backends of one service.

    Made by `open_pool`. Its methods may be called from any task of the same
    `trio.run`.
    """

    def __init__(self, parts: Parts[C]) -> None:
        self._parts: Parts[C] = parts
        self._dispatcher: Dispatcher[C] = parts.dispatcher

    def __repr__(self) -> str:
        return f"<qorb_trio.Pool {self.name!r}>"

    @property
    def name(self) -> str:
        """The name that `open_pool` was given."""
        return self._parts.pool

    @property
    def policy(self) -> Policy:
        """The policy that is in force."""
        return self._parts.settings.policy

    @property
    def is_closed(self) -> bool:
        """True if the pool has ended: its tasks are done and its connections are closed."""
        return self._parts.lifecycle.phase is Phase.CLOSED

    @property
    def is_suspended(self) -> bool:
        """True from `suspend` to `resume` or to the beginning of the pool's end."""
        return self._parts.lifecycle.phase is Phase.SUSPENDED

    def claim(
        self,
        *,
        timeout: float | None = None,
        key: Key | None = None,
        avoid: Iterable[Backend] = NO_BACKENDS,
        label: str | None = None,
    ) -> Claim[C]:
        """Claim a connection: ``async with pool.claim() as connection``.

        Claimants are served in the order in which they came. When the body ends, the
        connection goes back; if it ends by an exception or a cancellation, the
        connection is closed instead (see `Connector.should_recycle`).

        Args:
          timeout: seconds for the whole acquisition: waiting, and every ``on_acquire``
            that is tried. `None` means ``policy.claim_timeout``, ``math.inf`` no limit,
            and 0 not to wait for a connection: no more are tried than are idle now, each
            for ``health_check_timeout`` at most. The body is not under the timeout.
          key: claims with the same key prefer the same backend, in every process. The claim
            does not wait for it: if that backend has no spare, another one serves the claim.
          avoid: backends that serve the claim only if no other has a spare. For retries.
          label: shown in place of the name of the task by `holders`, in errors and in
            warnings.

        Raises:
          ClaimTimeoutError: in one of its subclasses, when time is up.
          PoolOverloadedError: refused by ``max_waiting`` or ``queue_target`` of the policy.
          PoolTerminatedError: the pool is ending, or has ended.
          ClaimError: the balancer has failed; its exception is the ``__cause__``.
          TypeError, ValueError: for a wrong argument, at once.

        If cancelled while it waits, the claimant has lost its place, and the others
        have lost nothing. Entering is a checkpoint, leaving is none.
        """
        if timeout is not None:
            _validation.seconds("timeout", timeout)
        if label is not None and type(label) is not str:
            _validation.instance("label", label, str)
        if key is None and avoid is NO_BACKENDS:
            return Claim(self._dispatcher, timeout, label)
        return Claim(self._dispatcher, timeout, label, make_preference(key, avoid))

    def acquire(
        self,
        *,
        timeout: float | None = None,
        key: Key | None = None,
        avoid: Iterable[Backend] = (),
        label: str | None = None,
    ) -> Coroutine[Any, Any, Claim[C]]:
        """Claim a connection that has to be released by hand: ``await pool.acquire()``.

        As `claim`, but the `Claim` must end by `Claim.release` or `Claim.discard`,
        preferably in a ``finally``.
        """
        # No async function, so that `async with pool.acquire()` can be given a hint.
        claim = self.claim(timeout=timeout, key=key, avoid=avoid, label=label)
        return Acquisition(claim._enter_by_hand())

    @trio.lowlevel.enable_ki_protection
    def claim_nowait(self) -> Claim[C]:
        """Claim a connection that is free now: ``with pool.claim_nowait() as connection``.

        Synchronous and never a checkpoint. The `Claim` is held already; it ends by leaving the
        ``with`` block, or by `Claim.release` or `Claim.discard`.

        Raises:
          trio.WouldBlock: if there is no spare, or if a claimant waits.
          PoolTerminatedError: the pool is ending, or has ended.
          ClaimError: the balancer has failed; its exception is the ``__cause__``.
          RuntimeError: the connector overrides ``on_acquire``, which has to be awaited.
        """
        dispatcher = self._dispatcher
        if get_ident() != dispatcher.thread_id:
            dispatcher.check_run()
        # `Claim.__init__` is left out, because Python takes long to call it.
        claim: Claim[C] = _NEW_CLAIM(Claim)
        claim._enter_nowait(dispatcher)
        return claim

    def stats(self) -> PoolStats:
        """A snapshot of what the pool has. Its cost grows with the number of backends.

        It counts the failures of the last minute, so it is for the pool's own `trio.run`, as
        all other methods are. Once the pool has ended it may be taken anywhere.
        """
        if self._parts.snapshots.is_live:
            self._dispatcher.check_run()
        return self._parts.snapshots.take()

    def holders(self) -> tuple[Holder, ...]:
        """Each outstanding claim, the oldest first: its backend, its age, and its task.

        For people who look into a program; it goes through all slots of the backends that
        serve claims. With `Policy.leak_warning_after` the pool itself logs old claims.
        """
        self._dispatcher.check_run()
        if not self._parts.totals.claimed:
            return ()
        return tuple(find_holders(self._parts.registry))

    def add_instrument(self, instrument: Instrument) -> None:
        """Tell `instrument` of everything that happens from now on.

        Of what is already under way it hears the rest: the end of a claim, say, whose start
        it has not seen. Nothing happens if it is there already.

        Raises:
          TypeError: it is not an `Instrument`.
        """
        self._dispatcher.check_run()
        _validation.instance("instrument", instrument, Instrument)
        self._parts.events.add(instrument)

    def remove_instrument(self, instrument: Instrument) -> None:
        """Tell `instrument` no more. The pool that has none left does not pay for any.

        Raises:
          KeyError: it is not there; perhaps because it raised.
        """
        self._dispatcher.check_run()
        self._parts.events.remove(instrument)

    @trio.lowlevel.enable_ki_protection
    def suspend(self) -> None:
        """Lend nothing until `resume`: claimants wait, with their own timeouts.

        Claims that are held go on; `wait_idle` waits for their end. Connections that come back
        become spares. ``fail_fast_after`` and ``queue_target`` refuse nobody meanwhile. A claim
        whose time is up gets `AllClaimsUsedError`, and the pool's end refuses all that wait.
        Nothing happens if the pool is suspended already, is ending, or has ended.
        """
        self._dispatcher.check_run()
        self._parts.lifecycle.suspend()

    @trio.lowlevel.enable_ki_protection
    def resume(self) -> None:
        """End a `suspend`: the claimants that wait are served, in order, in one step.

        Nothing happens if the pool is not suspended.
        """
        self._dispatcher.check_run()
        self._parts.lifecycle.resume()

    async def wait_idle(self) -> None:
        """Return when no claim is outstanding, at the latest when the pool has ended.

        Unless the pool is suspended, other claims may begin at once. A checkpoint; being
        cancelled has no effect but to end the wait.
        """
        self._dispatcher.check_run()
        await trio.lowlevel.checkpoint()
        await self._parts.lifecycle.wait_idle()

    @trio.lowlevel.enable_ki_protection
    def recycle(self, *, over: float = 0.0) -> None:
        """Replace every connection whose dial began before now, the replacement first.

        After a change of passwords or certificates, for example. Connections in use are
        replaced too; the old one is closed when its claim ends.

        Args:
          over: the number of seconds over which the replacements are spread.

        Raises:
          TypeError, ValueError: `over` is not a finite number of seconds. Nothing has changed.
        """
        self._dispatcher.check_run()
        _validation.seconds("over", over, endless=False)
        if not self._dispatcher.is_closed:
            self._parts.control.recycle(over)

    @trio.lowlevel.enable_ki_protection
    def reconfigure(self, policy: Policy) -> None:
        """Use another policy from now on.

        Waiting claimants keep their deadlines. Above a lowered cap, spares are closed at once,
        connections in use are closed as they come back, and none is opened until there are
        fewer. Dials and checks that are under way keep their timeouts.

        Raises:
          TypeError: `policy` is not a `Policy`. Nothing has changed.
        """
        self._dispatcher.check_run()
        _validation.instance("policy", policy, Policy)
        if not self._dispatcher.is_closed:
            self._parts.control.reconfigure(policy)

    async def wait_ready(self, slots: int = 1) -> None:
        """Return when at least `slots` slots are connected.

        The pool opens that many for it, whatever ``policy.spares_wanted`` says. A
        checkpoint; being cancelled has no effect but to end the wait.

        Raises:
          PoolTerminatedError: the pool ends first, or has ended.
          TypeError, ValueError: `slots` is not a number between 1 and
            ``policy.max_slots``; also if `reconfigure` lowers that during the wait.
        """
        self._dispatcher.check_run()
        _validation.count("slots", slots, least=1)
        await self._parts.control.wait_connected(slots)
        if self._dispatcher.is_closed:
            raise self._dispatcher.diagnosis.termination().error()

    async def terminate(self) -> None:
        """End the pool now, as leaving the block normally does.

        Returns when all connections are closed; a second call does nothing but wait
        for that. If cancelled, outstanding claims are not waited for any longer, but
        the closing is.

        Raises:
          RuntimeError: called by one of the pool's own tasks, as from a connector's
            ``connect``, which would have to wait for itself.
        """
        self._dispatcher.check_run()
        await self._parts.lifecycle.terminate(drain=True)

    #: The same as `terminate`, under the name that Trio's resources have.
    aclose = terminate
