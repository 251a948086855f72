"""The clients of the soak: their requests, and their mistakes."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable

import attrs
import trio

import qorb_trio
from qorb_trio import Backend, Pool
from tests.faults.account import Account
from tests.faults.echo import Echo, WrongReplyError, frame

from .histogram import Histogram

#: Seconds that a client waits for a reply, and average seconds between two claims.
REPLY = 0.5
REST = 0.004

BROKEN = (OSError, trio.BrokenResourceError, trio.TooSlowError)


class BodyError(Exception):
    """A client's own error."""


@attrs.define(eq=False)
class Load:
    """Clients that claim, ask and release, until told to pause."""

    pool: Pool[Echo]
    account: Account
    rng: random.Random
    fails_fast: Callable[[Backend], bool] = lambda _: False
    """Returns True if a claim on a backend has to fail at once."""
    claims: Counter[str] = attrs.field(factory=Counter)
    """Number of claims with each outcome."""
    replies: int = 0
    waits: Histogram = attrs.field(factory=Histogram)
    """From the claim to the connection."""
    turns: Histogram = attrs.field(factory=Histogram)
    """From the claim to the release, replies included, where all went well."""
    busy: int = 0
    """Clients that are not pausing."""
    _go: trio.Event = attrs.field(factory=trio.Event)

    def resume(self) -> None:
        """Go on."""
        self._go.set()

    def pause(self) -> None:
        """Make no more claims."""
        self._go = trio.Event()

    async def client(self, number: int) -> None:
        """One client, for ever."""
        name = f"client {number}"
        while True:
            await self._go.wait()
            self.busy += 1
            try:
                self.claims[await self.turn(name)] += 1
            except trio.ClosedResourceError:
                self.account.violations.append(f"the connection of {name} was closed under it")
            self.busy -= 1
            if self.rng.random() < 0.5:
                await trio.sleep(self.rng.uniform(0, 4 * REST))

    async def turn(self, name: str) -> str:
        """Make one claim, and return its outcome."""
        chance = self.rng.random()
        if chance > 0.9995:
            return await self._call_from_a_thread()
        patience = self.rng.uniform(0, 0.003) if chance < 0.03 else math.inf
        try:
            with trio.move_on_after(patience) as scope:
                await self._claim(name, chance)
        except BodyError:
            return "raised by the client"
        except WrongReplyError:
            return "wrong reply"  # which the account takes down
        except qorb_trio.ClaimError as error:
            return f"not granted: {type(error).__name__}"
        except BROKEN as error:
            return f"exchange failed: {type(error).__name__}"
        return "cancelled by the client" if scope.cancelled_caught else "done"

    async def _call_from_a_thread(self) -> str:
        """Call a method in a thread that is not the pool's: it must be refused."""
        method = self.rng.choice([self.pool.suspend, self.pool.recycle, self.pool.claim_nowait])
        try:
            await trio.to_thread.run_sync(method)
        except RuntimeError as error:
            if "another thread" in str(error):
                return "refused, as from a foreign thread"
        self.account.violations.append(f"{method.__name__} in a foreign thread was accepted")
        return "accepted from a foreign thread"

    async def _claim(self, name: str, chance: float) -> None:
        begun = trio.current_time()
        if chance < 0.1:
            claim = await self.pool.acquire()
            granted = trio.current_time()
            try:
                await self._use(claim.connection, name, chance)
            except BaseException:
                claim.discard()
                raise
            claim.release()
        else:
            async with self.pool.claim() as conn:
                granted = trio.current_time()
                await self._use(conn, name, chance)
        self.waits.add(granted - begun)
        self.turns.add(trio.current_time() - begun)

    async def _use(self, conn: Echo, name: str, chance: float) -> None:
        with self.account.holding(conn, name), trio.fail_after(REPLY):
            if self.fails_fast(conn.backend):
                raise ConnectionResetError("the backend fails fast")
            if 0.1 < chance < 0.12:
                await conn.stream.send_all(frame(0))  # and nobody reads the reply
                raise BodyError
            for _ in range(1 + (chance > 0.9)):
                await conn.ask()
                self.replies += 1
