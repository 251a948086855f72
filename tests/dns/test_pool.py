"""A pool whose backends come from DNS, in virtual time."""

from __future__ import annotations

import random

import pytest
import trio
from trio.testing import MockClock

from qorb_trio import DnsResolver, open_pool
from qorb_trio.testing import FakeConnector

from .net import SERVICE, FakeNet, echo, echo_names, watching

HOST1 = "echo001.test.com"


def resolver_over(net: FakeNet) -> DnsResolver:
    return DnsResolver(SERVICE, nameservers=net.servers, rng=random.Random(1), transport=net)


@pytest.mark.parametrize("fault", ["hang", "closed", "SERVFAIL"])
async def test_no_claim_fails_for_an_hour_without_dns(
    autojump_clock: MockClock, nursery: trio.Nursery, fault: str
) -> None:
    """An hour without DNS: each claim is served, and no backend is given up."""
    net = FakeNet("10.0.0.1", "10.0.0.2")
    echo(net, ttl=30)
    connector = FakeConnector()
    async with open_pool(nursery, resolver_over(net), connector) as pool:
        await pool.wait_ready()
        await trio.sleep(60)
        net.fault(fault)
        for _ in range(3600):
            async with pool.claim(timeout=1):
                await trio.sleep(0.5)
            await trio.sleep(0.5)
        assert set(pool.stats().backends) == echo_names()
        assert all(connector.to(name) for name in echo_names())
    connector.assert_all_closed()


async def test_a_change_of_weight_closes_nothing(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """Other weights, priorities and cases of the same targets: no connection is closed."""
    net = FakeNet()
    echo(net, hosts=2, ttl=10)
    connector = FakeConnector()
    async with open_pool(nursery, resolver_over(net), connector) as pool:
        await pool.wait_ready()
        before = set(connector.open)
        net.set(SERVICE, "SRV", "1 2 6001 ECHO001.test.com.", "1 1 6002 echo002.test.com.", ttl=10)
        await trio.sleep(15)
        assert {b.backend.weight for b in pool.stats().backends.values()} == {1, 2}
        assert before <= set(connector.open)


async def test_a_change_of_address_moves_one_backend(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """A host gets another address: that backend is replaced, and the other is left alone."""
    net = FakeNet()
    echo(net, hosts=2, ttl=10)
    connector = FakeConnector()
    async with open_pool(nursery, resolver_over(net), connector) as pool:
        await pool.wait_ready()
        await trio.sleep(1)
        [other] = echo_names(2)
        before = connector.to(other)
        net.set(HOST1, "AAAA", "::9", ttl=10)
        await trio.sleep(30)
        moved = f"{HOST1}:6001@::9"
        assert set(pool.stats().backends) == {moved, other}
        assert connector.to(moved)
        assert not connector.to(next(iter(echo_names(1))))
        assert set(before) <= set(connector.to(other))


async def test_backends_carry_the_target(autojump_clock: MockClock) -> None:
    """`Backend.target` is the SRV target, or the host, lower case and without the final dot."""
    net = FakeNet()
    net.set(SERVICE, "SRV", "1 1 6001 ECHO001.Test.com.")
    net.set(HOST1, "AAAA", "::1")
    net.set("db.test.com", "A", "10.0.0.1")
    async with watching(net) as watch:
        await trio.sleep(1)
        assert [backend.target for backend in watch.backends] == [HOST1]
    async with watching(net, "DB.test.com.", default_port=80) as watch:
        await trio.sleep(3)
        assert [backend.target for backend in watch.backends] == ["db.test.com"]
