"""Scenarios in which the DNS answers badly."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

import trio

from qorb_trio import Policy, SetConfig, open_pool
from qorb_trio.resolvers import DnsResolver

from ...dns.net import FakeNet
from ..findings import Chart, Figure, Findings, Points
from ..fleet import Fleet, Size, client_rng, fleet_of
from ..hosts import FleetConnector

SERVICE = "_fleet._tcp.test.com"
RECORDS = 10
TTL = 30
#: Seconds for which each trouble lasts, and for which answers that flap last at least.
SECONDS, SECONDS_OF_FLAPPING = 1200.0, 240.0
#: The most connections of a client in those seconds. The first two rounds of flapping are
#: followed, so that a shorter run has as many in all.
MAX_OPENED = 20.0
#: Without health checks, since no connection breaks.
POLICY = Policy(spares_wanted=8, max_slots=16, set_config=SetConfig(health_interval=float("inf")))


def _srv(numbers: range | list[int]) -> list[str]:
    return [f"1 1 {6000 + i} host{i}.test.com." for i in numbers]


def _zone() -> FakeNet:
    net = FakeNet()
    net.set(SERVICE, "SRV", *_srv(range(RECORDS)), ttl=TTL)
    for i in range(RECORDS):
        net.set(f"host{i}.test.com", "A", f"10.1.0.{i}", ttl=3600)
    return net


async def _late(net: FakeNet, rng: random.Random, seconds: float) -> None:
    """Let each answer take up to twelve seconds, more than the resolver's patience."""
    net.fault(lambda _: rng.uniform(0, 12))
    await trio.sleep(seconds)


async def _stale(net: FakeNet, rng: random.Random, seconds: float) -> None:
    """Let the nameserver fail for as long as it lasts."""
    net.fault("SERVFAIL")
    await trio.sleep(seconds)


async def _partial(net: FakeNet, rng: random.Random, seconds: float) -> None:
    """Let each answer have three of the ten records, others each time."""
    await _each_second(net, seconds, lambda _: rng.sample(range(RECORDS), 3))


async def _flapping(net: FakeNet, rng: random.Random, seconds: float) -> None:
    """Take away half of the records in every other lifetime of an answer."""
    await _each_second(
        net, seconds, lambda now: list(range(RECORDS if int(now / TTL) % 2 else RECORDS // 2))
    )


async def _each_second(net: FakeNet, seconds: float, numbers: Callable[[float], list[int]]) -> None:
    until = trio.current_time() + seconds
    while (now := trio.current_time()) < until:
        net.set(SERVICE, "SRV", *_srv(numbers(now)), ttl=TTL)
        await trio.sleep(1)


TROUBLES = {"late": _late, "stale": _stale, "partial": _partial, "flapping": _flapping}


async def dns(size: Size) -> Findings:
    """Let the DNS answer late, not at all, partially, and differently each time."""
    figures: list[Figure] = []
    lines: dict[str, Points] = {}
    for name, trouble in TROUBLES.items():
        seconds, limit = SECONDS * size.duration, 1.0
        if name == "flapping":
            seconds = max(seconds, SECONDS_OF_FLAPPING)
            limit = MAX_OPENED / (seconds / 60)
        opened, refused, line = await _with_trouble(size, trouble, seconds)
        figures.append(Figure(f"{name}: connections opened per client and minute", opened, limit))
        figures.append(Figure(f"{name}: claims failed", refused, 0))
        lines[name] = line
    chart = Chart("Connections opened since the trouble began", "minutes", "per client", lines)
    return Findings(figures, chart)


async def _with_trouble(
    size: Size, trouble: Callable[[FakeNet, random.Random, float], Awaitable[None]], seconds: float
) -> tuple[float, float, Points]:
    small = Size(size.clients, RECORDS, size.seed)
    net = _zone()
    async with fleet_of(small, naming=lambda i: f"host{i}.test.com:{6000 + i}@10.1.0.{i}") as fleet:
        for client in range(size.clients):
            fleet.nursery.start_soon(_client, fleet, client, net)
        # A pool's first turn comes a minute after its start, whatever the DNS does.
        await trio.sleep(max(30, 90 * size.duration))
        began = trio.current_time()
        fleet.nursery.start_soon(fleet.load, 0.2, seconds)
        await trouble(net, fleet.rng, seconds)
    times = [time - began for time, _, _ in fleet.ledger.opened if time >= began]
    line = [
        (float(minute), sum(t < 60 * minute for t in times) / size.clients) for minute in range(21)
    ]
    failed = 0.0 + fleet.claims.refused + fleet.claims.broken + (fleet.claims.made == 0)
    return len(times) / size.clients / (seconds / 60), failed, line


async def _client(fleet: Fleet, client: int, net: FakeNet) -> None:
    rng = client_rng(fleet.size, client)
    await trio.sleep(rng.uniform(0, 5))
    resolver = DnsResolver(SERVICE, nameservers=net.servers, rng=rng, transport=net)
    connector = FleetConnector(client, fleet.by_name, fleet.ledger)
    async with open_pool(
        fleet.nursery, resolver, connector, policy=POLICY, rng=client_rng(fleet.size, client)
    ) as pool:
        fleet.pools[client] = pool
        await trio.sleep_forever()
