"""`GuardedBalancer`: the one place that calls a user's balancer."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar, final

from .._util import log_safely, printable, safe_repr
from .candidates import IdleCandidate, IdleSet, candidate_of, sample
from .least_loaded import LeastLoaded
from .strategy import Balancer, BalancerError

logger = logging.getLogger("qorb_trio.pool")

S = TypeVar("S", bound=IdleSet)


@final
class GuardedBalancer(Generic[S]):
    """The balancer of one pool, with what it is given and a guard against its faults."""

    __slots__ = ("_balancer", "_failed", "_now", "_rng", "observes")

    def __init__(self, balancer: Balancer, rng: random.Random, now: Callable[[], float]) -> None:
        self._balancer: Any = balancer
        self._rng: random.Random = rng
        self._now: Callable[[], float] = now
        #: True once `observe` has failed.
        self._failed: bool = False
        #: True if the balancer has an ``observe``.
        self.observes: bool = hasattr(balancer, "observe")

    def show(self, tier: Sequence[S]) -> tuple[IdleCandidate[S], ...]:
        """Return the candidates that stand for these sets, or for a sample of many."""
        shown = sample(tier, self._rng.random)
        # A call for each of them would cost more than the rest.
        return tuple([slot_set.candidate or candidate_of(slot_set) for slot_set in shown])

    def choose(self, shown: Sequence[IdleCandidate[S]]) -> S:
        """Have the balancer choose among at least two candidates.

        Raises:
          BalancerError: if it raises, or returns none of them.
        """
        try:
            chosen = self._balancer.choose(shown, self._rng, self._now())
        except Exception as exc:
            raise BalancerError(f"{self._describe()} raised {safe_repr(exc)}") from exc
        for candidate in shown:
            if candidate is chosen:
                slot_set: S = candidate.slot_set
                return slot_set
        raise BalancerError(
            f"{self._describe()} returned {safe_repr(chosen)}, which is none of the candidates"
        )

    def observe(self, slot_set: S, seconds: float, failed: bool) -> None:
        """Tell the balancer, if it `observes`, of a claim that has ended.

        The claim was held for `seconds`. `failed` is True if it was a failure of the backend.
        """
        try:
            self._balancer.observe(candidate_of(slot_set), seconds, failed, self._now())
        except Exception as exc:  # noqa: BLE001 - it is logged
            if not self._failed:
                self._failed = True
                text = "%s: observe() failed; logged once"
                log_safely(logger, logging.ERROR, text, printable(self._describe()), exc_info=exc)

    def _describe(self) -> str:
        return f"balancer {safe_repr(self._balancer)}"


def guard(
    balancer: Balancer, rng: random.Random, now: Callable[[], float]
) -> GuardedBalancer[Any] | None:
    """Return a balancer for an idle index; `None` for `LeastLoaded`, the rule of the index.

    `rng` is the pool's source of randomness, and `now` returns its time.
    """
    if type(balancer) is LeastLoaded:
        return None
    return GuardedBalancer(balancer, rng, now)
