"""`MappedResolver` and `subset`: sets of backends as functions of sets."""

from __future__ import annotations

import inspect
import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from functools import partial
from hashlib import blake2b
from typing import NoReturn, TypeAlias, final

import trio

from .. import _validation as _check
from .._model.backend import Backend
from ..abc import Resolver
from ._relay import Sets, Updates, in_full, run_around

#: A function from one set of backends to another.
BackendsFunction: TypeAlias = Callable[[Collection[Backend]], Iterable[Backend]]


@final
class MappedResolver(Resolver):
    """A resolver whose sets are made by a function of another resolver's sets.

    With it a pool uses a part of the backends (`subset`), prefers its own zone (the function
    raises the priority number of the others), or leaves out a backend that is in quarantine::

        quarantined: set[str] = set()


        def healthy(backends):
            return [backend for backend in backends if backend.name not in quarantined]


        resolver = MappedResolver(DnsResolver("_db._tcp.example.com"), healthy)
        ...
        quarantined.add("db7.example.com:5432@192.0.2.7")
        resolver.refresh()

    Args:
      resolver: finds the backends.
      function: called with each complete set, and again by `refresh`. Returns the backends to
        use: synchronous, quick, and without side effects, because it may be called often. An
        exception in it crashes the pool, as one in a resolver does.

    Raises:
      TypeError: if `resolver` is no resolver or `function` cannot be called.
    """

    def __init__(self, resolver: Resolver, function: BackendsFunction) -> None:
        _check.instance("resolver", resolver, Resolver)
        if not callable(function):
            raise TypeError(f"function must be callable, not {function!r}")
        if inspect.iscoroutinefunction(function):
            raise TypeError(f"function must not be async: {function!r}")
        self._resolver = resolver
        self._function = function
        self._refreshes = 0
        self._waiting: set[trio.CancelScope] = set()
        self._runs: list[trio.lowlevel.TrioToken] = []

    def refresh(self) -> None:
        """Call the function again, because its result has changed for the same backends.

        Synchronous: the new set is sent soon. Does nothing before the first set.

        Raises:
          RuntimeError: if the resolver runs in another thread or another ``trio.run``.
        """
        if self._runs and not all(run is _this_run() for run in self._runs):
            raise RuntimeError(
                "refresh() was called outside the trio.run of the resolver: from a thread, use"
                " trio.from_thread.run_sync(resolver.refresh)"
            )
        self._refreshes += 1
        for scope in self._waiting:
            scope.cancel()

    async def run(self, updates: Updates) -> None:
        """Send the function's result for each set, if it differs from the last one sent.

        Never returns, because `refresh` may change the result after the other resolver has
        returned. Cancelled, it stops at once. May be run several times.

        Raises:
          TypeError: if the function returns anything but backends.
          Exception: what the function or the other resolver raises.
        """
        run = trio.lowlevel.current_trio_token()
        self._runs.append(run)
        try:
            await run_around(self._resolver, partial(self._send_mapped, updates))
        finally:
            self._runs.remove(run)

    async def _send_mapped(self, updates: Updates, sets: Sets, _: trio.Nursery) -> NoReturn:
        given: Collection[Backend] | None = None
        sent: list[tuple[object, ...]] | None = None
        while True:
            refreshes = self._refreshes
            if given is not None:
                mapped = self._map(given)
                if in_full(mapped) != sent:
                    await updates.send(mapped)
                    sent = in_full(mapped)
            given = await self._next(sets, given, refreshes)

    async def _next(
        self, sets: Sets, given: Collection[Backend] | None, refreshes: int
    ) -> Collection[Backend] | None:
        """Return the next set, or the present one after `refresh`."""
        with trio.CancelScope() as scope:
            self._waiting.add(scope)
            try:
                if self._refreshes != refreshes:  # during the last send
                    scope.cancel()
                return tuple(await sets.receive())
            except trio.EndOfChannel:
                await trio.sleep_forever()
            finally:
                self._waiting.discard(scope)
        return given

    def _map(self, backends: Collection[Backend]) -> tuple[Backend, ...]:
        result: object = self._function(backends)
        if not isinstance(result, Iterable):
            raise TypeError(
                f"the function of a MappedResolver must return backends, not {result!r}"
            )
        mapped = tuple(result)
        for backend in mapped:
            if not isinstance(backend, Backend):
                raise TypeError(
                    f"the function of a MappedResolver must return backends, not {backend!r}"
                )
        return mapped

    def snapshot(self) -> object:
        """Return the other resolver's snapshot."""
        return self._resolver.snapshot()

    def __repr__(self) -> str:
        return f"MappedResolver({self._resolver!r}, {self._function!r})"


def _this_run() -> trio.lowlevel.TrioToken | None:
    try:
        return trio.lowlevel.current_trio_token()
    except RuntimeError:  # not in trio
        return None


def subset(
    size: int, *, seed: int | str | bytes | None = None
) -> Callable[[Collection[Backend]], tuple[Backend, ...]]:
    """Return a function for `MappedResolver` that keeps a part of the backends.

    With many clients and many backends, each client should connect to a few backends only, and
    each backend serve about equally many clients. Of each priority the function keeps the
    first `size` backends in rendezvous order: by a hash of the seed and the backend's name
    (Thaler and Ravishankar 1998; gRPC's proposal A68 has the same aim). When one backend comes
    or goes, at most one member changes. Weights play no part: the pool applies them.

    Args:
      size: the maximum number of backends of each priority; at least 1.
      seed: which subset. The same seed gives the same subset of the same backends in every
        process, in whatever order they are given: a client's name or number makes its subset
        survive a restart. `None`, the default, draws one at random.

    Raises:
      TypeError, ValueError: naming the argument that is wrong.
    """
    _check.count("size", size, least=1)
    key = _seed_key(seed)

    def rank(backend: Backend) -> bytes:
        return blake2b(backend.name.encode("utf-8", "replace"), key=key, digest_size=8).digest()

    def take(backends: Collection[Backend]) -> tuple[Backend, ...]:
        tiers: dict[int, list[Backend]] = defaultdict(list)
        for backend in backends:
            tiers[backend.priority].append(backend)
        taken = {id(one) for tier in tiers.values() for one in sorted(tier, key=rank)[:size]}
        return tuple(backend for backend in backends if id(backend) in taken)

    return take


def _seed_key(seed: int | str | bytes | None) -> bytes:
    if isinstance(seed, bool) or not isinstance(seed, int | str | bytes | None):
        raise TypeError(f"seed must be an int, a str, bytes or None, not {seed!r}")
    if seed is None:
        return os.urandom(16)
    text = seed if isinstance(seed, bytes) else repr(seed).encode("utf-8", "backslashreplace")
    return blake2b(text, digest_size=16).digest()


# Where users import them from.
MappedResolver.__module__ = "qorb_trio"
subset.__module__ = "qorb_trio"
