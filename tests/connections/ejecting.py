"""A pool whose backends can be made to fail their claims, in virtual time."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from qorb_trio import (
    Backend,
    BackendStats,
    Balancer,
    Claim,
    Instrument,
    LeastLoaded,
    Policy,
    Pool,
    SetConfig,
    open_pool,
)
from qorb_trio.testing import FakeConnection, FakeConnector, ManualResolver


class Unlucky(random.Random):
    """Draws always the greatest number, so that ejections last as long as they can."""

    def random(self) -> float:
        """The greatest."""
        return 1.0 - 2**-53


class Watcher(Instrument):
    """Keeps the ejections and the returns."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []
        self.reasons: list[str] = []
        self.seconds: list[float] = []

    def backend_ejected(self, pool: str, backend: Backend, reason: str, seconds: float) -> None:
        """Keep an ejection."""
        self.seen.append(("ejected", backend.name))
        self.reasons.append(reason)
        self.seconds.append(seconds)

    def backend_restored(self, pool: str, backend: Backend) -> None:
        """Keep a return."""
        self.seen.append(("restored", backend.name))


def some_backends(count: int, *, priority: int = 0) -> list[Backend]:
    """Backends a, b, c and so on."""
    return [Backend((name, 80), name=name, priority=priority) for name in "abcdefgh"[:count]]


@attrs.define
class Scene:
    """A pool, and what a test of ejection looks at."""

    pool: Pool[FakeConnection]
    resolver: ManualResolver
    connector: FakeConnector
    backends: list[Backend]

    def stats(self, backend: Backend) -> BackendStats:
        """The statistics of one backend."""
        return self.pool.stats().backends[backend.name]

    @property
    def ejected(self) -> list[str]:
        """The names of the ejected backends."""
        stats = self.pool.stats().backends
        return [name for name, one in stats.items() if one.ejected_until is not None]

    async def claim_on(self, backend: Backend) -> Claim[FakeConnection]:
        """Return a claim on this backend; claims on others meanwhile end well."""
        others: list[Claim[FakeConnection]] = []
        while (claim := await self.pool.acquire()).backend != backend:
            others.append(claim)
        for other in others:
            other.release()
        return claim

    async def fail(self, backend: Backend, times: int = 5) -> None:
        """Have claims on this backend end badly, without the loss of their connections."""
        for _ in range(times):
            claim = await self.claim_on(backend)
            claim.report(failed=True)
            claim.release()

    async def break_one(self, backend: Backend) -> None:
        """Have a claim on this backend fail with its connection."""
        claim = await self.claim_on(backend)
        with pytest.raises(ConnectionResetError), claim:
            raise ConnectionResetError

    async def succeed(self, backend: Backend, times: int = 1) -> None:
        """Have claims on this backend end well."""
        for _ in range(times):
            (await self.claim_on(backend)).release()

    async def eject(self, backend: Backend) -> float:
        """Have a backend ejected; return when its trial is due."""
        await self.fail(backend)
        until = self.stats(backend).ejected_until
        assert until is not None
        return until

    async def count(self, claims: int, gap: float = 0) -> Counter[str]:
        """Make claims one after another; return how many each backend served."""
        served: Counter[str] = Counter()
        for _ in range(claims):
            async with self.pool.claim() as connection:
                served[connection.backend.name] += 1
                await trio.sleep(gap)
        return served


@asynccontextmanager
async def a_scene(
    backends: int | list[Backend] = 4,
    *,
    spares: int = 16,
    ready: int | None = None,
    connector: FakeConnector | None = None,
    policy: Callable[[Policy], Policy] = lambda policy: policy,
    rng: random.Random | None = None,
    instruments: tuple[Instrument, ...] = (),
    balancer: Balancer | None = None,
) -> AsyncIterator[Scene]:
    """Open a pool that has all its spares, as many for each backend; or at least `ready`."""
    if isinstance(backends, int):
        backends = some_backends(backends)
    resolver, connector = ManualResolver(backends), connector or FakeConnector()
    numbers = Policy(
        spares_wanted=spares, max_slots=spares, set_config=SetConfig(max_connection_backoff=1)
    )
    async with (
        trio.open_nursery() as nursery,
        open_pool(
            nursery,
            resolver,
            connector,
            policy=policy(numbers),
            instruments=instruments,
            balancer=balancer or LeastLoaded(),
            rng=rng or random.Random(0),
        ) as pool,
    ):
        await pool.wait_ready(ready or spares)
        await wait_all_tasks_blocked()
        yield Scene(pool, resolver, connector, backends)
    connector.assert_all_closed()


def lines(caplog: pytest.LogCaptureFixture, word: str) -> list[tuple[str, str]]:
    """The lines of the log that have a word: level and text."""
    return [
        (record.levelname, record.getMessage())
        for record in caplog.records
        if word in record.getMessage() and record.levelno >= logging.INFO
    ]
