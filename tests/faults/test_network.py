"""A pool on real sockets, with one backend behind a network that does everything wrong."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

import attrs
import pytest
import trio

import qorb_trio
from qorb_trio import Backend, Connector
from qorb_trio.testing import ManualResolver

from .account import AccountedConnector
from .echo import Echo
from .left import PATIENCE, until
from .proxy import Fault, FaultProxy
from .scene import POLICY, open_scene
from .servers import open_servers

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("leaves_nothing")]

#: Under these, a connection that is there goes on as if nothing had happened, or slowly.
HARMLESS = {Fault.DELAY}

C = TypeVar("C")


@asynccontextmanager
async def open_network() -> AsyncIterator[tuple[FaultProxy, Backend, Backend]]:
    """A proxy, the backend that is behind it, and one that can be had without."""
    async with open_servers(2) as [far, near], trio.open_nursery() as nursery:
        proxy = FaultProxy(far.address)
        await nursery.start(proxy.serve)
        yield proxy, Backend(proxy.address), near.backend
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("fault", Fault)
async def test_a_fault_and_its_end(fault: Fault) -> None:
    """While one backend's network is at fault the other one serves; then both do again."""
    async with open_network() as (proxy, far, near):
        async with open_scene(ManualResolver([far, near])) as scene:
            await scene.serves(far, near)
            proxy.inflict(fault)
            if fault not in HARMLESS:
                await scene.until(
                    lambda: scene.pool.stats().backends[far.name].failures,
                    "the pool has noticed",
                )
            await scene.serves(near, more=100)
            proxy.heal()
            await scene.serves(far, near)


async def test_some_connections_suffer() -> None:
    """Both backends serve again after faults that strike one connection or chunk in three."""
    async with open_network() as (proxy, far, near):
        async with open_scene(ManualResolver([far, near])) as scene:
            for fault in Fault:
                await scene.serves(far, near)
                proxy.inflict(fault, odds=1 / 3)
                await scene.serves(near, more=50)
                proxy.heal()
            await scene.serves(far, near)


async def test_the_only_backend() -> None:
    """With one backend only, claims are served again as soon as its network works."""
    async with open_network() as (proxy, far, _):
        policy = attrs.evolve(POLICY, claim_timeout=0.2)
        async with open_scene(ManualResolver([far]), policy=policy, clients=3) as scene:
            for fault in [one for one in Fault if one not in HARMLESS]:
                await scene.serves(far)
                scene.broken.clear()
                scene.refused.clear()
                proxy.inflict(fault)
                await scene.until(lambda: scene.broken or scene.refused, "somebody suffers")
                proxy.heal()
            await scene.serves(far)


@pytest.mark.parametrize("fault", Fault)
async def test_the_end_in_the_midst_of_it(fault: Fault) -> None:
    """A pool is left while its network is at fault, with connections idle and in use: all close."""
    policy = attrs.evolve(POLICY, drain_timeout=0.05)
    connector = AccountedConnector(policy)
    async with open_network() as (proxy, far, _):
        async with trio.open_nursery() as nursery:
            async with qorb_trio.open_pool(
                nursery, ManualResolver([far]), connector, policy=policy
            ) as pool:
                await pool.wait_ready(4)
                nursery.start_soon(ask_until_closed, await pool.acquire())
                proxy.inflict(fault)
        assert not connector.account.at_the_end()
        assert connector.account.opened == connector.account.closed >= 4


async def ask_until_closed(claim: qorb_trio.Claim[Echo]) -> None:
    """Ask until that is no longer possible."""
    try:
        while True:
            await claim.connection.ask()
    except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
        claim.discard()


async def test_ff01_the_next_claimant_gets_its_own_reply() -> None:
    """A client gives up on a late reply, which then comes: the next one does not see it."""
    async with open_network() as (proxy, far, _):
        policy = attrs.evolve(POLICY, max_slots=1, spares_wanted=1)
        async with open_scene(ManualResolver([far]), policy=policy, clients=0) as scene:
            for _ in range(5):
                await scene.exchange("a patient client", reply=PATIENCE)
                proxy.inflict(Fault.STALL)
                with trio.move_on_after(0.02) as impatient:
                    await scene.exchange("an impatient client", reply=PATIENCE)
                assert impatient.cancelled_caught
                proxy.heal()
                await scene.exchange("the next client", reply=PATIENCE)
            assert scene.served[far] == 10


def is_broken(connector: Connector[C], conn: C) -> bool:
    """Ask the connector, whose way to say so may be to raise the reason."""
    try:
        return connector.is_broken(conn)
    except OSError:
        return True


@pytest.mark.parametrize("what", ["reset", "closed", "stray bytes"])
async def test_ff12_broken_while_idle(what: str) -> None:
    """A spare whose peer has reset it, closed it or said something unasked is not lent."""
    async with open_network() as (proxy, far, _):
        config = attrs.evolve(POLICY.set_config, health_interval=math.inf)
        policy = attrs.evolve(POLICY, max_slots=1, set_config=config)
        async with open_scene(ManualResolver([far]), policy=policy, clients=0) as scene:
            await scene.exchange("the first client", reply=PATIENCE)
            [spare] = scene.connector.account.live
            if what == "stray bytes":
                [link] = proxy.links
                await link.client.socket.send(b"by the way")
            else:
                proxy.inflict(Fault.RESET if what == "reset" else Fault.HALF_CLOSE)
                proxy.heal()
            await until(lambda: is_broken(scene.connector, spare), "the news has arrived")
            await scene.exchange("the next client", reply=PATIENCE)
            assert scene.served[far] == 2
            assert spare not in scene.connector.account.live
