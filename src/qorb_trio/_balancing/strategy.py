"""`Balancer` and `Candidate`: the contract between a pool and the rule that chooses backends."""

from __future__ import annotations

import inspect
import random
from collections.abc import Sequence
from typing import Any, Protocol

from .._model.backend import Backend

#: Maximum number of candidates that a balancer is shown. Of more, it is shown a sample.
FEW = 8


class Candidate(Protocol):
    """One backend that has a spare, as a balancer sees it.

    All attributes but `memo` are read-only, and tell the present state each time they are
    read.
    """

    memo: Any
    """The balancer's own state for this backend in this pool. `None` at first, and again
    after the backend has left and returned."""

    @property
    def backend(self) -> Backend:
        """The backend."""

    @property
    def load(self) -> int:
        """Number of claims that the backend serves now, of this pool."""

    @property
    def spares(self) -> int:
        """Number of its connections that are ready and not claimed; at least 1."""

    @property
    def weight(self) -> float:
        """Its weight, greater than zero. A weight of 0 counts as 0.5."""


class Balancer(Protocol):
    """Rule that chooses the backend of a claim; the argument ``balancer`` of `open_pool`.

    A balancer keeps its state in `Candidate.memo`, so that one object can serve many pools.
    It may have a second method, ``observe(candidate, seconds, failed, now)``. The pool calls
    it at the end of each claim that was not cancelled. ``seconds`` is the time for which the
    claim was held. ``failed`` is True if the claim counts as a failure of the backend.

    Both methods are called in the middle of a claim or of a release, so they must be quick
    and must not use the pool. An exception from ``choose`` fails that claim only. The first
    exception from ``observe`` is logged, and later ones are ignored.
    """

    def choose(
        self, candidates: Sequence[Candidate], rng: random.Random, now: float, /
    ) -> Candidate:
        """Return one of `candidates`.

        Args:
          candidates: from 2 to 8 backends of the best priority that have a spare. If more
            than 8 have one, these are a random sample.
          rng: the pool's source of randomness.
          now: the pool's time in seconds, as `trio.current_time` tells it.
        """


class BalancerError(Exception):
    """A balancer raised the exception that is the ``__cause__``, or returned no candidate."""


def check_balancer(balancer: object) -> None:
    """Raise `TypeError` if an argument ``balancer`` is not a balancer."""
    if isinstance(balancer, type):
        raise TypeError(f"balancer is a class: did you mean {balancer.__name__}()?")
    for name in ("choose", "observe"):
        method = getattr(balancer, name, None)
        if inspect.iscoroutinefunction(method):
            raise TypeError(f"balancer: the method {name} must not be async")
        if not callable(method) and (name == "choose" or hasattr(balancer, name)):
            raise TypeError(f"balancer must have a method {name}, not {balancer!r}")
