"""The log of the resolver, logger ``qorb_trio.resolver``: few lines, and never silence.

A resolver outlives whatever DNS does, so nobody sees an exception. The log says that a service
cannot be resolved, that what is known of it has become stale, and that it is in order again.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Final, final

import attrs

from ..._util import log_safely, printable
from .assembly import MAX_BACKENDS
from .records import Answer
from .service import MAX_TARGETS, Service
from .tracker import Tracker

_LOGGER: Final = logging.getLogger("qorb_trio.resolver")

# The minimum time between two lines about a service on average, and the maximum time between
# two lines about the same trouble, in seconds.
_INTERVAL: Final = 60.0
_MAX_INTERVAL: Final = 900.0

#: The time after which a first query without an answer is trouble, in seconds.
PATIENCE: Final = 3.0

_MAX_NOTED = 100


@final
@attrs.frozen
class Trouble:
    """The reason why the backends of a service are not known, or no longer up to date."""

    is_stale: bool
    """True if there are backends, but names that could not be refreshed."""

    describe: Callable[[], str]
    """Returns the reason as text: what was asked, of whom, the answer, and the next query."""


def trouble_of(service: Service, servers: str, now: float) -> Trouble | None:
    """Return the present trouble of a service; `None` if there is none, or it may still pass.

    Args:
      service: the service.
      servers: its nameservers, as text.
      now: the current time.
    """
    own = service.own
    if service.failing:
        if service.published:
            return Trouble(True, lambda: _stale(service, now))
        return Trouble(False, lambda: _failed(_worst(service), now))
    if service.published is not None:
        return None if service.published else Trouble(False, lambda: _empty(service, now))
    if not own.settled and own.asking and now >= own.asked_at + PATIENCE:
        waited = now - own.asked_at
        return Trouble(
            False, lambda: f"asked {servers} for {own.question}: no answer in {waited:.1f} s"
        )
    return None


def _worst(service: Service) -> Tracker:
    own = service.own
    return own if own.failures else min(service.failing, key=lambda one: one.question)


def _failed(tracker: Tracker, now: float) -> str:
    return f"asked for {tracker.question}: {tracker.last_error}; {_next_query(tracker, now)}"


def _empty(service: Service, now: float) -> str:
    hosts = (one for one in service.table if one.empty and one is not service.own)
    tracker = next(hosts, service.own)
    outcome = tracker.last_outcome.value if tracker.last_outcome else "too old"
    said = f"asked {tracker.server} for {tracker.question}: {outcome}"
    return f"{said}; {_next_query(tracker, now)}"


def _stale(service: Service, now: float) -> str:
    tracker = _worst(service)
    age = now - (now if tracker.known_at is None else tracker.known_at)
    others = len(service.failing) - 1
    more = f" (and {others} other names)" if others else ""
    return f"last answered {age:.0f} s ago, {_failed(tracker, now)}{more}"


def _next_query(tracker: Tracker, now: float) -> str:
    if tracker.asking:
        return "asked again now"
    return f"asked again in {max(0.0, tracker.due - now):.1f} s"


@final
class Reporter:
    """Writes the lines about one service: one per minute on average, at most two at once.

    Args:
      service: the service's name.
    """

    def __init__(self, service: str) -> None:
        self._service = printable(service)
        # A line may be written from one interval before this time on.
        self._paid_until = -math.inf
        self._trouble_since: float | None = None
        self._trouble_until: float | None = None
        self._repeat_at = -math.inf
        self._distance = _INTERVAL
        self._was_stale = False
        self._is_reported = False
        self._noted: dict[str, None] = {}

    def update(self, trouble: Trouble | None, now: float) -> None:
        """Take note of the present trouble, and write a line if it is time for one."""
        if trouble is None:
            self._recovered(now)
        else:
            self._troubled(trouble, now)

    def _troubled(self, trouble: Trouble, now: float) -> None:
        if self._trouble_since is None or self._trouble_until is not None:
            if not self._is_reported:
                self._trouble_since = now
            self._trouble_until = None
            self._repeat_at, self._distance = now, _INTERVAL
        if trouble.is_stale != self._was_stale:
            self._was_stale, self._repeat_at = trouble.is_stale, now
        if now < self._repeat_at or not self._may_write(now):
            return
        self._repeat_at = now + self._distance
        self._distance = min(2 * self._distance, _MAX_INTERVAL)
        self._is_reported = True
        what = "its backends may be out of date" if trouble.is_stale else "cannot be resolved"
        self._log(logging.WARNING, f"{what}: {trouble.describe()}")

    def _recovered(self, now: float) -> None:
        if self._trouble_since is None:
            return
        if self._trouble_until is None:
            self._trouble_until = now
        if not self._is_reported:
            self._trouble_since = None
        elif self._may_write(now):
            seconds = self._trouble_until - self._trouble_since
            self._trouble_since, self._is_reported = None, False
            self._log(logging.INFO, f"resolved again after {seconds:.1f} s")

    def _may_write(self, now: float) -> bool:
        if now < self._paid_until - _INTERVAL:
            return False
        self._paid_until = max(self._paid_until, now) + _INTERVAL
        return True

    # ----------------------------------------------------------- what a nameserver should not do

    def note_answer(self, answer: Answer, now: float) -> None:
        """Warn once of addresses in an answer to which nobody can connect."""
        if answer.ignored:
            addresses = ", ".join(answer.ignored[:5])
            self._warn(
                f"ignored {answer.question}",
                f"ignored, as nobody can connect to it: {answer.question} {addresses}",
                now,
            )

    def note_limits(self, service: Service, now: float) -> None:
        """Warn once of a service that is larger than this resolver allows."""
        if service.left_out:
            used = f"{MAX_TARGETS} of {MAX_TARGETS + service.left_out} SRV records are used"
            self._warn("targets", f"more targets than the maximum: {used}", now)
        if service.is_cut:
            self._warn("backends", f"more than {MAX_BACKENDS} backends: the rest is left out", now)

    def _warn(self, key: str, text: str, now: float) -> None:
        if key in self._noted or not self._may_write(now):
            return
        self._noted[key] = None
        if len(self._noted) > _MAX_NOTED:
            del self._noted[next(iter(self._noted))]
        self._log(logging.WARNING, text)

    def _log(self, level: int, text: str) -> None:
        log_safely(_LOGGER, level, "service %s: %s", printable(self._service), printable(text))
