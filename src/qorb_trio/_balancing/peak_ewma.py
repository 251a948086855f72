"""`PeakEwma`: claims go where they are expected to be over soonest."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from math import e, exp, inf, log2
from typing import Any, Final, cast, final

import attrs

from .. import _validation as _check
from .candidates import IdleCandidate
from .strategy import Candidate


def _decay(_: object, field: attrs.Attribute[float], value: float) -> None:
    _check.seconds(field.name, value, zero=False, endless=False)


@final
@attrs.frozen
class PeakEwma:
    """Balancer that chooses the backend with the least expected duration of claims.

    It estimates for each backend for how long a claim is held: an exponentially weighted
    moving average that takes over a longer duration at once and forgets it slowly. The cost
    of a backend is this estimate, times one more than its load, divided by its weight. The
    backend with the least cost is chosen. A backend that has become slow thus loses its
    claims after one of them, and is tried again when its estimate has faded.

    A backend without an estimate gets exactly one claim, and no other until that one has
    ended. If it ends without a good sample, the next one follows after `decay` seconds. A
    failed claim may raise the estimate, and keeps it from fading, but does not lower it,
    because a backend that fails fast must not look attractive. A cancelled claim is no sample.

    The rule is that of Finagle (``PeakEwma.scala``), without its second random choice, since
    there are at most 8 candidates.

    Args:
      decay: the time constant of the average, in seconds. After this time without a claim, an
        estimate has faded to 37 %. The default, 10, is Finagle's.

    Raises:
      TypeError, ValueError: if `decay` is not a positive, finite number.
    """

    # The memo of a candidate has three parts: the score, the estimate in seconds, and the time at
    # which it was made. The first two are `None` while there is no estimate; then the time is
    # that at which the first claim was given. The score is log2(estimate) + time / decay * log2(e):
    # what it exceeds that of another by is the logarithm of how many times as long claims are
    # expected to take, at any later time, because all estimates fade at the same rate. (Python's
    # log2() takes a third of the time of its log().)

    decay: float = attrs.field(default=10.0, validator=_decay)

    def choose(
        self,
        candidates: Sequence[Candidate],
        rng: random.Random,  # noqa: ARG002 - the contract's
        now: float,
    ) -> Candidate:
        """Return the candidate with the least cost; see `Balancer.choose`."""
        chosen: Candidate | None = None
        least = inf
        for candidate in candidates:
            memo = candidate.memo
            if memo is None:
                return _try_first(candidate, now)
            score, _, since = memo
            if score is None:
                if now - since >= self.decay and not candidate.load:
                    return _try_first(candidate, now)
                continue
            cost = score + log2((candidate.load + 1) / candidate.weight)
            if cost < least:
                least, chosen = cost, candidate
        # All wait for their first estimate, or claims take no time.
        return min(candidates, key=_load_per_weight) if chosen is None or least == -inf else chosen

    def pick(
        self, rng: random.Random, now: Callable[[], float], shown: Sequence[IdleCandidate[Any]]
    ) -> IdleCandidate[Any]:
        """Choose as `choose` does, sooner if all candidates have an estimate."""
        found, least, logs = shown[0], inf, _LOGS
        try:
            # A loop, because it takes half the time of a list with its min() and index().
            for it in shown:
                cost = it.memo[0] + logs[it.slot_set.claimed] - it.log_weight
                if cost < least:
                    least = cost
                    found = it
        except (TypeError, IndexError):
            least = -inf  # one has no estimate, or a great load
        if least == -inf:
            return cast("IdleCandidate[Any]", self.choose(shown, rng, now()))
        return found

    def observe(self, candidate: Candidate, seconds: float, failed: bool, now: float) -> None:
        """Take a claim's duration into the estimate of its backend; see `Balancer`."""
        _, estimate, since = candidate.memo or _UNKNOWN
        if estimate is None:
            if failed:
                return
        elif seconds <= estimate:
            # A failure keeps the estimate, which would fade while claims go on failing.
            rest = 1.0 if failed else exp((since - now) / self.decay)
            seconds += (estimate - seconds) * rest
        score = log2(seconds) + now / self.decay * _LOG2_E if seconds > 0 else -inf
        candidate.memo = (score, seconds, now)


#: Converts natural logarithms to binary ones.
_LOG2_E: Final = log2(e)

#: The memo of a candidate without one.
_UNKNOWN: Final = (None, None, 0.0)

#: The binary logarithms of one more than each usual load.
_LOGS: Final = tuple(log2(load + 1) for load in range(1024))


def _try_first(candidate: Candidate, now: float) -> Candidate:
    """Note that a candidate without an estimate gets a claim now."""
    candidate.memo = (None, None, now)
    return candidate


def _load_per_weight(candidate: Candidate) -> float:
    return candidate.load / candidate.weight


PeakEwma.__module__ = "qorb_trio"  # where users import it from
