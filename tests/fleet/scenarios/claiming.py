"""Scenarios in which one backend serves its claims badly."""

from __future__ import annotations

import attrs
import trio

from qorb_trio import (
    Balancer,
    LeastLoaded,
    MappedResolver,
    PeakEwma,
    Policy,
    RoundRobin,
    open_pool,
    subset,
)

from ..findings import Chart, Figure, Findings, Points
from ..fleet import POLICY, Fleet, Size, client_rng, fleet_of
from ..hosts import FleetConnector

#: Each client uses this many backends, four connections to each.
SERVICE = 4
#: Claims of one client per second, and for how many seconds.
RATE, SECONDS = 40.0, 60.0
#: Number of the backend's clients that are simulated, since the others see nothing of it.
USERS = 8
#: Failed claims that `traffic.md`'s scenario allows one client in two minutes.
FAILED_CLAIMS = 12.0


def users_of(fleet: Fleet, victim: int) -> list[int]:
    """Return the first clients whose subset has that backend."""
    name = fleet.hosts[victim].backend.name
    backends = [host.backend for host in fleet.hosts]
    users: list[int] = []
    client = 0
    while len(users) < min(USERS, fleet.size.clients):
        if any(backend.name == name for backend in subset(SERVICE, seed=client)(backends)):
            users.append(client)
        client += 1
    return users


async def _open_user(fleet: Fleet, client: int, policy: Policy, balancer: Balancer) -> None:
    async with open_pool(
        fleet.nursery,
        MappedResolver(fleet.resolver, subset(SERVICE, seed=client)),
        FleetConnector(client, fleet.by_name, fleet.ledger),
        policy=policy,
        balancer=balancer,
        rng=client_rng(fleet.size, client),
    ) as pool:
        fleet.pools[client] = pool
        await trio.sleep_forever()


async def _use(size: Size, balancer: Balancer, policy: Policy, kind: str) -> tuple[float, float]:
    """Return the victim's share of its clients' claims, and the failures per client, as %."""
    async with fleet_of(size, service_time=0.025) as fleet:
        victim = fleet.hosts[0]
        if kind == "slow":
            victim.service_time *= 10
        for client in users_of(fleet, 0):
            fleet.nursery.start_soon(_open_user, fleet, client, policy, balancer)
        await trio.sleep(5)
        victim.fails_requests = kind == "fails"
        await fleet.load(RATE, SECONDS * size.duration)
    return 100 * victim.requests / fleet.claims.made, fleet.claims.broken / len(fleet.pools)


async def slow_backend(size: Size) -> Findings:
    """Make one backend ten times slower than the others."""
    figures: list[Figure] = []
    points: Points = []
    targets: tuple[tuple[Balancer, float], ...] = (
        (PeakEwma(), 3.0),
        (LeastLoaded(), 9.0),
        (RoundRobin(), 26.0),
    )
    for place, (balancer, target) in enumerate(targets):
        share, _ = await _use(size, balancer, POLICY, "slow")
        name = type(balancer).__name__
        figures.append(Figure(f"{name}: its share of its clients' claims, %", share, target))
        points.append((place, share))
    chart = Chart(
        "Share of a slow backend (PeakEwma, LeastLoaded, RoundRobin)",
        "balancer",
        "% of the claims, fair are 25",
        {"qorb_trio": points},
    )
    return Findings(figures, chart)


async def failing_backend(size: Size) -> Findings:
    """Make one backend fail each request after a millisecond."""
    on_share, on_failed = await _use(size, LeastLoaded(), POLICY, "fails")
    off = attrs.evolve(POLICY, ejection=None)
    off_share, off_failed = await _use(size, LeastLoaded(), off, "fails")
    figures = [
        Figure("failed claims per client, with ejection", on_failed, FAILED_CLAIMS),
        Figure("failed claims per client, without ejection", off_failed),
        Figure("its share of its clients' claims, with ejection, %", on_share),
        Figure("its share of its clients' claims, without ejection, %", off_share),
    ]
    chart = Chart(
        "Failed claims per client (with and without ejection)",
        "without, with",
        "failed claims",
        {"qorb_trio": [(0, off_failed), (1, on_failed)]},
    )
    return Findings(figures, chart)
