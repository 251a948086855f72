"""`open_pool`: checks the arguments, and opens a pool."""

from __future__ import annotations

import random
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Generic, NoReturn, TypeVar, final

import trio

from .. import _validation
from .._balancing.least_loaded import LeastLoaded
from .._balancing.strategy import Balancer, check_balancer
from .._model.policy import Policy
from ..abc import Connector, Instrument, Resolver
from .pool import Pool
from .wiring import Parts, build

C = TypeVar("C")

_HINT = "open_pool() must be entered: use `async with open_pool(...) as pool`"

DEFAULT_POLICY = Policy()
DEFAULT_BALANCER = LeastLoaded()


def open_pool(
    nursery: trio.Nursery,
    resolver: Resolver,
    connector: Connector[C],
    *,
    policy: Policy = DEFAULT_POLICY,
    name: str = "pool",
    balancer: Balancer = DEFAULT_BALANCER,
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
      balancer: chooses the backend of each claim among those that have a spare:
        `LeastLoaded`, `PeakEwma`, `RoundRobin`, or a `Balancer` of your own.
      instruments: told of everything that happens.
      rng: the source of all randomness, for tests that want to repeat a run.

    Raises:
      TypeError, ValueError: for wrong arguments, before anything is started.
    """
    _validation.instance("nursery", nursery, trio.Nursery, "open one, and give it first")
    _validation.instance(
        "resolver", resolver, Resolver, "such as FixedResolver([...]) or DnsResolver(...)"
    )
    _validation.instance(
        "connector", connector, Connector, "such as TcpConnector(), or a subclass with a connect"
    )
    _validation.instance("policy", policy, Policy)
    _validation.instance("name", name, str)
    check_balancer(balancer)
    if not isinstance(instruments, Iterable):
        raise TypeError(f"instruments must be an iterable of Instrument, not {instruments!r}")
    instruments = tuple(instruments)
    for instrument in instruments:
        _validation.instance("instruments: each", instrument, Instrument)
    _validation.instance("rng", rng := random.Random() if rng is None else rng, random.Random)
    parts = build(
        resolver,
        connector,
        name=name,
        policy=policy,
        balancer=balancer,
        instruments=instruments,
        rng=rng,
    )
    return PoolManager(nursery, parts)


@final
class PoolManager(Generic[C]):
    """The result of `open_pool`: an async context manager, to be entered once."""

    def __init__(self, nursery: trio.Nursery, parts: Parts[C]) -> None:
        self._nursery: trio.Nursery = nursery
        self._parts: Parts[C] = parts
        self._entered: bool = False

    # To a type checker, each of these is the mistake that it is.
    if not TYPE_CHECKING:  # pragma: no branch

        def __getattr__(self, name: str) -> NoReturn:
            if hasattr(Pool, name):
                raise AttributeError(f"{_HINT}, then pool.{name}")
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

        def __enter__(self) -> NoReturn:
            raise RuntimeError(_HINT)

        def __exit__(self, *_: object) -> NoReturn:
            raise AssertionError("never entered")

        def __await__(self) -> NoReturn:
            raise RuntimeError(_HINT)

    async def __aenter__(self) -> Pool[C]:
        if self._entered:
            raise RuntimeError("a pool can be opened only once; call open_pool() again")
        self._entered = True
        await trio.lowlevel.checkpoint()
        parts = self._parts
        parts.dispatcher.start()
        self._nursery.start_soon(parts.lifecycle.run, name=f"<pool {parts.pool!r}>")
        pool: Pool[C] = Pool._create(parts)  # type: ignore[assignment]
        return pool

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is None:
            await self._parts.lifecycle.terminate(drain=True)  # noqa: ASYNC102 - may be cancelled
            return
        # With an exception on its way there is no drain, so this does not take long; and
        # nothing may take the exception's place.
        with trio.CancelScope(shield=True):
            await self._parts.lifecycle.terminate(drain=False)  # noqa: ASYNC102 - bounded
