"""The soak: a pool under load and in a storm, minute after minute."""

from __future__ import annotations

import random
import resource
import sys
from collections import Counter
from collections.abc import Callable
from typing import TypeAlias

import attrs
import trio

import qorb_trio
from qorb_trio import Ejection, Policy, SetConfig
from tests.faults.account import Account, AccountedConnector
from tests.faults.left import descriptors, tasks

from .checks import Checks
from .load import Load
from .storm import Storm
from .world import World, open_world

POLICY = Policy(
    spares_wanted=8,
    max_slots=32,
    claim_timeout=3,
    rebalance_interval=2,
    drain_timeout=1,
    ejection=Ejection(base_time=0.5, max_time=2),
    set_config=SetConfig(
        max_count=12,
        max_connection_backoff=0.5,
        health_interval=1,
        health_check_timeout=0.5,
        connect_timeout=1,
        disconnect_timeout=0.5,
        max_lifetime=20,
        idle_timeout=10,
        max_uses=2000,
        slow_start=1,
    ),
)
#: The pools that come and go are small.
SIDE = attrs.evolve(POLICY, max_slots=4, spares_wanted=2, drain_timeout=0.1)

Say: TypeAlias = Callable[[str], None]


class LeaveError(Exception):
    """A reason to leave a pool."""


@attrs.define(eq=False)
class Soak:
    """One soak, from its servers' start to the summary."""

    seed: int
    seconds: float
    every: float
    """Seconds of storm between two checks."""
    clients: int
    pause: float
    """Seconds from one fault to the next, on average."""
    say: Say
    violations: list[str] = attrs.field(factory=list)
    rounds: int = 0
    pools: Counter[str] = attrs.field(factory=Counter)
    """The side pools, by how they were left."""
    side: Counter[str] = attrs.field(factory=Counter)

    async def run(self) -> bool:
        """Run it; whether nothing was violated."""
        rng = random.Random(self.seed)
        began, before = trio.current_time(), (len(descriptors()), tasks())
        # A server that accepts is taken to be connected, so that one may accept and be silent.
        connector = AccountedConnector(POLICY, greets=False)
        async with open_world(rng) as world, trio.open_nursery() as nursery:
            async with qorb_trio.open_pool(
                nursery, world.resolver(), connector, policy=POLICY, name="soak"
            ) as pool:
                load = Load(pool, connector.account, rng, world.fails_fast)
                storm = Storm(world, rng, self.pause)
                checks = Checks(pool, connector.account, load, world, self.violations)
                async with trio.open_nursery() as crowd:
                    for number in range(self.clients):
                        crowd.start_soon(load.client, number)
                    await checks.calm()
                    while (left := began + self.seconds - trio.current_time()) > 0:
                        await self._round(min(left, self.every), world, load, storm, checks)
                    crowd.cancel_scope.cancel()
        self.violations += connector.account.at_the_end()
        after = (len(descriptors()), tasks())
        if after != before:
            self.violations.append(f"descriptors and tasks: {after} at the end, {before} before")
        self._sum_up(load, storm, connector.account, trio.current_time() - began)
        return not self.violations

    async def _round(
        self, seconds: float, world: World, load: Load, storm: Storm, checks: Checks
    ) -> None:
        """A storm, and then a look at what it has left."""
        start, replies, claims = trio.current_time(), load.replies, load.claims.total()
        violations = len(self.violations)
        load.resume()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._open_and_leave, world, storm.rng)
            await storm.blow(seconds)
            nursery.cancel_scope.cancel()
        load.pause()
        took = trio.current_time() - start
        world.dns.queries.clear()
        if load.replies == replies:
            self.violations.append("not one reply in a round")
        await checks.calm()
        self.rounds += 1
        self.say(
            f"{self.rounds:3}  {(load.claims.total() - claims) / took:7,.0f} claims/s"
            f"  {storm.faults.total():6,} faults  {checks.account.opened:7,} opened"
            f"  {len(checks.account.live):3} open  {memory():6.1f} MB"
            f"  {len(self.violations)} violations"
        )
        for violation in self.violations[violations:]:
            self.say(f"violated: {violation}")

    async def _open_and_leave(self, world: World, rng: random.Random) -> None:
        """Open small pools, and leave them in the midst of whatever is going on."""
        while True:
            how = rng.choice(["normally", "by an exception", "by a cancellation"])
            connector = AccountedConnector(SIDE)
            with trio.CancelScope() as scope:
                try:
                    await self._side_pool(world, connector, rng, how, scope)
                except* LeaveError:
                    pass
            self.pools[how] += 1
            self.side["opened"] += connector.account.opened
            self.side["closed"] += connector.account.closed
            self.violations += connector.account.at_the_end()

    async def _side_pool(
        self,
        world: World,
        connector: AccountedConnector,
        rng: random.Random,
        how: str,
        scope: trio.CancelScope,
    ) -> None:
        async with trio.open_nursery() as nursery:
            async with qorb_trio.open_pool(
                nursery, world.resolver(), connector, policy=SIDE, name="side"
            ) as pool:
                load = Load(pool, connector.account, rng, world.fails_fast)
                load.resume()
                for number in range(8):
                    nursery.start_soon(self._side_client, load, number)
                await trio.sleep(rng.uniform(0, 1.5))
                if how == "by an exception":
                    raise LeaveError
                if how == "by a cancellation":
                    scope.cancel()
                    await trio.lowlevel.checkpoint()
            self.side["claims"] += pool.stats().claims

    async def _side_client(self, load: Load, number: int) -> None:
        """Claim until the pool has ended."""
        while True:
            try:
                what = await load.turn(f"side client {number}")
            except trio.ClosedResourceError:
                return  # the pool was left in the midst of an exchange
            if what == "not granted: PoolTerminatedError":
                return
            await trio.sleep(0.01)

    def _sum_up(self, load: Load, storm: Storm, account: Account, took: float) -> None:
        total = load.claims.total()
        self.say("")
        self.say(f"{took / 60:.1f} minutes, seed {self.seed}, {self.rounds} rounds")
        self._count("claims", load.claims, f", that is {total / took:,.0f} a second")
        self.say(f"{load.replies:,} replies")
        self._count("faults", storm.faults)
        self.say(f"{storm.closed_idle:,} connections closed by their server because they were idle")
        self.say(
            f"{account.dials:,} dials; {account.opened:,} connections opened,"
            f" {account.closed:,} closed, {len(account.live)} left"
        )
        self._count("other pools, opened and left", self.pools)
        self._count("what these did", self.side)
        self.say(f"wait         {load.waits}")
        self.say(f"whole claim  {load.turns}")
        self.say(f"{memory():.1f} MB of memory at most")
        for violation in self.violations:
            self.say(f"violated: {violation}")
        self.say(f"{len(self.violations)} violations")

    def _count(self, title: str, counts: Counter[str], more: str = "") -> None:
        self.say(f"{counts.total():,} {title}{more}")
        for what, count in sorted(counts.items()):
            self.say(f"  {count:10,}  {what}")


def memory() -> float:
    """The most memory that this process has had, in MB."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (1 << 20 if sys.platform == "darwin" else 1 << 10)
