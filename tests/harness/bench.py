"""`open_bench`: a pool with a ledger, under watch, in one ``async with``."""

from __future__ import annotations

import math
import random
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any, final

import attrs
import trio
from trio.testing import wait_all_tasks_blocked

import qorb_trio
from qorb_trio import (
    Backend,
    Balancer,
    Claim,
    Instrument,
    LeastLoaded,
    Policy,
    Pool,
    PoolStats,
    Resolver,
)

from .invariants import EventLog, InvariantInstrument
from .ledger import Ledger, LedgerConnection, LedgerConnector, PlainLedgerConnector, Script
from .sets import backends as letters

#: Virtual seconds after which a test is taken to be stuck.
STUCK_AFTER = 50_000


@final
class ManualSets(Resolver):
    """A resolver whose sets a test sends by hand."""

    def __init__(self, first: Collection[Backend] | None) -> None:
        self._send, self._receive = trio.open_memory_channel[Collection[Backend]](math.inf)
        if first is not None:
            self.set(first)

    def set(self, backends: Collection[Backend]) -> None:
        """From now on these are the backends."""
        self._send.send_nowait(backends)

    def finish(self) -> None:
        """The last set is final."""
        self._send.close()

    async def run(self, updates: trio.MemorySendChannel[Collection[Backend]]) -> None:
        """Pass them on."""
        async for backends in self._receive:
            await updates.send(backends)


@final
@attrs.define(eq=False)
class Bench:
    """A pool with its connector, its resolver, and the instruments that watch it."""

    pool: Pool[LedgerConnection]
    connector: PlainLedgerConnector
    resolver: ManualSets
    watch: InvariantInstrument
    log: EventLog
    nursery: trio.Nursery
    """The nursery for clients. It outlives the pool, and is waited for, not cancelled."""
    _held: dict[Claim[LedgerConnection], LedgerConnection] = attrs.field(factory=dict)

    @property
    def ledger(self) -> Ledger:
        """The connector's."""
        return self.connector.ledger

    @property
    def script(self) -> Script:
        """The connector's."""
        return self.connector.script

    @property
    def held(self) -> list[Claim[LedgerConnection]]:
        """The claims that clients hold and give back by hand."""
        return list(self._held)

    def stats(self) -> PoolStats:
        """The pool's."""
        return self.pool.stats()

    def count(self, field: str) -> int:
        """The sum over all backends of one field of their statistics."""
        return sum(getattr(one, field) for one in self.stats().backends.values())

    async def settle(self, seconds: float = 0) -> None:
        """Let that much time pass, and then everything happen that can happen."""
        if seconds:
            await trio.sleep(seconds)
        await wait_all_tasks_blocked()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Let time pass, a hundredth of a second at a time, until the condition holds."""
        while not condition():  # noqa: ASYNC110 - the condition is no event
            await trio.sleep(0.01)

    def reconfigure(self, policy: Policy) -> None:
        """`Pool.reconfigure`; from then on the checks go by the new policy."""
        self.watch.reconfigured(policy, self.stats())
        self.pool.reconfigure(policy)

    async def acquire(self, **options: Any) -> Claim[LedgerConnection]:
        """`Pool.acquire`, with a note in the ledger; give it back with `release`."""
        number = self.watch.arrive()
        try:
            claim = await self.pool.acquire(**options)
            self._held[claim] = claim.connection
            self.ledger.take(claim.connection, trio.lowlevel.current_task().name)
        finally:
            self.watch.leave(number)
        return claim

    def claim_nowait(self) -> Claim[LedgerConnection]:
        """`Pool.claim_nowait`, with a note in the ledger; give it back with `release`."""
        claim = self.pool.claim_nowait()
        self._held[claim] = claim.connection
        self.ledger.take(claim.connection, trio.lowlevel.current_task().name)
        return claim

    def release(self, claim: Claim[LedgerConnection]) -> None:
        """`Claim.release`, with a note in the ledger."""
        self.ledger.give(self._held.pop(claim))
        claim.release()

    def discard(self, claim: Claim[LedgerConnection]) -> None:
        """`Claim.discard`, with a note in the ledger."""
        self.ledger.give(self._held.pop(claim))
        claim.discard()

    def lose(self, claim: Claim[LedgerConnection]) -> None:
        """The client is about to forget a claim that it has not given back."""
        conn = self._held.pop(claim)
        self.ledger.give(conn)
        conn.dirty = True  # it must never be lent again

    @asynccontextmanager
    async def claim(self, **options: Any) -> AsyncIterator[LedgerConnection]:
        """`Pool.claim`, with notes in the ledger."""
        number = self.watch.arrive()
        try:
            async with self.pool.claim(**options) as conn:
                self.ledger.take(conn, trio.lowlevel.current_task().name)
                try:
                    yield conn
                finally:
                    self.ledger.give(conn)
        finally:
            self.watch.leave(number)

    async def use(self, seconds: float = 0, **options: Any) -> LedgerConnection:
        """Claim, make an exchange that takes so long, and give back."""
        async with self.claim(**options) as conn:
            conn.begin()
            await trio.sleep(seconds)
            conn.finish()
        return conn

    async def terminate(self) -> None:
        """`Pool.terminate`: from the end of the drain on, claims may be cut off."""
        self.may_cut(self.pool.policy.drain_timeout)
        await self.pool.terminate()

    def may_cut(self, after: float) -> None:
        """Allow the pool to close claimed connections, from `after` seconds from now on."""
        self.ledger.hold_until = min(self.ledger.hold_until, trio.current_time() + after)


@asynccontextmanager
async def open_bench(
    backends: str | Collection[Backend] | None = "a",
    *,
    policy: Policy = Policy(),  # noqa: B008 - frozen
    connector: PlainLedgerConnector | None = None,
    name: str = "pool",
    instruments: Sequence[Instrument] = (),
    log: bool | None = None,
    watch_with: type[InvariantInstrument] = InvariantInstrument,
    rng: random.Random | None = None,
    balancer: Balancer = LeastLoaded(),  # noqa: B008 - frozen
    nursery: trio.Nursery | None = None,
) -> AsyncIterator[Bench]:
    """Open a pool with a ledger, and check it after every step and when it has ended.

    By default the events are logged, and their order checked, if the connector overrides
    the optional hooks; with a `PlainLedgerConnector` they are not, because a pool may take
    a shorter path without instruments.

    `backends` is a string, with one backend for each letter, or a set, or `None` for a
    resolver that has not found any yet. The pool's tasks run in `nursery`, which has no
    others; by default, in one that is cancelled with the block. An exception that is alone
    in its group comes out without the group, so that a test can expect it.

    Raises:
      AssertionError: for everything that went wrong, once the pool has ended.
    """
    first = letters(backends) if isinstance(backends, str) else backends
    resolver = ManualSets(first)
    connector = LedgerConnector() if connector is None else connector
    log = isinstance(connector, LedgerConnector) if log is None else log
    watch = watch_with(connector, policy)
    events = EventLog()
    events.violation = connector.ledger.violation
    events.batch = lambda: watch.batch
    wrong: list[str] = []
    trio.lowlevel.add_instrument(watch)
    try:
        with trio.fail_after(STUCK_AFTER) as watch.scope:
            async with trio.open_nursery() as clients, trio.open_nursery() as inner:
                async with qorb_trio.open_pool(
                    nursery or inner,
                    resolver,
                    connector,
                    policy=policy,
                    name=name,
                    instruments=[*[events][:log], *instruments],
                    rng=random.Random(0) if rng is None else rng,
                    balancer=balancer,
                ) as pool:
                    watch.pool = pool
                    bench = Bench(pool, connector, resolver, watch, events, clients)
                    try:
                        yield bench
                    except BaseException:
                        bench.may_cut(0)
                        raise
                    bench.may_cut(pool.policy.drain_timeout)
                wrong.extend(connector.ledger.at_the_end())
                wrong.extend(
                    f"{task!r} is still running" for task in (nursery or inner).child_tasks
                )
                watch.pool = None
    except BaseException as exc:
        _raise_wrong(connector, wrong, exc)
        alone = _alone(exc)
        if alone is exc:
            raise
        raise alone from None
    finally:
        watch.pool = None
        if watch.scope is not None or watch.steps:
            trio.lowlevel.remove_instrument(watch)
    _raise_wrong(connector, wrong, None)


def _raise_wrong(
    connector: PlainLedgerConnector, wrong: list[str], cause: BaseException | None
) -> None:
    ledger = connector.ledger
    wrong = [*ledger.violations, *(wrong or ledger.at_the_end())]
    if wrong:
        raise AssertionError("\n".join(["the pool broke its contract:", *wrong[:10]])) from cause


def _alone(exc: BaseException) -> BaseException:
    while isinstance(exc, BaseExceptionGroup) and len(exc.exceptions) == 1:
        exc = exc.exceptions[0]
    return exc
