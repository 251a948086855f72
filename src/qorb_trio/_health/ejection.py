"""`Ejector`: should a backend that fails its claims get no more claims for a while? Pure."""

from __future__ import annotations

import enum
import math
import random
from typing import Final, final

from .._model.policy import Ejection

#: The rule of rates looks at the verdicts of this many seconds.
WINDOW = 30

#: The rule of rates applies to at least this many verdicts.
MIN_VERDICTS = 20

#: An ejection is not doubled more often than this, for a ``max_time`` that is endless.
MAX_LEVEL = 60

NEVER = math.inf

_ROUNDING = 1e-9  # 0.29 * 100 is less than 29


def may_eject(*, ejected: int, failing: int, total: int, max_ejected: float) -> bool:
    """Return True if one more backend of a priority may be ejected.

    This guard takes the place of a panic threshold. All counts are of one priority: `ejected`
    and `failing` are the *other* backends that are ejected, and those that are not but are
    known to fail; `total` are all. With the new one they may be at most `max_ejected` of all,
    and a backend that works must remain, so the only backend is never ejected.
    """
    out = ejected + failing + 1
    return out < total and out <= max_ejected * total + _ROUNDING


@final
class Action(enum.Enum):
    """The consequence of a verdict."""

    NOTHING = "nothing"
    EJECT = "eject"
    """Call `Ejector.eject`, if `may_eject` allows it or the backend is ejected already."""
    RESTORE = "restore"
    """The trial was good: the backend is back."""


class Tally:
    """A count of good claims.

    To record the end of a good claim that began before `clean_until`, it is enough to add 1 to
    `good`. This makes the end of almost all claims cheap.
    """

    __slots__ = ("clean_until", "good")

    def __init__(self, clean_until: float) -> None:
        self.clean_until: float = clean_until
        self.good: int = 0


#: In place of a count: no claim is counted by this one, since none begins before all time.
COUNTS_NOTHING: Final = Tally(clean_until=-math.inf)


@final
class Ejector(Tally):
    """The verdicts of the claims on one backend, and its ejections.

    A number of bad verdicts in a row, or too large a part of the recent ones, ejects a backend.
    It then gets no claims for some seconds, twice as long as the last time if that was not long
    ago. After that the next claim is a trial:

        usable ── eject ──> ejected ── begin_trial ──> on trial ── good ──> usable
                               ^                          │
                               └── bad: eject again ──────┤
                               └── no verdict: end_trial ─┘

    Verdicts of claims that began before the ejection are ignored, also after it.

    The rules follow Envoy's outlier detection (consecutive errors, failure percentage, the
    multiplied ejection time) and Finagle's failure accrual (the probe).

    Cost: almost all verdicts are good. They cost the caller a comparison, except once a second
    and after a bad one::

        if began < ejector.clean_until:
            ejector.good += 1
        else:
            action = ejector.record(failed=False, began=began, now=now)

    The time at which the claim began is at hand; to ask for the time at its end would cost 1 %
    of a claim. So such a verdict is dated between the begin and the end of its claim. That is
    precise enough, because the good verdicts are compared with the bad ones, and each bad one
    begins a new count.
    """

    __slots__ = (
        "_bad",
        "_buckets",
        "_config",
        "_consecutive",
        "_ejected_at",
        "_level",
        "_rng",
        "_total",
        "ejected_until",
        "is_on_trial",
        "reason",
    )

    # As in the base class: for `pyright --verifytypes`, which looks at each class by itself.
    clean_until: float
    good: int

    def __init__(self, config: Ejection, rng: random.Random) -> None:
        # `clean_until` is the end of the second of the latest bucket, or past.
        super().__init__(clean_until=-math.inf)
        self._config: Ejection = config
        self._rng: random.Random = rng
        #: The verdicts of each second with any, oldest first: [second, verdicts, bad ones]. A
        #: list of at most `WINDOW`: an empty deque would take ten times as much.
        self._buckets: list[list[int]] = []
        self._total: int = 0
        self._bad: int = 0
        self._consecutive: int = 0
        self._ejected_at: float = -math.inf
        self._level: int = 0
        #: When the next claim is the trial; `None` if the backend is not ejected.
        self.ejected_until: float | None = None
        self.is_on_trial: bool = False
        #: The reason of the present or the last ejection, or of the one that is asked for.
        self.reason: str = ""

    def configure(self, config: Ejection) -> None:
        """Follow other rules from the next verdict on. A present ejection keeps its time."""
        self._config = config
        self.clean_until = -math.inf

    @property
    def is_clean(self) -> bool:
        """True if the backend is not ejected, and has no bad verdict that counts."""
        return not self._bad and self.ejected_until is None

    @property
    def is_ejected(self) -> bool:
        """True if the backend may get no claims but trials."""
        return self.ejected_until is not None

    @property
    def trial_at(self) -> float:
        """The time from which the next claim is the trial; never if none is wanted."""
        if self.ejected_until is None or self.is_on_trial:
            return NEVER
        return self.ejected_until

    # Verdicts.

    def record(self, *, failed: bool, began: float, now: float) -> Action:
        """Record the verdict at `now` of a claim that began at the time `began`."""
        if began <= self._ejected_at:
            return Action.NOTHING
        if self.ejected_until is not None:
            return self._end_trial_by(failed=failed)
        self._count(failed=failed, now=now)
        self._consecutive = self._consecutive + 1 if failed else 0
        if self._is_bad():
            self.clean_until = -math.inf
            return Action.EJECT
        self.clean_until = math.floor(now) + 1.0 if self._are_good_ones_harmless() else -math.inf
        return Action.NOTHING

    def _end_trial_by(self, *, failed: bool) -> Action:
        if failed:
            self.reason = "the trial claim failed"
            return Action.EJECT
        self.restore()
        return Action.RESTORE

    def _is_bad(self) -> bool:
        if self._consecutive >= self._config.failures:
            self.reason = f"{self._consecutive} claims in a row failed"
            return True
        if not self._bad or self._total < MIN_VERDICTS:
            return False
        if self._bad < self._config.failure_rate * self._total - _ROUNDING:
            return False
        self.reason = f"{self._bad} of {self._total} claims within {WINDOW} s failed"
        return True

    def _are_good_ones_harmless(self) -> bool:
        """Return True if more good verdicts in this second cannot eject the backend.

        A good verdict after a bad one has to end the row, and one that is the 20th of the window
        can make the rate of the bad ones count. All others only lower the rate.
        """
        return not self._consecutive and (not self._bad or self._total >= MIN_VERDICTS)

    # Counting.

    def _count(self, *, failed: bool, now: float) -> None:
        second = math.floor(now)
        if self.good:
            # Those that the caller has counted are of the latest bucket.
            self._buckets[-1][1] += self.good
            self._total += self.good
            self.good = 0
        self._expire(second)
        if not self._buckets or self._buckets[-1][0] != second:
            self._buckets.append([second, 0, 0])
        self._buckets[-1][1] += 1
        self._total += 1
        if failed:
            self._buckets[-1][2] += 1
            self._bad += 1

    def _expire(self, second: int) -> None:
        while self._buckets and self._buckets[0][0] <= second - WINDOW:
            _, verdicts, bad = self._buckets.pop(0)
            self._total -= verdicts
            self._bad -= bad

    def _forget(self) -> None:
        """Forget all verdicts, because the backend starts again."""
        self._buckets.clear()
        self._total = self._bad = self._consecutive = self.good = 0
        self.clean_until = -math.inf

    # Ejections.

    def eject(self, now: float) -> float:
        """Begin an ejection, or after a failed trial another; return its length in seconds."""
        self._decay(now)
        if self._longest() < self._config.max_time and self._level < MAX_LEVEL:
            self._level += 1
        seconds = self._longest() * self._rng.uniform(0.5, 1.0)
        self._forget()
        self._ejected_at = now
        self.ejected_until = now + seconds
        self.is_on_trial = False
        return seconds

    def _longest(self) -> float:
        """The longest ejection of this level, in seconds; 0 if there was none lately."""
        if not self._level:
            return 0.0
        return min(self._config.base_time * 2.0 ** (self._level - 1), self._config.max_time)

    def _decay(self, now: float) -> None:
        """Lower the level by one for each ``base_time * 2 ** level`` seconds of peace."""
        peace = now - self._ejected_at
        while self._level and peace >= (step := self._config.base_time * 2.0**self._level):
            peace -= step
            self._level -= 1

    def begin_trial(self, now: float) -> None:
        """Record that the claim which begins now is the trial."""
        assert self.trial_at <= now, "the ejection is not over"
        self.is_on_trial = True

    def end_trial(self) -> None:
        """Record that the trial has ended without a verdict: the next claim is the trial."""
        self.is_on_trial = False

    def restore(self) -> None:
        """End the ejection.

        After a good trial, and for all ejected backends of a priority as soon as no other
        backend of it is online. The next ejection is longer if it comes soon.
        """
        self.ejected_until = None
        self.is_on_trial = False
        self._forget()
