"""Scenarios in which backends come, go, and die one after another."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

import attrs
import trio

from qorb_trio import SetConfig

from ..findings import Chart, Figure, Findings, Points
from ..fleet import POLICY, Fleet, Size, fleet_of
from ..hosts import Host
from ..measures import even_limit, falling, quantile, spread

SLOTS = POLICY.max_slots
INTERVAL = POLICY.rebalance_interval

#: Without health checks, for many minutes in which nothing fails.
UNCHECKED = attrs.evolve(POLICY, set_config=SetConfig(health_interval=math.inf))


async def rolling_restart(size: Size) -> Findings:
    """Restart 2 % of the backends at a time, drained through the resolver."""
    return await _rolling(size, is_drained=True)


async def rolling_kill(size: Size) -> Findings:
    """Restart 2 % of the backends at a time without draining them."""
    return await _rolling(size, is_drained=False)


async def _rolling(size: Size, *, is_drained: bool) -> Findings:
    samples: Points = []
    async with fleet_of(size) as fleet:
        await fleet.open()
        await trio.sleep(5)
        began = trio.current_time()
        with trio.CancelScope() as scope:
            fleet.nursery.start_soon(_endless_load, fleet, scope)
            for group in _groups(fleet):
                await _restart(fleet, group, is_drained=is_drained)
                samples.append((trio.current_time() - began, spread(fleet.counts())))
            scope.cancel()
        await trio.sleep(5)
        counts = fleet.counts()
    claims = fleet.claims
    figures = [
        Figure("claims refused", claims.refused, 0),
        Figure("claims lent a broken connection", claims.unexpected, 0),
        Figure("claims cut, their backend was killed", claims.broken, 0 if is_drained else None),
        Figure("longest wait for a connection, ms", 1000 * max(claims.waits), 1000),
        Figure("99 % of the waits are below, ms", 1000 * quantile(claims.waits, 0.99)),
        Figure("claims", claims.made),
        Figure("connections afterwards, busiest / mean", spread(counts), even_limit(counts)),
        Figure("slots connected afterwards, %", 100 * sum(counts) / (SLOTS * size.clients)),
    ]
    chart = Chart(
        "Evenness during a rolling restart",
        "seconds since its beginning",
        "connections of the busiest backend / mean",
        {"drained" if is_drained else "killed": samples},
    )
    return Findings(figures, chart)


async def _endless_load(fleet: Fleet, scope: trio.CancelScope) -> None:
    while not scope.cancel_called:
        await fleet.load(LOAD, 1)


#: Claims of one client per second while backends restart.
LOAD = 0.5


def _groups(fleet: Fleet) -> Iterator[list[Host]]:
    """Return the backends in fifty groups, or one by one if there are fewer.

    In a shorter run, not all of them are restarted.
    """
    step = max(1, len(fleet.hosts) // 50)
    for first in range(0, int(len(fleet.hosts) * fleet.size.duration), step):
        yield fleet.hosts[first : first + step]


async def _restart(fleet: Fleet, group: list[Host], *, is_drained: bool) -> None:
    """Restart some backends, in five seconds."""
    if is_drained:
        leaving = set(group)
        fleet.publish([host for host in fleet.hosts if host not in leaving])
        await trio.sleep(2)
    for host in group:
        host.stop()
    await trio.sleep(2)
    for host in group:
        host.start()
    if is_drained:
        fleet.publish()
    await trio.sleep(1 if is_drained else 3)


async def third_lost(size: Size) -> Findings:
    """Lose a third of the backends at once: half of them refuse, half of them hang."""
    samples: Points = []
    async with fleet_of(size) as fleet:
        await fleet.open()
        await trio.sleep(10)
        lost = fleet.hosts[::3]
        for i, host in enumerate(lost):
            host.stop("hangs" if i % 2 else "refuses")
        survivors = [host for host in fleet.hosts if host.state == "up"]
        fleet.nursery.start_soon(fleet.load, 0.5, 2.5 * INTERVAL)
        fair = SLOTS * size.clients / len(survivors)
        after_two: list[int] = []
        for second in range(0, int(2.5 * INTERVAL) + 1, 5):
            counts = fleet.counts(survivors)
            samples.append((float(second), max(counts) / fair))
            if second <= 2 * INTERVAL:
                after_two = counts
            await trio.sleep(5)
        settled = next((s for s, _ in samples if _is_even(samples, s)), 999.0)
        busiest = _busiest(survivors) * len(survivors) / size.clients
    figures = [
        Figure("rebalance intervals until even again", settled / INTERVAL, 2),
        Figure(
            "connections after 2 intervals, busiest / mean",
            spread(after_two),
            even_limit(after_two),
        ),
        Figure("worst moment, busiest / mean", max(y for _, y in samples), even_limit(after_two)),
        Figure(
            "slots connected after 2 intervals, %", 100 * sum(after_two) / fair / len(survivors)
        ),
        Figure("claims refused", fleet.claims.refused, 0),
    ]
    chart = Chart(
        "The busiest survivor after a third of the backends was lost",
        "seconds since the loss",
        "connections / fair share",
        {"qorb_trio": samples},
    )
    comparable = {
        "busiest survivor / mean": spread(after_two),
        "claims of the busiest survivor / fair": busiest,
        "% of the connections left": 100 * sum(after_two) / (SLOTS * size.clients),
    }
    return Findings(figures, chart, comparable)


def _busiest(hosts: list[Host]) -> float:
    """Return the load of the busiest host, if each client spreads a load of 1 evenly."""
    mine = Counter(link.client for host in hosts for link in host.links)
    return max(sum(1 / mine[link.client] for link in host.links) for host in hosts)


def _is_even(samples: Points, since: float) -> bool:
    """Return True if no later sample is more than a tenth above the last one."""
    last = samples[-1][1]
    return all(value <= 1.1 * last for second, value in samples if second >= since)


async def doubled(size: Size) -> Findings:
    """Double the number of backends while the clients run."""
    samples: Points = []
    async with fleet_of(size) as fleet:
        old, new = fleet.hosts[::2], fleet.hosts[1::2]
        fleet.publish(old)
        await fleet.open(policy=UNCHECKED)
        await trio.sleep(INTERVAL + 5)
        fleet.publish()
        began = trio.current_time()
        for interval in range(11):
            await trio.sleep(5 if interval == 0 else INTERVAL)
            share = 100 * sum(fleet.counts(new)) / max(1, sum(fleet.counts()))
            samples.append((float(interval), share))
        counts = fleet.counts()
    most = _most_closed(fleet, began, began + 10 * INTERVAL)
    at = dict(samples)
    figures = [
        Figure("connections on the new half after 1 rebalance, %", at[1]),
        Figure("connections on the new half after 5 rebalances, %", at[5]),
        Figure("connections on the new half after 10 rebalances, %", at[10], 45, "at least"),
        Figure("closed per client and rebalance, mean", _mean_closed(fleet, began) / 10, 1),
        Figure("closed per client and interval, most", most, 1),
        Figure(
            "connections after 10 rebalances, busiest / mean", spread(counts), even_limit(counts)
        ),
    ]
    chart = Chart(
        "Share of the connections on the new half of the backends",
        "rebalances since the number was doubled",
        "%",
        {"qorb_trio": samples},
    )
    first = sum(began <= time < began + INTERVAL for time, _ in fleet.ledger.closed)
    comparable = {
        "% on the new half after 10 minutes": at[10],
        "closed per client in the first minute": first / size.clients,
        "closed per client and minute, mean": _mean_closed(fleet, began) / 10,
    }
    return Findings(figures, chart, comparable)


def _mean_closed(fleet: Fleet, began: float) -> float:
    closed = [time for time, _ in fleet.ledger.closed if began <= time < began + 10 * INTERVAL + 5]
    return len(closed) / fleet.size.clients


def _most_closed(fleet: Fleet, began: float, end: float) -> int:
    """Return the largest number of connections that a client closed in one interval."""
    # The clients' rebalances fall at different times, so a window holds two of some of them.
    counts = Counter(
        (client, int((time - began) / INTERVAL))
        for time, client in fleet.ledger.closed
        if began <= time < end
    )
    return max(counts.values(), default=0)


async def weights(size: Size) -> Findings:
    """Give the backends the weights 1, 2 and 4 in turn."""
    classes = (1, 2, 4)
    async with fleet_of(size, weights=classes) as fleet:
        await fleet.open(policy=UNCHECKED)
        await trio.sleep(5)
        first = _deviation(fleet, classes)
        await trio.sleep(10 * INTERVAL)
        counts = fleet.counts()
        later = _deviation(fleet, classes)
    chart = Chart(
        "Connections per backend, by weight",
        "backends of the class, busiest first, %",
        "connections",
        {f"weight {w}": falling(counts[i :: len(classes)]) for i, w in enumerate(classes)},
    )
    # A share of p among n connections has the relative deviation sqrt((1 - p) / (p * n)).
    chance = 300 * math.sqrt(sum(classes[1:]) / SLOTS / size.clients)
    note = f"three standard deviations of chance are {chance:.1f} %"
    figures = [
        Figure(
            "share of a class, largest deviation from fair, %", first, max(5, chance), note=note
        ),
        Figure("the same after ten rebalances, %", later, max(5, chance), note=note),
    ]
    return Findings(figures, chart)


def _deviation(fleet: Fleet, classes: tuple[int, ...]) -> float:
    """Return by how many percent the share of some class is not fair."""
    counts = fleet.counts()
    worst = 0.0
    total_weight = sum(host.backend.weight for host in fleet.hosts)
    for weight in classes:
        mine = [i for i, host in enumerate(fleet.hosts) if host.backend.weight == weight]
        fair = weight * len(mine) / total_weight
        share = sum(counts[i] for i in mine) / sum(counts)
        worst = max(worst, abs(share / fair - 1))
    return 100 * worst
