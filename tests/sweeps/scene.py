"""`Scene`: a pool with a ledger, what can happen in one tick with a cancellation, and the end."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio
from trio.testing import MockClock

from qorb_trio import Claim, ClaimError, Policy

from ..harness import (
    OK,
    Bench,
    Do,
    LedgerConnection,
    LedgerConnector,
    PlainLedgerConnector,
    Sweep,
    backends,
    open_bench,
    policy_of,
)
from ..harness.invariants import slots_of

#: Each claim may wait so long, and each drain; virtual seconds.
PATIENCE = 5.0

POLICY = policy_of(max_slots=2, spares_wanted=2, claim_timeout=PATIENCE, drain_timeout=PATIENCE)


@attrs.define
class Scene:
    """The objects that a scenario works with."""

    one: Sweep
    bench: Bench
    others: trio.Nursery
    """The nursery for the tasks other than the target."""
    policy: Policy = POLICY
    """The pool's policy at first, and at the end."""
    gate: trio.Event = attrs.field(factory=trio.Event)
    """An event that hooks can be scripted to wait for."""
    held: list[Claim[LedgerConnection]] = attrs.field(factory=list)
    ended: bool = False
    late: bool = False

    # Events that are possible in any situation.

    def nothing(self) -> None:
        """Nothing but the cancellation."""

    def release(self) -> None:
        """A claim comes back, if one is held."""
        if self.held:
            self.bench.release(self.held.pop())

    def discard(self) -> None:
        """A claim ends, and its connection with it."""
        if self.held:
            self.bench.discard(self.held.pop())

    def open_gate(self) -> None:
        """The dial ends, or whatever hook it is that waits."""
        self.gate.set()

    def leave(self) -> None:
        """All backends leave."""
        self._set("")

    def come(self) -> None:
        """Backends come; those that are there stay."""
        self._set("ab")

    def return_(self) -> None:
        """All backends leave, and are back at once."""
        self._set("")
        self._set("ab")

    def end(self) -> None:
        """Another task ends the pool."""
        self.ended = True
        self.others.start_soon(self.bench.terminate)

    def end_at_once(self) -> None:
        """Another task ends the pool, without a drain."""
        self.ended = True
        self.bench.may_cut(0)
        self.others.start_soon(self._terminate_at_once)

    async def _terminate_at_once(self) -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            await self.bench.pool.terminate()

    def be_late(self) -> None:
        """Let the clock jump beyond all timeouts."""
        self.late = True
        for conn in self.bench.ledger.live:
            if trio.current_time() in {conn.asked_at, conn.opened}:
                # It is not to be asked again because the clock jumps between two steps.
                conn.asked_at = trio.current_time() + PATIENCE
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, MockClock)
        clock.jump(PATIENCE)

    def another(self) -> None:
        """Another task claims a connection."""
        self.others.start_soon(self.use)

    def suspend(self) -> None:
        """No connection can be claimed any more."""
        self.bench.pool.suspend()

    def resume(self) -> None:
        """Free connections can be claimed again."""
        self.bench.pool.resume()

    def recycle(self) -> None:
        """Have all connections replaced."""
        self.bench.pool.recycle()

    def lower_the_cap(self) -> None:
        """Only one connection is allowed from now on."""
        self._reconfigure(max_slots=1)

    def limit_lives(self) -> None:
        """Connections grow old from now on."""
        config = attrs.evolve(self.policy.set_config, max_uses=1, max_lifetime=2, idle_timeout=0.5)
        self._reconfigure(set_config=config)

    def _reconfigure(self, **changes: Any) -> None:
        self.bench.pool.reconfigure(attrs.evolve(self.policy, **changes))

    def break_(self) -> None:
        """The peers close all connections that are idle."""
        for conn in self.bench.ledger.idle:
            conn.broken = True

    def _set(self, names: str) -> None:
        with contextlib.suppress(trio.BrokenResourceError):  # nobody listens any more
            self.bench.resolver.set(backends(names))

    # Parts of scenarios.

    async def use(self, seconds: float = 0.5) -> None:
        """Claim a connection and use it, unless that is refused."""
        with contextlib.suppress(ClaimError):
            await self.bench.use(seconds)

    async def use_by_hand(self, seconds: float = 0.5) -> None:
        """The same, by `Pool.acquire`."""
        with contextlib.suppress(ClaimError):
            claim = await self.bench.acquire()
            try:
                await trio.sleep(seconds)
            finally:
                self.bench.release(claim)

    async def hold(self) -> None:
        """A claim that lasts until `release`, or for a second."""
        self.held.append(await self.bench.acquire())

    async def go_on(self) -> None:
        """In a second, whatever is waited for happens."""
        await trio.sleep(1)
        self.resume()
        self.release()
        self.gate.set()
        if not self.ended:
            self.come()

    async def be_well(self) -> None:
        """Check that all slots can be claimed and no claimant waits, or that the pool has ended."""
        bench = self.bench
        for hook in ("connect", "is_valid", "on_acquire", "on_recycle", "disconnect"):
            bench.script.always(hook, OK)
        self.gate.set()
        self.resume()
        self._reconfigure()
        while self.held:
            self.release()
        if self.ended:
            await bench.terminate()
        else:
            self.come()
            await bench.pool.wait_ready(1)
            for _ in range(POLICY.max_slots):
                self.held.append(await bench.acquire(timeout=20))
            await bench.settle()
            while self.held:
                self.release()
            await bench.settle(1)
            # Those that nobody wants as spares may have been closed, or not.
            policy = bench.pool.policy
            assert policy.spares_wanted <= bench.count("unclaimed") <= policy.max_slots
        assert bench.stats().waiting == bench.count("claimed") == 0


def strike(scene: Scene, event: Callable[[Scene], None], lag: int) -> Callable[[], None]:
    """Let something happen in one tick with the cancellation of the target.

    With even seeds, the event comes first. With odd seeds, the cancellation comes first if
    `lag` is 0; otherwise it comes `lag` ticks after the event, because the pool takes that
    many ticks to notice the event.
    """
    one = scene.one

    async def later() -> None:
        for _ in range(lag):
            await trio.lowlevel.checkpoint()
        one.cancel()

    def both() -> None:
        if one.seed % 2 == 0:
            event(scene)
            one.cancel()
        elif lag == 0:
            one.cancel()
            event(scene)
        else:
            event(scene)
            scene.others.start_soon(later)

    return both


@asynccontextmanager
async def a_scene(
    one: Sweep,
    first: str | None = "ab",
    *,
    kind: Callable[[Do], PlainLedgerConnector] = LedgerConnector,
    policy: Policy = POLICY,
    nursery: trio.Nursery | None = None,
    others: trio.Nursery | None = None,
) -> AsyncIterator[Scene]:
    """A pool with two slots, whose hooks take a step each, and afterwards the last checks."""
    connector = kind(Do(steps=1))
    scene: Scene | None = None
    try:
        async with open_bench(first, connector=connector, policy=policy, nursery=nursery) as bench:
            scene = Scene(one, bench, others or bench.nursery, policy)
            yield scene
    finally:
        if scene is not None:
            while scene.held:
                scene.release()
            assert_all_is_over(scene)


def assert_all_is_over(scene: Scene) -> None:
    """Check that the pool has ended: no connection is open, and no claimant is parked."""
    ledger = scene.bench.ledger
    assert not ledger.at_the_end()
    # Closing is shielded, so that nothing but its own timeout cuts it short.
    assert scene.late or not any(conn.forced for conn in ledger.connections)
    stats = scene.bench.pool.stats()
    assert stats.waiting == 0
    assert stats.slots == stats.departed == 0
    assert all(slots_of(one) == 0 for one in stats.backends.values())
