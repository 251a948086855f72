"""`guard`: the balancer of a pool, as its idle index wants it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .least_loaded import LeastLoaded
from .strategy import Balancer

if TYPE_CHECKING:
    from .guarded_balancer import GuardedBalancer


def guard(
    balancer: Balancer, rng: random.Random, now: Callable[[], float]
) -> GuardedBalancer[Any] | None:
    """Return a balancer for an idle index; `None` for `LeastLoaded`, the rule of the index.

    `rng` is the pool's source of randomness, and `now` returns its time.
    """
    if type(balancer) is LeastLoaded:
        return None
    # Most pools need none of the other strategies.
    from .guarded_balancer import GuardedBalancer  # noqa: PLC0415

    return GuardedBalancer(balancer, rng, now)
