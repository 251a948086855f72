"""`GuardedBalancer`: the one place that calls a user's balancer."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Generic, TypeAlias, TypeVar, final

from .._util import log_safely, printable, safe_repr
from .candidates import IdleCandidate, IdleSet, candidate_of, sample
from .peak_ewma import PeakEwma
from .round_robin import RoundRobin, next_turn, settle
from .strategy import Balancer, BalancerError

logger = logging.getLogger("qorb_trio.pool")

S = TypeVar("S", bound=IdleSet)

#: Tells of a claim that has ended: the candidate that served it, for how many seconds it was held,
#: True if that was a failure of the backend, and the time.
Observe: TypeAlias = Callable[[IdleCandidate[S], float, bool, float], None]


@final
class GuardedBalancer(Generic[S]):
    """The balancer of one pool, with what it is given and a guard against its faults.

    Those of this package need no guard.
    """

    __slots__ = ("_balancer", "_failed", "_is_round_robin", "_now", "_rng", "observe", "pick")

    def __init__(self, balancer: Balancer, rng: random.Random, now: Callable[[], float]) -> None:
        self._balancer: Any = balancer
        self._rng: random.Random = rng
        self._now: Callable[[], float] = now
        #: True once `observe` has failed.
        self._failed: bool = False
        #: Has the balancer choose among at least two candidates.
        self.pick: Callable[[Sequence[IdleCandidate[S]]], IdleCandidate[S]] = self._choose
        #: Tells the balancer of claims; `None` if it does not want to know.
        self.observe: Observe[S] | None = None
        self._is_round_robin: bool = type(balancer) is RoundRobin
        if self._is_round_robin:
            self.pick = next_turn
        elif type(balancer) is PeakEwma:
            self.pick = partial(balancer.pick, rng, now)
            self.observe = balancer.observe
        elif hasattr(balancer, "observe"):
            self.observe = self._observe

    def show(self, tier: Sequence[S]) -> tuple[IdleCandidate[S], ...]:
        """Return the candidates that stand for these sets, or for a sample of many.

        They may be kept for `pick` until one of them is shown with others.
        """
        some = sample(tier, self._rng.random)
        # A call for each of them would cost more than the rest.
        shown = tuple([slot_set.candidate or candidate_of(slot_set) for slot_set in some])
        if self._is_round_robin:
            settle(shown, self._rng.random)
        return shown

    def _choose(self, shown: Sequence[IdleCandidate[S]]) -> IdleCandidate[S]:
        """Have a user's balancer choose.

        Raises:
          BalancerError: if it raises, or returns none of them.
        """
        try:
            chosen = self._balancer.choose(shown, self._rng, self._now())
        except Exception as exc:
            raise BalancerError(f"{self._describe()} raised {safe_repr(exc)}") from exc
        for candidate in shown:
            if candidate is chosen:
                found: IdleCandidate[S] = candidate
                return found
        raise BalancerError(
            f"{self._describe()} returned {safe_repr(chosen)}, which is none of the candidates"
        )

    def _observe(
        self, candidate: IdleCandidate[S], seconds: float, failed: bool, now: float
    ) -> None:
        """Tell a user's balancer of a claim that has ended."""
        try:
            self._balancer.observe(candidate, seconds, failed, now)
        except Exception as exc:  # noqa: BLE001 - it is logged
            if not self._failed:
                self._failed = True
                text = "%s: observe() failed; logged once"
                log_safely(logger, logging.ERROR, text, printable(self._describe()), exc_info=exc)

    def _describe(self) -> str:
        return f"balancer {safe_repr(self._balancer)}"
