"""`FailureLog`: which failures of a backend are worth a line in the log. Pure: knows no logger."""

from __future__ import annotations

import logging
from typing import final

import attrs

from .._util import error_text, printable

#: The distance between the first two lines of an outage, in seconds. It doubles with each line.
FIRST_DISTANCE = 1.0

#: The longest distance between two lines, in seconds.
MAX_DISTANCE = 30.0

#: The name of a health check as an attempt.
HEALTH_CHECK = "health check"


@final
@attrs.frozen(eq=False, repr=False)
class LogLine:
    """A line that is due: the arguments of ``Logger.log``, as numbers and printable texts."""

    level: int
    message: str
    args: tuple[object, ...]

    def __str__(self) -> str:
        return self.message % self.args


@final
class FailureLog:
    """The lines about the failures of one backend, so that a log shows each outage, briefly.

    The first failure of an outage is logged at once. Later ones are counted, and logged with
    their number at distances that double from 1 second to 30. The recovery is logged with the
    duration. An outage that begins soon after the last one goes on with its distances, so that
    a backend which comes and goes does not fill the log either. A failed health check is
    logged 30 seconds after another line at the earliest, because each probe of a backend that
    accepts connections and does not answer fails in the same way.

    Everything in a line is escaped by `printable`, because the names of backends and the texts
    of errors come from elsewhere.
    """

    __slots__ = (
        "_backend",
        "_distance",
        "_is_announced",
        "_is_ineligible",
        "_next_at",
        "_next_check_at",
        "_pool",
        "_quiet_since",
        "_since",
        "_unlogged",
    )

    def __init__(self, pool: str, backend: str) -> None:
        self._pool: str = printable(pool)
        self._backend: str = printable(backend)
        #: When the outage began; `None` if there is none.
        self._since: float | None = None
        #: True if the log has a line of the outage.
        self._is_announced: bool = False
        self._is_ineligible: bool = False
        #: The failures since the last line.
        self._unlogged: int = 0
        self._next_at: float = float("-inf")
        #: The same for failed health checks.
        self._next_check_at: float = float("-inf")
        self._distance: float = FIRST_DISTANCE
        #: When the last outage ended.
        self._quiet_since: float = float("-inf")

    def record_failure(
        self, tried: str, exc: BaseException, now: float, *, retry_at: float | None = None
    ) -> LogLine | None:
        """Record a failure that makes or keeps the backend failing; return the line if due.

        `tried` names the attempt: "connect", "health check", "on_acquire", "on_recycle".
        `retry_at` is the time of the next attempt, if there is one and it is known.
        """
        if self._since is None:
            self._since = now
            if now - self._quiet_since >= self._distance:
                self._start_again()
        line = self.record_error(tried, exc, now, retry_at=retry_at)
        self._is_announced = self._is_announced or line is not None
        return line

    def record_error(
        self, tried: str, exc: BaseException, now: float, *, retry_at: float | None = None
    ) -> LogLine | None:
        """Record an error that is no evidence against the backend; return the line if due.

        For a failed ``disconnect``, and for hooks that are at fault themselves.
        """
        if now < (self._next_check_at if tried == HEALTH_CHECK else self._next_at):
            self._unlogged += 1
            return None
        more = f" ({self._unlogged} more since the last line)" if self._unlogged else ""
        self._unlogged = 0
        self._next_at = now + self._distance
        self._next_check_at = now + MAX_DISTANCE
        self._distance = min(2.0 * self._distance, MAX_DISTANCE)
        message = "pool %s: backend %s: %s failed: %s%s%s"
        next_try = _next_try(retry_at, now)
        args = (self._pool, self._backend, printable(tried), error_text(exc), more, next_try)
        return LogLine(logging.WARNING, message, args)

    def record_ineligible(self, exc: BaseException, now: float) -> LogLine | None:
        """Record that the backend works, but is not eligible; return the line if it is news."""
        if self._is_ineligible:
            return None
        self._is_ineligible = self._is_announced = True
        if self._since is None:
            self._since = now
        message = "pool %s: backend %s is not eligible now: %s"
        return LogLine(logging.INFO, message, (self._pool, self._backend, error_text(exc)))

    def record_recovery(self, now: float) -> LogLine | None:
        """Record that the backend works again; return the line if its outage was logged."""
        if self._since is None:
            return None
        duration, is_announced = now - self._since, self._is_announced
        self._since = None
        self._is_announced = self._is_ineligible = False
        self._quiet_since = now
        if not is_announced:
            return None
        message = "pool %s: backend %s works again after %s"
        return LogLine(logging.INFO, message, (self._pool, self._backend, _seconds(duration)))

    def _start_again(self) -> None:
        self._next_at = self._next_check_at = float("-inf")
        self._distance = FIRST_DISTANCE


def _next_try(retry_at: float | None, now: float) -> str:
    if retry_at is None:
        return ""
    return f"; next try in {_seconds(retry_at - now)}" if retry_at > now else "; next try now"


def _seconds(duration: float) -> str:
    return f"{duration:.3g} s" if duration < 100 else f"{duration:.0f} s"
