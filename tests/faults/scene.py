"""A pool with clients that never rest, for tests that break its servers and network."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import attrs
import trio

import qorb_trio
from qorb_trio import Backend, Policy, Pool, Resolver, SetConfig

from .account import AccountedConnector
from .echo import Echo
from .left import PATIENCE, until

#: Everything is noticed within tenths of a second, so that tests are short.
POLICY = Policy(
    spares_wanted=4,
    max_slots=12,
    claim_timeout=PATIENCE,
    rebalance_interval=1,
    drain_timeout=1,
    set_config=SetConfig(
        max_count=8,
        max_connection_backoff=0.2,
        health_interval=0.2,
        health_check_timeout=0.3,
        connect_timeout=0.5,
        disconnect_timeout=0.5,
    ),
)

#: Seconds that a client waits for a reply.
REPLY = 0.3

#: Exceptions with which an exchange over a broken network may fail.
BROKEN = (OSError, trio.BrokenResourceError, trio.TooSlowError)


@attrs.define(eq=False)
class Scene:
    """A pool, its account, and what its clients have got."""

    pool: Pool[Echo]
    connector: AccountedConnector
    served: Counter[Backend] = attrs.field(factory=Counter)
    """Replies that came, by backend."""
    broken: Counter[Backend] = attrs.field(factory=Counter)
    """Exchanges that failed, by backend."""
    refused: Counter[type[Exception]] = attrs.field(factory=Counter)
    """Claims that failed."""

    async def client(self, number: int) -> None:
        """Claim, ask, release, and again."""
        while True:
            try:
                await self.exchange(f"client {number}")
            except qorb_trio.ClaimError as error:
                self.refused[type(error)] += 1
            await trio.sleep(0.001)

    async def exchange(self, who: str, *, reply: float = REPLY) -> None:
        """Make one exchange, wait for its reply for `reply` seconds, and count the result."""
        backend = None
        try:
            async with self.pool.claim() as conn:
                backend = conn.backend
                with self.connector.account.holding(conn, who), trio.fail_after(reply):
                    await conn.ask()
            self.served[backend] += 1
        except BROKEN:
            if backend is None:
                raise  # a claim that failed is a `TooSlowError` too
            self.broken[backend] += 1

    async def serves(self, *backends: Backend, more: int = 20) -> None:
        """Wait until each of these backends has sent `more` further replies."""
        goals = {backend: self.served[backend] + more for backend in backends}
        await self.until(
            lambda: all(self.served[backend] >= goal for backend, goal in goals.items()),
            f"these reply: {backends}",
        )

    async def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for the condition; if it does not come true, add the pool's state to the error."""
        try:
            await until(condition, what)
        except AssertionError as error:
            served = {backend.name: count for backend, count in self.served.items()}
            error.add_note(f"{self.pool.stats()}; replies {served}, refused {self.refused}")
            raise


@asynccontextmanager
async def open_scene(
    resolver: Resolver, *, policy: Policy = POLICY, clients: int = 6
) -> AsyncIterator[Scene]:
    """A pool on these backends and its clients, while the block runs.

    Raises:
      AssertionError: if any connection was lost, doubled or leaked, a cap exceeded, or a
        reply wrong.
    """
    connector = AccountedConnector(policy)
    async with trio.open_nursery() as nursery:
        async with qorb_trio.open_pool(nursery, resolver, connector, policy=policy) as pool:
            scene = Scene(pool, connector)
            async with trio.open_nursery() as crowd:
                for number in range(clients):
                    crowd.start_soon(scene.client, number)
                yield scene
                crowd.cancel_scope.cancel()
        running = [task.name for task in nursery.child_tasks]
    wrong = [*connector.account.at_the_end(), *(f"{name} still runs" for name in running)]
    assert not wrong, "\n".join(wrong)
    assert connector.account.opened == connector.account.closed
