"""A pool whose connections have dates, for the tests of their lives."""

from __future__ import annotations

import math
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import attrs
import trio
from trio.testing import wait_all_tasks_blocked

from qorb_trio import Backend, Connector, FixedResolver, Instrument, Policy, Pool, open_pool


@attrs.define(eq=False)
class Conn:
    """One connection, with the dates of its life."""

    born: float
    closed: float = math.inf
    uses: int = 0

    def age(self) -> float:
        """Return its age at its close."""
        return self.closed - self.born


class Dated(Connector[Conn]):
    """Connects in 0.05 s, unless it refuses, and remembers all connections."""

    def __init__(self) -> None:
        self.conns: list[Conn] = []
        self.refuses = False

    async def connect(self, backend: Backend) -> Conn:
        """Connect."""
        born = trio.current_time()
        await trio.sleep(0.05)
        if self.refuses:
            raise ConnectionRefusedError("refused")
        self.conns.append(Conn(born))
        return self.conns[-1]

    async def disconnect(self, conn: Conn) -> None:
        """Close."""
        await trio.lowlevel.checkpoint()
        conn.closed = trio.current_time()

    @property
    def open(self) -> list[Conn]:
        """The connections that are not closed."""
        return [conn for conn in self.conns if conn.closed == math.inf]


class Retired(Instrument):
    """Counts why connections became due."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def connection_retired(self, pool: str, slot_id: int, backend: Backend, why: str) -> None:
        """Note it."""
        self.reasons.append(why)


@asynccontextmanager
async def a_pool(
    policy: Policy,
    connector: Dated,
    retired: Retired | None = None,
    rng: random.Random | None = None,
) -> AsyncIterator[Pool[Conn]]:
    """A pool with one backend."""
    resolver = FixedResolver([("a.test", 1)])
    instruments = [] if retired is None else [retired]
    async with (
        trio.open_nursery() as nursery,
        open_pool(
            nursery, resolver, connector, policy=policy, instruments=instruments, rng=rng
        ) as pool,
    ):
        await pool.wait_ready(1)
        await wait_all_tasks_blocked()
        yield pool


async def sample(seconds: float, step: float, look: Callable[[], None]) -> None:
    """Call `look` at each step."""
    end = trio.current_time() + seconds
    while trio.current_time() < end:
        await trio.sleep(step)
        look()
