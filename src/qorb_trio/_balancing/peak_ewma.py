"""`PeakEwma`: claims go where they are expected to be over soonest."""

from __future__ import annotations

import random
from collections.abc import Sequence
from math import exp, inf
from typing import final

import attrs

from .. import _validation as _check
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

    # The memo of a candidate is a pair: the estimate in seconds, or `None` while there is
    # none, and the time at which it was made, or at which the first claim was given.

    decay: float = attrs.field(default=10.0, validator=_decay)

    def choose(
        self,
        candidates: Sequence[Candidate],
        rng: random.Random,  # noqa: ARG002 - the contract's
        now: float,
    ) -> Candidate:
        """Return the candidate with the least cost; see `Balancer.choose`."""
        scale = -1 / self.decay
        chosen: Candidate | None = None
        least = inf
        for candidate in candidates:
            memo = candidate.memo
            if memo is None:
                return _try_first(candidate, now)
            estimate, since = memo
            if estimate is None:
                if now - since >= self.decay and not candidate.load:
                    return _try_first(candidate, now)
                continue
            faded = estimate * exp((now - since) * scale)
            cost = faded * (candidate.load + 1) / candidate.weight
            if cost < least:
                least, chosen = cost, candidate
        if chosen is None or not least:
            # All wait for their first estimate, or claims take no time.
            return min(candidates, key=_load_per_weight)
        return chosen

    def observe(self, candidate: Candidate, seconds: float, failed: bool, now: float) -> None:
        """Take a claim's duration into the estimate of its backend; see `Balancer`."""
        estimate, since = candidate.memo or (None, now)
        if estimate is None:
            if not failed:
                candidate.memo = (seconds, now)
        elif seconds > estimate:
            candidate.memo = (seconds, now)
        elif failed:
            # Without this, the estimate would fade while claims go on failing.
            candidate.memo = (estimate, now)
        else:
            rest = exp((since - now) / self.decay)
            candidate.memo = (estimate * rest + seconds * (1 - rest), now)


def _try_first(candidate: Candidate, now: float) -> Candidate:
    """Note that a candidate without an estimate gets a claim now."""
    candidate.memo = (None, now)
    return candidate


def _load_per_weight(candidate: Candidate) -> float:
    return candidate.load / candidate.weight
