"""Conditions that must hold whenever the storm has passed and the clients pause."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import attrs
import trio

from qorb_trio import Pool
from qorb_trio._planning.rotation import MAX_REMEMBERED
from tests.faults.account import Account
from tests.faults.echo import Echo
from tests.faults.left import descriptors, objects, tasks, until

from .load import Load
from .world import World

#: The seconds for which a resolver may keep a backend that came and went several times.
FLAPPING = 75.0

#: Objects that a pool keeps on purpose, up to a limit: the places of backends that have left.
REMEMBERED = {"qorb_trio._planning.rotation._Place": MAX_REMEMBERED}

#: A proxy's connection has a task, and one for each direction.
TASKS_OF_A_LINK = 3


@attrs.define(eq=False)
class Checks:
    """The checks: they compare the resources with the account, and with the first check."""

    pool: Pool[Echo]
    account: Account
    load: Load
    world: World
    violations: list[str] = attrs.field(factory=list)
    _began: tuple[int, int] | None = None
    _objects: Counter[str] | None = None

    async def calm(self) -> None:
        """Check everything; the first call takes down how it is in the beginning."""
        await self._wait(lambda: not self.load.busy, "all clients pause")
        with trio.move_on_after(FLAPPING):
            while not self._settled():  # noqa: ASYNC110 - the condition is no event
                await trio.sleep(0.05)
        await self._wait(self._settled, "the pool has settled")
        if self._began is None:
            self._began = await self._resources_at_rest()
        await self._wait(lambda: self._resources() == self._began, "resources are as before")
        self._check_objects()
        self.violations += self.account.violations
        self.account.violations.clear()

    async def _wait(self, condition: Callable[[], object], what: str) -> None:
        try:
            await until(condition, what)
        except AssertionError as error:
            self.violations.append(f"{error}; {self._counts()}; {self.pool.stats()}")

    def _settled(self) -> bool:
        """Every backend is online, nothing is going on, and both accounts agree."""
        stats = self.pool.stats()
        backends = stats.backends.values()
        unclaimed = sum(one.unclaimed for one in backends)
        account = self.account
        return (
            len(backends) == len(self.world.sites)
            and all(one.online for one in backends)
            and not stats.waiting
            and not stats.departed
            and stats.slots == unclaimed == len(account.live) == account.load.total()
            and account.opened - account.closed == unclaimed
        )

    def _counts(self) -> str:
        return (
            f"the account says {len(self.account.live)} open, {self.account.load.total()} with"
            f" those that open, {self.account.opened} opened, {self.account.closed} closed;"
            f" descriptors and tasks are {self._resources()}, were {self._began}"
        )

    def _resources(self) -> tuple[int, int]:
        """Descriptors and tasks, without those of connections that should be there."""
        ours = {conn.stream.socket.fileno() for conn in self.account.live} | self.world.sockets()
        return len(set(descriptors()) - ours), tasks() - TASKS_OF_A_LINK * self.world.links()

    async def _resources_at_rest(self) -> tuple[int, int]:
        """The same when no query of DNS is under way: the least that is seen in a second."""
        seen = []
        for _ in range(100):
            seen.append(self._resources())
            await trio.sleep(0.01)
        return min(seen)

    def _check_objects(self) -> None:
        """Of no class are there many more than after the first storm."""
        if self._objects is None:
            self._objects = objects() if self.load.replies else None
            return
        self.world.dns.queries.clear()
        now = objects()
        self.violations += [
            f"{now[name]} objects of {name}, {self._objects[name]} after the first round"
            for name in now
            if now[name] > max(1.5 * self._objects[name] + 100, REMEMBERED.get(name, 0))
        ]
