"""Faults at random: which, where, how long, all drawn from one seed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import attrs
import trio

from tests.faults.proxy import Fault

from .world import Site, World

#: Seconds after which a server that closes idle connections closes one, and seconds between
#: its checks.
IDLE = 0.05
LOOK = 0.02

#: Maximum duration of a fault, in multiples of the pause between two faults.
LONGEST = 6

Harm: TypeAlias = Callable[[Site, float], Awaitable[None]]


@attrs.define(eq=False)
class Storm:
    """Breaks a world, and mends it again."""

    world: World
    rng: random.Random
    pause: float
    """Seconds from one fault to the next, on average."""
    faults: Counter[str] = attrs.field(factory=Counter)
    """Number of times that each fault was inflicted."""
    closed_idle: int = 0
    """Connections that were closed because they were idle."""

    async def blow(self, seconds: float) -> None:
        """Inflict faults for `seconds`, and return when all are mended."""
        end = trio.current_time() + seconds
        async with trio.open_nursery() as nursery:
            while (left := end - trio.current_time()) > 0:
                await trio.sleep(min(left, self.rng.expovariate(1 / self.pause)))
                nursery.start_soon(self._harm)

    async def _harm(self) -> None:
        """One fault, from its beginning to its end; a site has one at a time."""
        site = self.rng.choice(self.world.sites)
        seconds = self.rng.uniform(0, LONGEST * self.pause)
        kinds: list[Harm] = [self._kill, self._move, self._stop, self._unlist, self._reweigh]
        kinds.append(self._fail_fast)
        if self.rng.random() < 0.5:
            kinds += [self._break_dns, self._unlist_all]
        if site.proxy is not None:
            kinds += [self._break_proxy] * 7 + [self._close_idle] * 2
        harm = self.rng.choice(kinds)
        if not site.harmed:
            site.harmed = True
            await harm(site, seconds)
            site.harmed = False

    async def _break_proxy(self, site: Site, seconds: float) -> None:
        assert site.proxy is not None
        fault = self.rng.choice(list(Fault))
        self.faults[f"proxy: {fault.name.lower()}"] += 1
        site.proxy.inflict(fault, odds=self.rng.choice([1, 1, 0.3, 0.05]))
        await trio.sleep(seconds)
        site.proxy.heal()

    async def _close_idle(self, site: Site, seconds: float) -> None:
        """Close idle connections, as servers and balancers do; that is no failure."""
        assert site.proxy is not None
        self.faults["proxy: idle connections are closed"] += 1
        with trio.move_on_after(seconds):
            while True:
                self.closed_idle += site.proxy.close_idle(IDLE)
                await trio.sleep(LOOK)

    async def _fail_fast(self, site: Site, seconds: float) -> None:
        self.faults["server: fails each claim at once"] += 1
        site.fails_fast = True
        await trio.sleep(seconds)
        site.fails_fast = False

    async def _kill(self, site: Site, seconds: float) -> None:
        self.faults["server: kill -9"] += 1
        await site.server.kill()
        await trio.sleep(seconds)
        await site.server.start()

    async def _move(self, site: Site, seconds: float) -> None:
        self.faults["server: kill -9, moved to another port"] += 1
        await site.server.move()
        await trio.sleep(seconds)  # DNS is late
        self.world.publish()

    async def _stop(self, site: Site, seconds: float) -> None:
        self.faults["server: SIGSTOP, so that it accepts and is silent"] += 1
        site.server.stop()
        await trio.sleep(seconds)
        site.server.resume()

    async def _unlist(self, site: Site, seconds: float) -> None:
        self.faults["DNS: a backend leaves"] += 1
        site.listed = False
        self.world.publish()
        await trio.sleep(seconds)
        site.listed = True
        self.world.publish()

    async def _reweigh(self, site: Site, seconds: float) -> None:
        self.faults["DNS: other weights"] += 1
        site.weight = self.rng.choice([1, 2, 5])
        self.world.publish()

    async def _break_dns(self, site: Site, seconds: float) -> None:
        what = self.rng.choice(["SERVFAIL", "drop", "garbage", "wrong_id", "truncate"])
        self.faults[f"DNS: {what}"] += 1
        self.world.dns.fault = lambda query: what
        await trio.sleep(seconds)
        self.world.dns.fault = None

    async def _unlist_all(self, site: Site, seconds: float) -> None:
        self.faults["DNS: no backend at all"] += 1
        self.world.hidden += 1
        self.world.publish()
        await trio.sleep(seconds)
        self.world.hidden -= 1
        self.world.publish()
