"""A fleet: its backends, its clients' pools, and the claims that they make."""

from __future__ import annotations

import gc
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar, final

import attrs
import trio

from qorb_trio import Backend, Balancer, ClaimError, LeastLoaded, Policy, Pool, open_pool
from qorb_trio.testing import ManualResolver

from ..harness.replay import seed_scheduler
from .clock import JumpingClock
from .hosts import FleetConnector, Host, Ledger, Link

T = TypeVar("T")

#: The numbers of every client, unless a scenario says otherwise: 16 connections each.
POLICY = Policy(spares_wanted=16, max_slots=16)


@final
@attrs.frozen
class Size:
    """The size of a fleet, and the seed from which everything in it follows."""

    clients: int = 1000
    backends: int = 1000
    seed: int = 1
    #: Factor by which the longest scenarios are shortened; 1 for all of them.
    duration: float = 1.0


@final
@attrs.define
class Claims:
    """Counts of the claims of a fleet."""

    made: int = 0
    #: Claims that got no connection in time.
    refused: int = 0
    #: Claims whose connection broke, or whose request failed.
    broken: int = 0
    #: Claims that were lent a connection which was known to be broken, or got a wrong error.
    unexpected: int = 0
    waits: list[float] = attrs.field(factory=list)


@final
class Fleet:
    """Backends and clients. Made by `run`, for the scenarios."""

    def __init__(
        self,
        size: Size,
        nursery: trio.Nursery,
        *,
        weights: Sequence[int] = (1,),
        connector: type[FleetConnector] = FleetConnector,
        naming: Callable[[int], str] = "backend {}".format,
        **of_hosts: Any,
    ) -> None:
        self.size = size
        self.rng = random.Random(f"fleet {size.seed}")
        self.nursery = nursery
        self.ledger = Ledger()
        self.claims = Claims()
        self.hosts = [
            Host(i, _backend(i, naming(i), weights[i % len(weights)]), **of_hosts)
            for i in range(size.backends)
        ]
        self.by_name = {host.backend.name: host for host in self.hosts}
        self.resolver = ManualResolver()
        self.pools: dict[int, Pool[Link]] = {}
        self._connector = connector

    def publish(self, hosts: Sequence[Host] | None = None) -> None:
        """Let the resolver send these hosts; all of them by default."""
        self.resolver.set([host.backend for host in (self.hosts if hosts is None else hosts)])

    async def open(
        self, *, policy: Policy = POLICY, within: float = 5.0, balancer: Balancer | None = None
    ) -> None:
        """Start all clients at random times within some seconds, and return after these."""
        for client in range(self.size.clients):
            delay = self.rng.uniform(0, within)
            self.nursery.start_soon(self._client, client, delay, policy, balancer or LeastLoaded())
        await trio.sleep(within)

    async def _client(self, client: int, delay: float, policy: Policy, balancer: Balancer) -> None:
        await trio.sleep(delay)
        async with open_pool(
            self.nursery,
            self.resolver,
            self._connector(client, self.by_name, self.ledger),
            policy=policy,
            name=f"client {client}",
            balancer=balancer,
            rng=client_rng(self.size, client),
        ) as pool:
            self.pools[client] = pool
            await trio.sleep_forever()

    async def load(
        self, rate: float, seconds: float, *, work: Callable[[], float] = lambda: 1.0
    ) -> None:
        """Let each client make claims at random, `rate` per second on average.

        `work` gives the factor by which a request takes longer than usual.
        """
        until = trio.current_time() + seconds
        clients = list(self.pools)
        async with trio.open_nursery() as nursery:
            while trio.current_time() < until:
                nursery.start_soon(self._claim, self.pools[self.rng.choice(clients)], work())
                await trio.sleep(self.rng.expovariate(rate * len(clients)))

    def claim_each(self) -> None:
        """Let each client make one claim now, by which it notices broken connections."""
        for pool in self.pools.values():
            self.nursery.start_soon(self._claim, pool, 1.0)

    async def _claim(self, pool: Pool[Link], factor: float) -> None:
        claims = self.claims
        claims.made += 1
        began = trio.current_time()
        try:
            async with pool.claim() as link:
                claims.waits.append(trio.current_time() - began)
                claims.unexpected += link.is_broken
                await link.host.serve(link, factor)
        except ClaimError:
            claims.refused += 1
        except ConnectionResetError:
            claims.broken += 1

    def counts(self, hosts: Sequence[Host] | None = None) -> list[int]:
        """Return the number of working connections of each host."""
        return [
            sum(not link.is_broken for link in host.links)
            for host in (self.hosts if hosts is None else hosts)
        ]


def _backend(number: int, name: str, weight: int) -> Backend:
    return Backend(
        (f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 80), name=name, weight=weight
    )


def client_rng(size: Size, client: int) -> random.Random:
    """Return a source of random numbers for the pool of one client."""
    return random.Random(f"client {size.seed} {client}")


@asynccontextmanager
async def fleet_of(size: Size, **kwargs: Any) -> AsyncIterator[Fleet]:
    """Make a fleet whose resolver knows all of its backends; in the end, cancel its clients."""
    async with trio.open_nursery() as nursery:
        fleet = Fleet(size, nursery, **kwargs)
        fleet.publish()
        yield fleet
        nursery.cancel_scope.cancel()


def run(story: Callable[..., Awaitable[T]], *args: Any, seed: int) -> T:
    """Run a story in virtual time; the same seed gives the same run, in any process."""

    async def main() -> T:
        return await story(*args)

    seed_scheduler(seed)
    with _quiet(), _rare_collections():
        return trio.run(main, clock=JumpingClock())


@contextmanager
def _rare_collections() -> Iterator[None]:
    """Look for cyclic garbage seldom, because a thousand pools are much to look through."""
    before = gc.get_threshold()
    gc.set_threshold(50_000, 20, 20)
    try:
        yield
    finally:
        gc.set_threshold(*before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Switch logging off, because a fleet logs each of its failures."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
