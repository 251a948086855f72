"""The times between the queries of one name. Pure but for the jitter."""

from __future__ import annotations

import math
import random
from typing import final

from .config import DnsResolverConfig

# Clients that started together should not ask together for ever: each delay is longer
# by up to this share of it.
_JITTER = 0.1

# From here on doubling changes nothing, and powers of two only get unwieldy.
_MANY_FAILURES = 32

# A cache counts TTLs in whole seconds, so only after one can a new answer be told from a copy.
_CACHE_TICK = 1.0


@final
class Delays:
    """Computes delays in seconds.

    Args:
      config: the intervals.
      rng: the source of jitter.
      longest: a further upper limit on the delay after an answer.
    """

    def __init__(
        self, config: DnsResolverConfig, rng: random.Random, *, longest: float = math.inf
    ) -> None:
        self._config = config
        self._rng = rng
        self._longest = longest

    def _jitter(self) -> float:
        return 1 + _JITTER * self._rng.random()

    def after_records(self, ttl: float) -> float:
        """Return the delay after an answer with records of this TTL."""
        config = self._config
        if config.hardcoded_ttl is not None:
            wanted, most = config.hardcoded_ttl * self._jitter(), math.inf
        else:
            wanted, most = ttl * self._jitter(), config.max_refresh
        return max(config.min_refresh, min(wanted, most, self._longest))

    def after_negative(self, ttl: float | None) -> float:
        """Return the delay after the answer that there is nothing; `None` is no SOA."""
        config = self._config
        ttl = config.query_retry_if_no_records_found if ttl is None else ttl
        wanted = min(ttl * self._jitter(), config.max_refresh, self._longest)
        return max(config.min_refresh, wanted)

    def after_failures(self, failures: int) -> float:
        """Return the delay after a number of failures in a row."""
        config = self._config
        doublings = min(failures - 1, _MANY_FAILURES)
        delay = config.min_refresh * 2.0**doublings * self._jitter()
        return max(config.min_refresh, min(delay, config.query_retry_if_no_records_found))

    def before_confirmation(self, *, may_be_cached: bool) -> float:
        """Return the delay after which an answer that removes something is asked for again."""
        tick = _CACHE_TICK if may_be_cached else 0.0
        return max(self._config.min_refresh, tick) * self._jitter()
