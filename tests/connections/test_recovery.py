"""After a failure the backend comes back, whatever happened meanwhile."""

from __future__ import annotations

import itertools
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from qorb_trio import Claim

from ..harness import (
    OK,
    Bench,
    Do,
    LedgerConnection,
    LedgerConnector,
    PlainLedgerConnector,
    fails,
    open_bench,
    policy_of,
    slow,
)

KINDS = [LedgerConnector, PlainLedgerConnector]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("late", [0.3, 0.9])
async def test_a_late_connect_of_an_older_dial(
    autojump_clock: MockClock, kind: type[PlainLedgerConnector], late: float
) -> None:
    """A dial that connects after a later failure does not keep its backend from being dialled."""
    connector = kind()
    connector.script.next("connect", fails(OSError, after=0.1), slow(late), slow(late))
    policy = policy_of(max_slots=3, spares_wanted=3)
    async with open_bench(connector=connector, policy=policy) as bench:
        await bench.settle(30)
        for conn in bench.ledger.idle:
            conn.broken = True
        for _ in range(3):
            await bench.use(timeout=10)
        await bench.settle(30)
        held = [await bench.acquire(timeout=10) for _ in range(3)]
        for claim in held:
            bench.release(claim)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("names", ["a", "abc"])
@pytest.mark.parametrize(
    "trouble",
    list(itertools.permutations([fails(OSError), slow(0.9), fails(OSError, after=0.4), slow(0.2)])),
    ids=lambda acts: " ".join(f"{'x' if act.error else ''}{act.delay}" for act in acts),
)
async def test_every_order_of_failures_and_late_connects(
    autojump_clock: MockClock,
    kind: type[PlainLedgerConnector],
    names: str,
    trouble: tuple[Do, ...],
) -> None:
    """Once all is well again, every slot of the cap can be claimed, and for long."""
    connector = kind()
    connector.script.next("connect", *trouble)
    policy = policy_of(max_slots=4, spares_wanted=2, max_connection_backoff=2)
    async with open_bench(names, connector=connector, policy=policy) as bench:
        await bench.settle(0.3)
        for _ in range(3):
            bench.nursery.start_soon(bench.use, 0.5)
        await bench.settle(0.5)
        for conn in bench.ledger.idle:
            conn.broken = True
        bench.script.next("on_acquire", OK, fails(OSError))
        for _ in range(4):
            bench.nursery.start_soon(bench.use, 0.5)
        await bench.settle(20)
        held = [await bench.acquire(timeout=10) for _ in range(4)]
        await trio.sleep(100)
        for claim in held:
            bench.release(claim)


@asynccontextmanager
async def a_full_cap(
    connector: PlainLedgerConnector,
) -> AsyncIterator[tuple[Bench, list[Claim[LedgerConnection]]]]:
    """Yield a bench with two connections, both in use, and a dead backend due for a probe."""
    for name in "abc":
        connector.script.always("connect", fails(OSError), backend=name)
    policy = policy_of(
        max_slots=2, spares_wanted=2, max_connection_backoff=1, rebalance_interval=math.inf
    )
    async with open_bench("abc", connector=connector, policy=policy) as bench:
        await bench.settle(5)
        for name in "bc":
            connector.script.always("connect", slow(0.5), backend=name)
        held = [await bench.acquire() for _ in range(2)]
        assert {claim.backend.name for claim in held} == {"b", "c"}
        await bench.settle(5)
        yield bench, held


@pytest.mark.parametrize("kind", KINDS)
async def test_a_spare_gives_way_as_soon_as_there_is_one(
    autojump_clock: MockClock, kind: type[PlainLedgerConnector]
) -> None:
    """A dead backend that is due while the whole cap is in use is probed after a release."""
    connector = kind()
    async with a_full_cap(connector) as (bench, held):
        dials = len(bench.ledger.dials)
        for claim in held:
            bench.release(claim)
        await bench.settle(5)
        assert len(bench.ledger.dials) > dials
        connector.script.always("connect", OK, backend="a")
        await bench.settle(5)
        assert bench.stats().backends["a"].online


@pytest.mark.parametrize("kind", KINDS)
async def test_the_last_connection_does_not_give_way(
    autojump_clock: MockClock, kind: type[PlainLedgerConnector]
) -> None:
    """If two claims end at once, and one connection is closed, the other serves the claimant."""
    async with a_full_cap(kind()) as (bench, held):
        bench.nursery.start_soon(bench.use)
        await bench.settle()
        backends = bench.stats().backends
        to_close, other = sorted(held, key=lambda it: backends[it.backend.name].wanted)
        assert backends[to_close.backend.name].wanted == 0
        bench.discard(other)
        bench.release(to_close)
        assert bench.count("claimed") + bench.count("checking") == 1
        await bench.settle(5)
