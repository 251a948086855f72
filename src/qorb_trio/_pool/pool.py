"""`open_pool` and `Pool`: the public face, and the life of a pool from start to end."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable
from types import TracebackType
from typing import Generic, TypeVar, final

import attrs
import trio

from .. import _validation as _check
from .._claims.claim import Claim
from .._claims.dispatcher import Core
from .._claims.holders import Holder, find_holders, warn_of_leaks
from .._model.backend import Backend
from .._model.policy import Policy
from .._model.stats import PoolStats
from .._util import NoPublicConstructor, sole_exception
from ..abc import Connector, Instrument, Resolver
from .membership import Roster
from .rebalancer import Rebalancer

C = TypeVar("C")

DEFAULT_POLICY = Policy()


def open_pool(
    nursery: trio.Nursery,
    resolver: Resolver,
    connector: Connector[C],
    *,
    policy: Policy = DEFAULT_POLICY,
    name: str = "pool",
    instruments: Iterable[Instrument] = (),
    rng: random.Random | None = None,
) -> PoolManager[C]:
    """Open a pool whose tasks run in `nursery`.

    An async context manager that yields a `Pool`. Entering starts the pool; it does not
    wait for a backend (`Pool.wait_ready` does).

    However the block is left, all tasks of the pool have ended then, and every
    connection that was ever made has been closed. Leaving it normally lets outstanding
    claims go on for ``policy.drain_timeout`` seconds; leaving it by an exception or a
    cancellation does not. No new claims are granted meanwhile, and waiting claimants
    get `PoolTerminatedError`. The exception that ends the block comes out as it is.

    Args:
      nursery: where the pool's tasks run. If it is cancelled, the pool ends. A resolver
        that raises, or a bug inside the pool, crashes into it.
      resolver: finds the backends; it is run once.
      connector: makes, checks and closes the connections.
      policy: the numbers; ``Policy()`` by default.
      name: what errors, logs and statistics call the pool.
      instruments: told of everything that happens.
      rng: the source of all randomness, for tests that want to repeat a run.

    Raises:
      TypeError, ValueError: for wrong arguments, before anything is started.
    """
    _check.instance("nursery", nursery, trio.Nursery, "open one, and give it first")
    _check.instance(
        "resolver", resolver, Resolver, "such as FixedResolver([...]) or DnsResolver(...)"
    )
    _check.instance(
        "connector", connector, Connector, "such as TcpConnector(), or a subclass with a connect"
    )
    _check.instance("policy", policy, Policy)
    _check.instance("name", name, str)
    if not isinstance(instruments, Iterable):
        raise TypeError(f"instruments must be an iterable of Instrument, not {instruments!r}")
    instruments = tuple(instruments)
    for instrument in instruments:
        _check.instance("instruments: each", instrument, Instrument)
    _check.instance("rng", rng := random.Random() if rng is None else rng, random.Random)
    core = Core(connector, name=name, policy=policy, instruments=instruments, rng=rng)
    pool: Pool[C] = Pool._create(core, resolver)  # type: ignore[assignment]
    return PoolManager(nursery, pool)


@final
class PoolManager(Generic[C]):
    """What `open_pool` returns: an async context manager, to be entered once."""

    def __init__(self, nursery: trio.Nursery, pool: Pool[C]) -> None:
        self._nursery: trio.Nursery = nursery
        self._pool: Pool[C] = pool
        self._entered: bool = False

    async def __aenter__(self) -> Pool[C]:
        if self._entered:
            raise RuntimeError("a pool can be opened only once; call open_pool() again")
        self._entered = True
        await trio.lowlevel.checkpoint()
        pool = self._pool
        self._nursery.start_soon(pool._run, name=f"<pool {pool.name!r}>")
        return pool

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # With an exception on its way there is no drain, so this does not take long;
        # and nothing may take the exception's place.
        with trio.CancelScope(shield=exc is not None):
            await self._pool._terminate(drain=exc is None)  # noqa: ASYNC102 - bounded within


@final
class Pool(Generic[C], metaclass=NoPublicConstructor):
    """A pool of connections to the backends of one service.

    Made by `open_pool`. Its methods may be called from any task of the same
    `trio.run`.
    """

    def __init__(self, core: Core[C], resolver: Resolver) -> None:
        self._core: Core[C] = core
        self._resolver: Resolver = resolver
        self._working: trio.CancelScope = trio.CancelScope()
        self._resolving: trio.CancelScope = trio.CancelScope()
        self._draining: trio.CancelScope = trio.CancelScope()
        self._ended: trio.Event = trio.Event()

    def __repr__(self) -> str:
        return f"<qorb_trio.Pool {self.name!r}>"

    @property
    def name(self) -> str:
        """The name that `open_pool` was given."""
        return self._core.name

    @property
    def policy(self) -> Policy:
        """The policy that `open_pool` was given."""
        return self._core.policy

    @property
    def is_closed(self) -> bool:
        """True if the pool has ended: its tasks are done and its connections are closed."""
        return self._ended.is_set()

    def claim(self, *, timeout: float | None = None) -> Claim[C]:
        """Claim a connection: ``async with pool.claim() as connection``.

        Claimants are served in the order in which they came. When the body ends, the
        connection goes back; if it ends by an exception or a cancellation, the
        connection is closed instead (see `Connector.should_recycle`).

        Args:
          timeout: seconds for the whole acquisition: waiting, and every ``on_acquire``
            that is tried. `None` means ``policy.claim_timeout``, ``math.inf`` no limit,
            and 0 not to wait for a connection: no more are tried than are idle now, each
            for ``health_check_timeout`` at most. The body is not under the timeout.

        Raises:
          ClaimTimeoutError: in one of its subclasses, when time is up.
          PoolTerminatedError: the pool is ending, or has ended.
          TypeError, ValueError: for a wrong timeout, at once.

        If cancelled while it waits, the claimant has lost its place, and nobody else has
        lost anything. Entering is a checkpoint, leaving is none.
        """
        if timeout is not None:
            _check.seconds("timeout", timeout)
        return Claim(self._core, timeout)

    async def acquire(self, *, timeout: float | None = None) -> Claim[C]:
        """Claim a connection that is to be released by hand.

        As `claim`, but the `Claim` must end by `Claim.release` or `Claim.discard`,
        preferably in a ``finally``.
        """
        claim = self.claim(timeout=timeout)
        await claim._enter_by_hand()
        return claim

    def stats(self) -> PoolStats:
        """A snapshot of what the pool has. Its cost grows with the number of backends."""
        stats = self._core.stats()
        if self._ended.is_set():
            return stats
        return attrs.evolve(stats, resolution=self._resolver.snapshot())

    def holders(self) -> tuple[Holder, ...]:
        """Each outstanding claim, the oldest first: its backend, its age, and its task.

        For people who look into a program; it goes through all slots of the backends that
        serve claims. With `Policy.leak_warning_after` the pool itself logs old claims.
        """
        return tuple(find_holders(self._core))

    def add_instrument(self, instrument: Instrument) -> None:
        """Tell `instrument` of everything that happens from now on.

        Of what is already under way it hears the rest: the end of a claim, say, whose start
        it has not seen. Nothing happens if it is there already.

        Raises:
          TypeError: it is not an `Instrument`.
        """
        _check.instance("instrument", instrument, Instrument)
        self._core.instruments.add(instrument)

    def remove_instrument(self, instrument: Instrument) -> None:
        """Tell `instrument` no more. The pool that has none left does not pay for any.

        Raises:
          KeyError: it is not there; perhaps because it raised.
        """
        self._core.instruments.remove(instrument)

    async def wait_ready(self, slots: int = 1) -> None:
        """Return when at least `slots` slots are connected.

        The pool opens that many for it, whatever ``policy.spares_wanted`` says. A
        checkpoint; being cancelled has no effect but to end the wait.

        Raises:
          PoolTerminatedError: the pool ends first, or has ended.
          TypeError, ValueError: `slots` is not a number between 1 and
            ``policy.max_slots``.
        """
        core = self._core
        _check.count("slots", slots, least=1)
        if slots > core.policy.max_slots:
            raise ValueError(
                f"slots must be at most max_slots ({core.policy.max_slots}), not {slots}"
            )
        await trio.lowlevel.checkpoint()
        core.ready_wanted.append(slots)
        core.request_plan()
        try:
            while core.usable < slots and not core.closing:
                await core.changes.park()
        finally:
            core.ready_wanted.remove(slots)
        if core.closing:
            raise core.terminated().error()

    async def terminate(self) -> None:
        """End the pool now, as leaving the block normally does.

        Returns when all connections are closed; a second call does nothing but wait
        for that. If cancelled, outstanding claims are not waited for any longer, but
        the closing is.

        Raises:
          RuntimeError: called by one of the pool's own tasks, as from a connector's
            ``connect``, which would have to wait for itself.
        """
        await self._terminate(drain=True)

    async def aclose(self) -> None:
        """The same as `terminate`, under the name that Trio's resources have."""
        await self.terminate()

    @trio.lowlevel.enable_ki_protection
    async def _terminate(self, *, drain: bool) -> None:
        if _is_inside(trio.lowlevel.current_task(), self._core):
            raise RuntimeError("a pool cannot be ended by one of its own tasks")
        self._end_work(drain=drain)
        try:
            await self._ended.wait()
        except BaseException:
            self._end_work(drain=False)
            with trio.CancelScope(shield=True):
                await self._ended.wait()
            raise

    @trio.lowlevel.enable_ki_protection
    def _end_work(self, *, drain: bool) -> None:
        """Begin the end. Claims that are held may go on for a while if `drain`."""
        core = self._core
        if self._ended.is_set():
            return
        if not core.closing and drain:
            self._draining.deadline = trio.current_time() + core.policy.drain_timeout
        if not drain:
            self._draining.cancel()
        self._resolving.cancel()
        core.begin_closing()
        self._working.cancel()

    @trio.lowlevel.enable_ki_protection
    async def _run(self) -> None:
        """The pool's main task, in the caller's nursery."""
        try:
            await self._live()
        except BaseExceptionGroup as group:
            crash = sole_exception(group)
        else:
            return
        finally:
            self._ended.set()
        raise crash

    async def _live(self) -> None:
        core = self._core
        core.token = trio.lowlevel.current_trio_token()
        core.now = trio.lowlevel.current_clock().current_time
        core.resolution = self._resolver.snapshot
        roster = Roster(core)
        updates, found = trio.open_memory_channel[Collection[Backend]](0)
        # Strict, however Trio runs: `_run` removes this nursery's layer, and no other.
        async with trio.open_nursery(strict_exception_groups=True) as nursery:
            core.nursery = nursery
            nursery.start_soon(self._resolve, updates)
            nursery.start_soon(Rebalancer(core).run)
            nursery.start_soon(core.line.expire_waiters, core.timed_out)
            if (after := core.policy.leak_warning_after) < float("inf"):
                nursery.start_soon(warn_of_leaks, core, after)
            try:
                with self._working:
                    async for backends in found:
                        await roster.update(backends)
                    await trio.sleep_forever()  # the resolver has ended: that set is final
                with self._draining:
                    while core.claimed:
                        await core.changes.park()
            finally:
                found.close()
                self._end_work(drain=False)
                core.close_claims()
                with trio.CancelScope(shield=True):
                    while core.slots:
                        await core.changes.park()
                core.ended_at = trio.current_time()
            nursery.cancel_scope.cancel()

    async def _resolve(self, updates: trio.MemorySendChannel[Collection[Backend]]) -> None:
        with self._resolving:
            with updates:  # not `async with`: that is a checkpoint, and could hide an error
                await self._resolver.run(updates)


def _is_inside(task: trio.lowlevel.Task, core: Core[C]) -> bool:
    """Whether a task is a child, however far down, of the pool's own nursery."""
    nursery = task.parent_nursery
    while nursery is not None and nursery is not core.nursery:
        nursery = nursery.parent_task.parent_nursery
    return nursery is not None
