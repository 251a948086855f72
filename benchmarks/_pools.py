"""The pools that are compared, each behind the same small interface, `Lend`.

To add another pool, write one more async context manager that yields a `Lend`.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import final

import trio

from _work import Lend
from qorb_trio import Backend, Connector, FixedResolver, Policy, Pool, SetConfig, open_pool


@final
class NoConnection:
    """A connection of `NoopConnector`: an empty object, which costs nothing."""

    __slots__ = ()


class NoopConnector(Connector[NoConnection]):
    """Connects at once, and has nothing to check, to clean or to close."""

    async def connect(self, backend: Backend) -> NoConnection:
        """Return another connection."""
        return NoConnection()


def some_backends(count: int, *, network: int = 0) -> list[Backend]:
    """Make `count` backends, with other addresses for each `network`."""
    return [Backend((f"10.{network}.{i // 250}.{i % 250}", 5432)) for i in range(count)]


def roomy_policy(slots: int, *, per_backend: int) -> Policy:
    """Make a policy with `slots` slots, all of them spares, and claims without a timeout."""
    return Policy(
        spares_wanted=slots,
        max_slots=slots,
        claim_timeout=math.inf,
        set_config=SetConfig(max_count=per_backend),
    )


@asynccontextmanager
async def full_pool(
    *, backends: int = 1, slots_each: int = 16, connector: Connector[NoConnection] | None = None
) -> AsyncIterator[Pool[NoConnection]]:
    """A pool with all its slots connected."""
    slots = backends * slots_each
    policy = roomy_policy(slots, per_backend=slots_each)
    resolver = FixedResolver(some_backends(backends))
    async with (
        trio.open_nursery() as nursery,
        open_pool(nursery, resolver, connector or NoopConnector(), policy=policy) as pool,
    ):
        await pool.wait_ready(slots)
        yield pool


@asynccontextmanager
async def qorb(
    *, backends: int = 1, slots_each: int = 16, timeout: float | None = None
) -> AsyncIterator[Lend]:
    """This project's pool; each claim with a `timeout`, if one is given."""
    async with full_pool(backends=backends, slots_each=slots_each) as pool:
        yield pool.claim if timeout is None else (lambda: pool.claim(timeout=timeout))


@asynccontextmanager
async def limiter(tokens: int) -> AsyncIterator[Lend]:
    """`trio.CapacityLimiter`: the least that a pool can do, since it lends nothing."""
    tokens_left = trio.CapacityLimiter(tokens)
    yield lambda: tokens_left


@asynccontextmanager
async def nothing() -> AsyncIterator[Lend]:
    """No pool at all."""
    yield nullcontext
