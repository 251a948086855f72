"""An empty set is confirmed before it is believed, and `on_empty` says what happens then."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from qorb_trio.resolvers._dns.records import Question

from .net import SERVICE, FakeNet, Fault, echo, echo_names, until, watching

HOST1 = "echo001.test.com"


async def test_empty_from_the_start(autojump_clock: MockClock) -> None:
    """Empty from the start is confirmed, and is then one empty snapshot."""
    net = FakeNet()
    async with watching(net) as watch:
        await trio.sleep(0.9)
        assert watch.updates == []
        assert watch.state().state == "unconfirmed"
        await trio.sleep(300)
        assert watch.sets == [set()]
        assert watch.updates[0][0] == pytest.approx(1.05, abs=0.06)
        assert watch.state().state == "empty"


async def test_two_servers_confirm_at_once(autojump_clock: MockClock) -> None:
    """A second server that says the same confirms a "no" without SOA."""
    net = FakeNet("10.0.0.1", "10.0.0.2")
    net[0].negative_ttl = net[1].negative_ttl = None
    async with watching(net) as watch:
        await trio.sleep(100)
        assert watch.sets == [set()]
        assert watch.updates[0][0] < 0.1


async def test_gone_and_back(autojump_clock: MockClock) -> None:
    """A service that goes is removed once confirmed, and comes back."""
    net = FakeNet()
    echo(net)
    async with watching(net) as watch:
        await trio.sleep(10)
        net.set(SERVICE, "SRV")
        await trio.sleep(60)
        assert watch.sets == [echo_names(), set()]
        assert watch.updates[1][0] == pytest.approx(61.05, abs=0.1)
        echo(net)
        await trio.sleep(70)
        assert watch.sets == [echo_names(), set(), echo_names()]


async def test_one_wrong_no_is_no_event(autojump_clock: MockClock) -> None:
    """A single NXDOMAIN among right answers changes nothing."""
    net = FakeNet()
    echo(net)
    async with watching(net) as watch:
        await trio.sleep(10)
        for _ in range(20):
            net.set(SERVICE, "SRV")
            asked = net[0].count(SERVICE)
            await until(lambda asked=asked: net[0].count(SERVICE) > asked, step=0.5)  # type: ignore[misc]
            echo(net)
            await trio.sleep(5)
        assert len(watch.updates) == 1


async def test_a_failure_in_between_neither_confirms_nor_counts(
    autojump_clock: MockClock,
) -> None:
    """No, SERVFAIL, no: the failure confirms nothing, the second "no" does."""
    net = FakeNet()
    echo(net)
    async with watching(net) as watch:
        await trio.sleep(10)
        net.set(SERVICE, "SRV")
        await trio.sleep(50.5)  # the first "no" has been given
        assert watch.state().state == "unconfirmed"
        net.fault("SERVFAIL")
        await trio.sleep(100)
        assert watch.state().state == "failing"
        assert len(watch.updates) == 1
        net.fault(None)
        await trio.sleep(11)
        assert watch.sets == [echo_names(), set()]


@pytest.mark.parametrize("other_family", [True, False])
async def test_one_target_gone(autojump_clock: MockClock, other_family: bool) -> None:
    """One target's NXDOMAIN or NODATA takes its backend away, once confirmed."""
    net = FakeNet()
    echo(net)
    if other_family:
        net.set(HOST1, "TXT", "x")
    async with watching(net) as watch:
        await trio.sleep(10)
        net.set(HOST1, "AAAA")
        await trio.sleep(100)
        assert watch.sets == [echo_names(), echo_names(2, 3)]
        assert 61 <= watch.updates[1][0] <= 67.3


async def test_one_target_gone_for_a_moment(autojump_clock: MockClock) -> None:
    """One target's NXDOMAIN that is not confirmed is no event."""
    net = FakeNet()
    echo(net)
    async with watching(net) as watch:
        await trio.sleep(30)
        net.set(HOST1, "AAAA")
        await until(lambda: net[0].count(HOST1, "AAAA") == 2)
        assert watch.state(HOST1, "AAAA").state == "unconfirmed"
        echo(net)
        await trio.sleep(100)
        assert len(watch.updates) == 1


async def test_keep(autojump_clock: MockClock) -> None:
    """With `on_empty="keep"`, confirmed emptiness removes nothing before `max_stale`."""
    net = FakeNet()
    echo(net)
    async with watching(net, on_empty="keep", max_stale=1000.0) as watch:
        await trio.sleep(65)
        net.set(SERVICE, "SRV")
        await trio.sleep(800)
        assert watch.sets == [echo_names()]
        await trio.sleep(500)
        assert watch.sets == [echo_names(), set()]
        assert watch.updates[1][0] == pytest.approx(1060, abs=8)
        echo(net)
        await trio.sleep(70)
        assert watch.names == echo_names()


async def test_keep_until_it_is_back(autojump_clock: MockClock) -> None:
    """Kept backends that are named again are no event; others named instead are one."""
    net = FakeNet()
    echo(net)
    async with watching(net, on_empty="keep") as watch:
        await trio.sleep(10)
        net.set(SERVICE, "SRV")
        await trio.sleep(200)
        echo(net)
        await trio.sleep(70)
        assert len(watch.updates) == 1
        net.set(SERVICE, "SRV")
        await trio.sleep(200)
        echo(net, hosts=2)
        await trio.sleep(70)
        assert watch.sets == [echo_names(), echo_names(1, 2)]


async def test_keep_when_all_targets_go(autojump_clock: MockClock) -> None:
    """`on_empty` is about the whole set: the last target's backend is kept too."""
    net = FakeNet()
    echo(net, hosts=1)
    async with watching(net, on_empty="keep", max_stale=1000.0) as watch:
        await trio.sleep(10)
        net.set(HOST1, "AAAA")
        await trio.sleep(900)
        assert watch.sets == [echo_names(1)]
        await trio.sleep(500)
        assert watch.sets == [echo_names(1), set()]
        assert 1000 <= watch.updates[1][0] <= 1070


async def test_keep_from_the_start(autojump_clock: MockClock) -> None:
    """With nothing to keep, "keep" sends the empty snapshot too; so does an outage."""
    net = FakeNet()
    async with watching(net, on_empty="keep") as watch:
        await trio.sleep(10)
        assert watch.sets == [set()]
    echo(net)
    async with watching(net, on_empty="keep", max_stale=100.0) as watch:
        await trio.sleep(10)
        net.fault("closed")
        await trio.sleep(200)
        assert watch.sets == [echo_names(), set()]


async def test_not_offered(autojump_clock: MockClock) -> None:
    """The target "." alone is an empty answer: confirmed, and with no fallback to A."""
    net = FakeNet()
    net.set("db.com", "SRV", "0 0 0 .")
    net.set("db.com", "A", "10.1.0.1")
    async with watching(net, "db.com", default_port=80) as watch:
        await trio.sleep(10)
        assert watch.sets == [set()]
        assert watch.updates[0][0] == pytest.approx(1.05, abs=0.06)
        assert net[0].count("db.com", "A") == 0
        net.set("db.com", "SRV", "0 0 80 db.com.")
        await trio.sleep(65)
        net.set("db.com", "SRV", "0 0 0 .")
        await trio.sleep(65)
        assert watch.sets == [set(), {"db.com:80@10.1.0.1"}, set()]


async def test_absent_families_are_not_asked_around(autojump_clock: MockClock) -> None:
    """A family that a host does not have is not asked of each server at each refresh."""
    net = FakeNet("10.0.0.1", "10.0.0.2", "10.0.0.3")
    echo(net, hosts=1)
    async with watching(net):
        await trio.sleep(10)
        first = net[1].count()
        await trio.sleep(3600)
        assert net[1].count() == first
        assert net[2].count() <= first


async def test_empty_and_then_failing(autojump_clock: MockClock) -> None:
    """An empty service whose name then fails stays empty, for ever."""
    net = FakeNet()

    def fault(question: Question) -> Fault:
        return "SERVFAIL" if trio.current_time() > 30 else None

    net.fault(fault)
    async with watching(net, max_stale=100.0) as watch:
        await trio.sleep(1000)
        assert watch.sets == [set()]
