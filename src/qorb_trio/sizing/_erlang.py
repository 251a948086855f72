"""`Queue`: the waiting times of claims by the formula of Erlang. Pure."""

from __future__ import annotations

import math
from typing import final

import attrs

from .. import _validation as _check


def _positive(_: object, field: attrs.Attribute[float], value: float) -> None:
    _check.seconds(field.name, value, zero=False, endless=False)


def _count(_: object, field: attrs.Attribute[int], value: int) -> None:
    _check.count(field.name, value, least=1)


@final
@attrs.frozen
class Queue:
    """A pool as a queue with several servers (M/M/c).

    Claims arrive independently of each other, and are held for exponentially distributed times.
    If all are held for the same time, they wait for about half as long as this says. If a few
    are held for very long, they wait for longer.

    Raises:
      TypeError, ValueError: naming the field that is wrong.
    """

    slots: int = attrs.field(validator=_count)
    """Number of connections that serve the claims."""

    rate: float = attrs.field(validator=_positive)
    """Number of claims per second."""

    hold: float = attrs.field(validator=_positive)
    """The mean time for which a claim is held, in seconds."""

    @property
    def load(self) -> float:
        """The mean number of connections in use, as long as that is less than `slots`."""
        return self.rate * self.hold

    @property
    def utilisation(self) -> float:
        """The part of the time for which a connection is in use; 1 or more is overload."""
        return self.load / self.slots

    @property
    def waiting_probability(self) -> float:
        """The probability that a claim has to wait: Erlang's C formula. 1 under overload."""
        if self.utilisation >= 1:
            return 1.0
        blocked = 1.0  # Erlang's B formula, by its recurrence, which does not overflow
        for servers in range(1, self.slots + 1):
            blocked = self.load * blocked / (servers + self.load * blocked)
        return blocked / (1 - self.utilisation * (1 - blocked))

    @property
    def mean_wait(self) -> float:
        """The mean waiting time of all claims, in seconds; infinite under overload."""
        if self.utilisation >= 1:
            return math.inf
        return self.waiting_probability * self.hold / (self.slots - self.load)

    def wait_quantile(self, part: float) -> float:
        """Return the waiting time, in seconds, within which that part of the claims is served.

        Raises:
          TypeError, ValueError: if `part` is not from 0 to less than 1.
        """
        _check.fraction("part", part)
        if part >= 1 or self.utilisation >= 1:
            return math.inf
        waiting = self.waiting_probability
        if waiting <= 1 - part:
            return 0.0
        return math.log(waiting / (1 - part)) * self.hold / (self.slots - self.load)


def slots_for(rate: float, hold: float, *, waiting: float = 0.01) -> int:
    """Return the smallest number of connections at which few claims have to wait.

    Args:
      rate: number of claims per second.
      hold: the mean time for which a claim is held, in seconds.
      waiting: the largest part of the claims that may have to wait; 1 % by default.

    Raises:
      TypeError, ValueError: naming the argument that is wrong.
    """
    _check.fraction("waiting", waiting, zero=False)
    slots = max(1, math.floor(Queue(1, rate, hold).load))
    while Queue(slots, rate, hold).waiting_probability > waiting:
        slots += 1
    return slots
