"""`FailureDetector`: is a backend known to fail, and when may it be tried again."""

from __future__ import annotations

import random
from typing import final

from .._model.policy import SetConfig
from .._util import strip_traceback
from .backoff import JITTER, crowded_delay, jittered_delay
from .window_counter import WindowCounter

#: ``BackendStats.failures`` counts the failures of this many seconds.
FAILURE_WINDOW = 60.0

#: The maximum number of times that the hang timeout of a failing backend is doubled.
MAX_DOUBLINGS = 6

#: The maximum number of seconds for which a probe must last to prove its backend.
MAX_HALF_OPEN = 1.0

NEVER = float("-inf")


@final
class FailureDetector:
    """The failures of one backend: is it known to fail, and when may it be tried again.

    A backend fails from its first failure until a connection that was *dialled after the
    last failure* has proved itself. A successful connect proves nothing, because a server may
    accept and then close. Meanwhile the backend is *half-open*, as a circuit breaker (Nygard,
    "Release It!"): its probe must serve a claim, pass a check, or last for a while.

    The `health_generation` tells old evidence from new. Each dial carries the generation in
    which it began, and each failure that counts begins another. A failure of an older
    connection says nothing new. So eight dials that are refused together are one failure, not
    eight. (MongoDB's CMAP uses its pool generation for the same purpose.)

    Pure: times come in as arguments. No exception that is kept holds a frame.
    """

    __slots__ = (
        "_config",
        "_failures",
        "_first_delay",
        "_half_open_since",
        "_is_retry_soon_used",
        "_rng",
        "connect_error",
        "connect_error_at",
        "consecutive_failures",
        "failing_since",
        "health_generation",
        "is_half_open",
        "is_ineligible",
        "last_error",
        "last_error_at",
        "retry_at",
    )

    def __init__(self, config: SetConfig, rng: random.Random, first_delay: float = 0.0) -> None:
        self._config: SetConfig = config
        self._rng: random.Random = rng
        #: The least back-off until the first success.
        self._first_delay: float = first_delay
        self._failures: WindowCounter | None = None  # made for the first failure
        self._half_open_since: float = NEVER
        self._is_retry_soon_used: bool = False
        self.health_generation: int = 0
        self.consecutive_failures: int = 0
        #: When the backend began to fail; `None` while it does not.
        self.failing_since: float | None = None
        #: The earliest time of the next dial to a failing backend.
        self.retry_at: float = NEVER
        #: True while a probe has connected and has to prove itself; no other is dialled.
        self.is_half_open: bool = False
        #: True if it is no failure, but `IneligibleBackendError`, that keeps it from use.
        self.is_ineligible: bool = False
        #: The latest failure of a connection; `None` a minute after it, unless the backend fails.
        self.last_error: Exception | None = None
        self.last_error_at: float = NEVER
        #: The latest failure of a connect; `None` after the backend's recovery.
        self.connect_error: Exception | None = None
        self.connect_error_at: float = NEVER

    def adopt(self, config: SetConfig) -> None:
        """Go by other numbers from the next delay on."""
        self._config = config

    @property
    def is_failing(self) -> bool:
        """True if the backend is known to fail, so that it may only be probed."""
        return self.consecutive_failures > 0

    def recent_failures(self, now: float) -> int:
        """Return the number of failures within the minute that ends at `now`.

        After a recovery, `last_error` is kept for as long as this is not 0.
        """
        failures = 0 if self._failures is None else self._failures.total(now)
        if not (failures or self.is_failing):
            self.last_error = None
        return failures

    def record_failure(self, exc: Exception, generation: int, now: float) -> bool:
        """Record a failure of a connection that was dialled in `generation`.

        Return True if it is new evidence against the backend.
        """
        self.record_error(exc, now)
        return self.record_abandoned(generation, now)

    def record_error(self, exc: Exception, now: float) -> None:
        """Record a failure that is no evidence against the backend, such as of a close."""
        if self._failures is None:
            self._failures = WindowCounter(FAILURE_WINDOW)
        self._failures.add(now)
        strip_traceback(exc)
        self.last_error = exc
        self.last_error_at = now

    def record_connect_error(self, exc: Exception, now: float) -> None:
        """Record that `exc` was raised by a connect, in addition to its consequences."""
        strip_traceback(exc)
        self.connect_error = exc
        self.connect_error_at = now

    def record_abandoned(self, generation: int, now: float) -> bool:
        """Record that a dial of `generation` ended without a connection or an error.

        Return True if it is new evidence against the backend. The back-off begins then.
        """
        if generation < self.health_generation:
            return False
        self.health_generation += 1
        self.consecutive_failures += 1
        self.is_half_open = self.is_ineligible = False
        if self.failing_since is None:
            self.failing_since = now
        self.retry_at = now + self._draw_delay()
        return True

    def make_way(self, failing: int, now: float) -> None:
        """Put the next try off, because `failing` backends of the pool have to be tried."""
        longest = self._config.max_connection_backoff
        delay = crowded_delay(failing, maximum=longest, rng=self._rng)
        self.retry_at = max(self.retry_at, now + delay)

    def record_ineligible(self, exc: Exception, generation: int, now: float) -> bool:
        """Record that a connect raised `IneligibleBackendError`: the backend is not for use now.

        That is no failure, and is not counted as one, but the backend may only be probed, as if
        it failed. Return True if it is new evidence.
        """
        self.record_connect_error(exc, now)
        is_new = self.record_abandoned(generation, now)
        self.is_ineligible = self.is_ineligible or is_new
        return is_new

    def record_success(self, generation: int) -> bool:
        """Record that a connection that was dialled in `generation` has proved itself.

        Return True if that is the recovery of a failing backend.
        """
        if not self.consecutive_failures or generation < self.health_generation:
            return False
        self.consecutive_failures = 0
        self.failing_since = None
        self.is_half_open = self.is_ineligible = False
        self._is_retry_soon_used = False
        self._first_delay = 0.0
        self.connect_error = None
        return True

    # Half-open: one probe has connected.

    def begin_half_open(self, now: float) -> float:
        """Record that a probe has connected; return for how many seconds it must last.

        This is as long as the back-off would be, so that a server that closes each connection
        which it accepts is not dialled more often, but at most a second.
        """
        self.is_half_open = True
        self._half_open_since = now
        wait = min(self._draw_delay(), MAX_HALF_OPEN)
        self.retry_at = now + wait
        return wait

    def end_half_open(self) -> None:
        """Record that the probe's connection is gone, and that nothing was learned from it.

        To be called as soon as that happens, for example when a claimant discards it. The next
        probe starts under the same back-off: the number of failures stays, and the shortest
        delay has to pass between the two probes.
        """
        if self.is_half_open:
            self.is_half_open = False
            earliest = self._half_open_since + self._config.min_connection_backoff
            self.retry_at = min(self.retry_at, earliest)

    # When nothing is online.

    def retry_soon(self, now: float) -> bool:
        """Move the next try to within `spread` seconds, once until the backend recovers.

        For the moment when the last online backend goes offline. Return True if the next try
        was moved. It happens only once, because backends that accept connections and close
        them would otherwise make each other be dialled in a tight loop.
        """
        if not self.is_failing or self.is_half_open or self._is_retry_soon_used:
            return False
        self._is_retry_soon_used = self._advance(now + self._rng.uniform(0, self._config.spread))
        return self._is_retry_soon_used

    def cap_retry(self, now: float, seconds: float) -> bool:
        """Move the next try to within `seconds`; return True if that was necessary.

        For as long as nothing is online and a claimant waits, or this backend is ineligible.
        The new time is drawn from the
        second half of `seconds`, so that many clients do not retry in step. It may be called
        as often as the caller likes: what is near enough is not moved.
        """
        if not self.is_failing or self.is_half_open or self.retry_at <= now + seconds:
            return False
        return self._advance(now + seconds * self._rng.uniform(1.0 - JITTER, 1.0))

    def _advance(self, time: float) -> bool:
        is_earlier = time < self.retry_at
        self.retry_at = min(self.retry_at, time)
        return is_earlier

    def scaled_timeout(self, seconds: float) -> float:
        """Return the hang timeout of a dial, which doubles with each consecutive failure.

        Slow backends that take turns would otherwise never be given the time they need.
        """
        return seconds * 2.0 ** min(self.consecutive_failures, MAX_DOUBLINGS)

    def _draw_delay(self) -> float:
        return jittered_delay(
            self.consecutive_failures,
            minimum=max(self._config.min_connection_backoff, self._first_delay),
            maximum=self._config.max_connection_backoff,
            spread=self._config.spread,
            rng=self._rng,
        )
