"""The weight of a backend that has just come online. Pure."""

from __future__ import annotations

import math

#: The number of steps in which the weight rises, and the part of it with which it begins.
STEPS = 10
FIRST = 0.1


def weight_factor(online_since: float, now: float, seconds: float) -> float:
    """Return the part of its weight, from 0.1 to 1, that a backend has for the balancer.

    It rises in ten equal steps over `seconds` after `online_since`. It is always 1 if `seconds`
    is 0. This is Envoy's slow start, in steps, so that a weight changes only ten times.
    """
    return FIRST + (1.0 - FIRST) * _steps_done(online_since, now, seconds) / STEPS


def next_step_at(online_since: float, now: float, seconds: float) -> float:
    """Return when `weight_factor` changes next; ``math.inf`` if it is 1 already."""
    done = _steps_done(online_since, now, seconds)
    return math.inf if done == STEPS else _time_of(done + 1, online_since, seconds)


def _steps_done(online_since: float, now: float, seconds: float) -> int:
    # By comparison with the very times that `next_step_at` returns. A division could round the
    # other way, and a caller that waits until such a time would find nothing changed.
    return sum(_time_of(step, online_since, seconds) <= now for step in range(1, STEPS + 1))


def _time_of(step: int, online_since: float, seconds: float) -> float:
    return online_since + seconds * step / STEPS
