"""What is known of one backend's reliability. Pure: times come in as arguments."""

from __future__ import annotations

import random
from typing import final

from .._model.policy import SetConfig
from . import backoff as _backoff
from .window_counter import WindowCounter

#: ``BackendStats.failures`` counts those of the last so many seconds.
FAILURE_WINDOW = 60.0

#: A dial that has not ended after so many seconds makes its backend suspect. It is
#: the initial retransmission timeout of TCP (RFC 6298, section 2.1): by then the
#: network has lost a packet, or the peer does not answer.
SLOW_DIAL = 1.0

#: … unless connects have lately taken long: then, so many times as long as they did.
SLOW_FACTOR = 3.0

#: How often that is doubled for a backend that goes on failing.
MOST_DOUBLINGS = 6

#: The longest time for which a connection must last to prove itself unasked.
LONGEST_PROBATION = 1.0


@final
class TrackRecord:
    """Whether a backend is known to fail, and when it may be tried again.

    A backend fails from its first failure until a connection that was *dialled after
    the last failure* has proved itself. That a connect succeeds proves nothing: a
    server may accept and then close. The `epoch` tells old evidence from new. Each
    dial carries the epoch in which it began, each failure that counts begins another,
    and what an older connection does then says nothing. So eight dials that are
    refused together are one failure, not eight.
    """

    __slots__ = (
        "_config",
        "_failures",
        "_rng",
        "connect_error",
        "connect_error_at",
        "epoch",
        "last_error",
        "last_error_at",
        "on_probation",
        "retry_at",
        "streak",
    )

    def __init__(self, config: SetConfig, rng: random.Random) -> None:
        self._config: SetConfig = config
        self._rng: random.Random = rng
        self._failures: WindowCounter = WindowCounter(FAILURE_WINDOW)
        self.epoch: int = 0
        self.streak: int = 0
        self.retry_at: float = float("-inf")
        #: A probe has connected, and is to show that it lasts. No other is made then.
        self.on_probation: bool = False
        self.last_error: Exception | None = None
        self.last_error_at: float = float("-inf")
        #: The latest of these that a connect met, since the backend was last known to work.
        self.connect_error: Exception | None = None
        self.connect_error_at: float = float("-inf")

    @property
    def failing(self) -> bool:
        """Whether the backend is known to fail, so that it may only be probed."""
        return self.streak > 0

    def failures(self, now: float) -> int:
        """Failures within the window that ends at `now`."""
        return self._failures.total(now)

    def failed(self, exc: Exception, epoch: int, now: float) -> bool:
        """Note a failure of a connection dialled in `epoch`; is that new evidence?"""
        self.noted(exc, now)
        return self.gave_up(epoch, now)

    def noted(self, exc: Exception, now: float) -> None:
        """Note a failure that is no evidence against the backend, as of a close."""
        self._failures.add(now)
        self.last_error = exc
        self.last_error_at = now

    def refused(self, exc: Exception, now: float) -> None:
        """Note which failure was one to connect, besides what else it means."""
        self.connect_error = exc
        self.connect_error_at = now

    def gave_up(self, epoch: int, now: float) -> bool:
        """A dial of `epoch` has come to nothing; is that new evidence?"""
        if epoch < self.epoch:
            return False
        self.epoch += 1
        self.streak += 1
        self.on_probation = False
        self.retry_at = now + self._delay()
        return True

    def patience(self, seconds: float) -> float:
        """How long a dial may take before it is suspect: more with each failure.

        Slow backends that take turns would otherwise never be given the time they need.
        """
        return seconds * 2.0 ** min(self.streak, MOST_DOUBLINGS)

    def probation(self, now: float) -> float:
        """A probe has connected: for how many seconds it must last to prove itself.

        As long as the back-off would have been (and so no faster when the server
        closes what it accepts), but not longer than a second.
        """
        self.on_probation = True
        wait = min(self._delay(), LONGEST_PROBATION)
        self.retry_at = now + wait
        return wait

    def probation_undecided(self) -> None:
        """What was on probation is gone, and nothing was learned from it."""
        self.on_probation = False

    def proved(self, epoch: int) -> bool:
        """A connection dialled in `epoch` has proved itself; does that end a streak?"""
        if self.streak == 0 or epoch < self.epoch:
            return False
        self.streak = 0
        self.on_probation = False
        self.connect_error = None
        return True

    def _delay(self) -> float:
        return _backoff.delay(
            self.streak,
            minimum=self._config.min_connection_backoff,
            maximum=self._config.max_connection_backoff,
            spread=self._config.spread,
            rng=self._rng,
        )
