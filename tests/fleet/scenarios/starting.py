"""Scenarios in which everything starts, or comes back, at the same time."""

from __future__ import annotations

import attrs
import trio

from ..findings import Chart, Figure, Findings, Points
from ..fleet import POLICY, Fleet, Size, fleet_of
from ..measures import chance_limit, even_limit, falling, per_interval, spread, worst_cell

START = 5.0
OUTAGE = 10.0
OUTAGE_BUSY = 3.0
SLOTS = POLICY.max_slots
#: The most dials of a client per second, on average over ten seconds in which nothing answers.
#: A shorter outage may have as many in all, because most of them come at its beginning.
MAX_DIALS = 50.0


async def cold_start(size: Size) -> Findings:
    """Start all clients within five seconds."""
    async with fleet_of(size) as fleet:
        await fleet.open(within=START)
        await trio.sleep(5)
        counts = fleet.counts()
    fair = SLOTS * size.clients / size.backends / START
    worst = worst_cell(fleet.ledger.dials, 0, START + 5)
    chance = chance_limit(fair, size.backends * int(START)) / fair
    figures = [
        Figure("connections, busiest backend / mean", spread(counts), even_limit(counts)),
        Figure(
            "dials of a backend in a second, worst / fair",
            worst / fair,
            max(3.0, chance),
            note=f"chance alone stays below {chance:.2f} in 99 of 100 runs",
        ),
        Figure("dials per client", len(fleet.ledger.dials) / size.clients, SLOTS),
    ]
    chart = Chart(
        "Connections per backend after a cold start",
        "backends, busiest first, %",
        "connections",
        {"qorb_trio": falling(counts)},
    )
    comparable = {
        "busiest backend / mean": spread(counts),
        "connections per client": sum(counts) / size.clients,
        "connections of the busiest backend": float(max(counts)),
    }
    return Findings(figures, chart, comparable)


async def restart_all(size: Size) -> Findings:
    """Stop all backends for ten seconds, and start them at the same instant."""
    return await _restart_all(size, OUTAGE * size.duration, rate=0)


async def restart_busy(size: Size) -> Findings:
    """Stop all backends for three seconds, while the clients make claims."""
    return await _restart_all(size, OUTAGE_BUSY * size.duration, rate=2)


async def _restart_all(size: Size, seconds: float, rate: float) -> Findings:
    slots = SLOTS * size.clients
    back: Points = []
    async with fleet_of(size) as fleet:
        policy = POLICY if rate else attrs.evolve(POLICY, claim_timeout=0.5)
        await fleet.open(within=START, policy=policy)
        await trio.sleep(10)
        down = trio.current_time()
        await _outage(fleet, seconds, rate)
        returned = trio.current_time()
        for tenth in range(200):
            back.append((tenth / 10, 100 * sum(fleet.counts()) / slots))
            await trio.sleep(0.1)
        counts = fleet.counts()
    fair = slots / size.backends
    worst = worst_cell(fleet.ledger.dials, returned, returned + 20)
    meanwhile = sum(down <= time < returned for time, _ in fleet.ledger.dials)
    figures = [
        Figure(
            "dials per client and second while everything is down",
            meanwhile / size.clients / seconds,
            None if rate else MAX_DIALS / size.duration,
        ),
        Figure(
            "dials of a backend in a second, worst / fair share",
            worst / fair,
            max(4.0, chance_limit(fair, size.backends) / fair),
        ),
        Figure(
            "seconds until 99 % of the slots are back",
            next((time for time, percent in back if percent >= 99), 999.0),
            10,
        ),
        Figure("connections after 20 s, busiest / mean", spread(counts), even_limit(counts)),
    ]
    chart = Chart(
        "Slots that are back after a restart of all backends",
        "seconds since the return",
        "%",
        {"with claims" if rate else "no claims": back},
    )
    return Findings(figures, chart, {"dials of a backend in a second, worst": float(worst)})


async def _outage(fleet: Fleet, seconds: float, rate: float) -> None:
    """Stop all backends for some seconds.

    Each client notices at once, by a claim. With a rate, clients go on making claims.
    """
    for host in fleet.hosts:
        host.stop()
    fleet.claim_each()
    if rate:
        fleet.nursery.start_soon(fleet.load, rate, seconds)
    await trio.sleep(seconds)
    for host in fleet.hosts:
        host.start()


async def thundering_return(size: Size) -> Findings:
    """Stop the service of 200 clients for two minutes, with and without claims."""
    quiet, lines = await _two_minutes_down(size, 0.0)
    # While claims wait, the dials are steady after seconds, so half of a short time is enough.
    duration = size.duration * min(1.0, 2 * size.duration)
    busy, more = await _two_minutes_down(attrs.evolve(size, duration=duration), 1.0)
    chart = Chart(
        "Dials per second while the service is down for two minutes",
        "seconds since the end of the service",
        "dials of all clients",
        lines | more,
    )
    return Findings(quiet + busy, chart)


async def _two_minutes_down(
    size: Size, rate: float
) -> tuple[list[Figure], dict[str, list[tuple[float, float]]]]:
    policy = attrs.evolve(POLICY, claim_timeout=5)
    seconds = int(120 * size.duration)
    async with fleet_of(size) as fleet:
        await fleet.open(within=START, policy=policy)
        await trio.sleep(10)
        down = trio.current_time()
        await _outage(fleet, seconds, rate)
        await trio.sleep(60)
        working = sum(fleet.counts())
    times = [time for time, _ in fleet.ledger.dials]
    dials = per_interval(times, down, down + seconds + 60)
    name = "claims waiting" if rate else "no claims"
    late = dials[seconds // 2 : seconds]
    mean = sum(late) / len(late)
    figures = [
        Figure(
            f"{name}: dials, worst second / mean, second minute",
            max(late) / mean,
            max(3.0, chance_limit(mean, len(late)) / mean),
        ),
        Figure(
            f"{name}: % of the slots a minute after the return",
            100 * working / (SLOTS * size.clients),
            99,
            "at least",
        ),
    ]
    return figures, {name: [(float(i), float(n)) for i, n in enumerate(dials)]}
