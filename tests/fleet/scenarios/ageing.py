"""Scenarios of a fleet that started together, and is old."""

from __future__ import annotations

import math

import attrs
import trio

from qorb_trio import SetConfig

from ..findings import Chart, Figure, Findings, Points
from ..fleet import POLICY, Size, fleet_of
from ..hosts import FleetConnector, Link
from ..measures import chance_limit, per_interval

HOUR = 3600.0
LIFETIME = 1800.0


class CheckedConnector(FleetConnector):
    """A connector that notes when each health check begins."""

    async def is_valid(self, conn: Link) -> bool:
        self.ledger.checks.append(trio.current_time())
        await trio.sleep(0.001)
        return not conn.is_broken


async def lifetimes(size: Size) -> Findings:
    """Let all connections have a maximum age, and watch the second hour."""
    config = SetConfig(max_lifetime=LIFETIME * size.duration, health_interval=float("inf"))
    policy = attrs.evolve(POLICY, set_config=config)
    hour = HOUR * size.duration
    async with fleet_of(size) as fleet:
        await fleet.open(policy=policy)
        await trio.sleep(2 * hour - trio.current_time())
        working = sum(fleet.counts())
    opened = [time for time, _, _ in fleet.ledger.opened]
    figures, chart = _evenness("connections opened", opened, hour)
    slots = POLICY.max_slots * size.clients
    figures.append(Figure("slots connected afterwards, %", 100 * working / slots, 99, "at least"))
    return Findings(figures, chart)


async def health_checks(size: Size) -> Findings:
    """Let all idle connections be checked every thirty seconds, and watch after an hour."""
    async with fleet_of(size, connector=CheckedConnector) as fleet:
        await fleet.open()
        begin = HOUR * size.duration
        end = begin + max(60, 300 * size.duration)
        await trio.sleep(end - trio.current_time())
    figures, chart = _evenness("health checks", fleet.ledger.checks, begin, end)
    return Findings(figures, chart)


def _evenness(
    what: str, times: list[float], begin: float, end: float | None = None
) -> tuple[list[Figure], Chart]:
    """Compare the worst second with the mean.

    In a small fleet an interval is longer than a second, so that ten events fall into it.
    """
    end = 2 * begin if end is None else end
    per_second = sum(begin <= time < end for time in times) / (end - begin)
    width = max(1.0, math.ceil(10 / per_second))
    counts = per_interval(times, begin, end, width)[:-1]
    mean = sum(counts) / len(counts)
    chance = chance_limit(mean, len(counts)) / mean
    figures = [
        Figure(
            f"{what}, worst {width:.0f} s / mean",
            max(counts) / mean,
            max(3.0, chance),
            note=f"chance alone stays below {chance:.2f} in 99 of 100 runs",
        ),
        Figure(f"{what} per second, mean", per_second),
    ]
    lines = {
        "at first": _line(per_interval(times, 0, begin, width), width),
        "after an hour": _line(counts, width),
    }
    return figures, Chart(f"{what.capitalize()} of the fleet", "seconds", "per second", lines)


def _line(counts: list[int], width: float) -> Points:
    """Return the points of a line over ten minutes."""
    return [(i * width, n / width) for i, n in enumerate(counts) if i * width <= 600]
