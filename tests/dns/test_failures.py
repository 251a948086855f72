"""A failure is not an empty answer: outages, staleness, targets that cannot be looked up."""

from __future__ import annotations

import itertools
import math

import pytest
import trio
from trio.testing import MockClock

from qorb_trio.resolvers._dns.records import Question

from .net import SERVICE, FakeNet, Fault, echo, echo_names, watching

HOST1 = "echo001.test.com"


@pytest.mark.parametrize("fault", ["hang", "closed", "SERVFAIL", "REFUSED"])
async def test_an_hour_of_outage_drops_no_backend(autojump_clock: MockClock, fault: str) -> None:
    """While DNS fails for an hour, in whatever way, nothing changes and queries are few."""
    net = FakeNet("10.0.0.1", "10.0.0.2")
    echo(net)
    async with watching(net) as watch:
        await trio.sleep(10)
        net.fault(fault)
        before = len(net.log)
        await trio.sleep(3600)
        assert watch.sets == [echo_names()]
        # Seven names, each at most every ten seconds, and of two servers.
        assert len(net.log) - before <= 7 * 2 * 3600 / 10 + 7 * 2 * 5
        state = watch.state()
        assert state.state == "failing"
        assert 3500 < state.stale <= 3610
        assert state.last_error is not None
        net.fault(None)
        await trio.sleep(30)
        assert watch.state().state == "good"
        assert len(watch.updates) == 1


async def test_servers_down_for_300_seconds(autojump_clock: MockClock) -> None:
    """Five minutes without DNS are no event; the retries back off from 1 to 10 seconds."""
    net = FakeNet()
    echo(net)
    async with watching(net) as watch:
        await trio.sleep(1)
        net.fault("closed")
        await trio.sleep(300)
        assert len(watch.updates) == 1
        times = [when for when, q in net.log if q.name == SERVICE and when > 50]
        gaps = [b - a for a, b in itertools.pairwise(times)]
        assert [round(gap, 1) for gap in gaps[4:-1]] == [10.0] * (len(gaps) - 5)
        assert all(
            low <= gap <= low * 1.1 + 0.01 for low, gap in zip([1, 2, 4, 8], gaps, strict=False)
        )
        net.fault(None)
        await trio.sleep(11)
        assert watch.state().failures == 0


@pytest.mark.parametrize("fault", ["hang", "closed", "SERVFAIL"])
async def test_down_past_max_stale_is_one_removal(autojump_clock: MockClock, fault: str) -> None:
    """An outage longer than `max_stale` removes all backends in one update, at that time."""
    net = FakeNet()
    echo(net)
    net[0].set(HOST1, "AAAA", "::1", ttl=25)
    async with watching(net, max_stale=1000.0) as watch:
        await trio.sleep(500)
        net.fault(fault)
        last = net.log[-1][0]
        await trio.sleep(2000)
        assert watch.sets == [echo_names(), set()]
        assert watch.updates[1][0] == pytest.approx(last + 1000, abs=2)
        net.fault(None)
        await trio.sleep(30)
        assert watch.sets == [echo_names(), set(), echo_names()]


@pytest.mark.parametrize("max_stale", [0.0, 2.0, 15.0, 25.0])
async def test_a_short_max_stale_is_one_removal(
    autojump_clock: MockClock, max_stale: float
) -> None:
    """Names that have not failed yet when `max_stale` is over are removed with the rest."""
    # A dozen names that hang take several timeouts, as only five are asked at once.
    net = FakeNet()
    echo(net, hosts=12, ttl=2)
    net.set(SERVICE, "SRV", *net[0].records[SERVICE, "SRV"][1], ttl=300)
    async with watching(net, max_stale=max_stale, query_interval=3600.0) as watch:
        await trio.sleep(10)
        net.fault("hang")
        await trio.sleep(100)
        assert watch.sets == [echo_names(*range(1, 13)), set()]
        assert watch.updates[1][0] <= 10 + max(max_stale, 10) + 2.5


async def test_a_failing_target_takes_no_other_along(autojump_clock: MockClock) -> None:
    """A name that fails removes no other name that is being queried, even at `max_stale` 0."""
    net = FakeNet()
    echo(net, ttl=60)
    net.fault(lambda q: "SERVFAIL" if q.name == HOST1 and trio.current_time() > 30 else None)
    net[0].latency = 0.1
    async with watching(net, max_stale=0.0) as watch:
        await trio.sleep(200)
        assert watch.sets == [echo_names(), echo_names(2, 3)]


async def test_endless_max_stale(autojump_clock: MockClock) -> None:
    """`math.inf` keeps backends through any outage."""
    net = FakeNet()
    echo(net)
    async with watching(net, max_stale=math.inf) as watch:
        await trio.sleep(1)
        net.fault("closed")
        await trio.sleep(3000)
        assert len(watch.updates) == 1


async def test_one_target_past_max_stale(autojump_clock: MockClock) -> None:
    """A target that fails alone goes after `max_stale` since its own last answer."""
    net = FakeNet()
    echo(net)

    def fault(question: Question) -> Fault:
        return "SERVFAIL" if question.name == HOST1 and trio.current_time() > 10 else None

    net.fault(fault)
    async with watching(net, max_stale=500.0) as watch:
        await trio.sleep(1000)
        assert watch.sets == [echo_names(), echo_names(2, 3)]
        assert watch.updates[1][0] == pytest.approx(500, abs=1)


async def test_only_failures_from_the_start_send_nothing(autojump_clock: MockClock) -> None:
    """SERVFAIL from all servers at the start is a failing state, not an empty success."""
    net = FakeNet("10.0.0.1", "10.0.0.2")
    net.fault("SERVFAIL")
    async with watching(net) as watch:
        await trio.sleep(1000)
        assert watch.updates == []
        state = watch.state()
        assert state.state == "failing"
        assert state.last_error == "10.0.0.1:53: SERVFAIL; 10.0.0.2:53: SERVFAIL"
        assert state.stale > 900
        echo(net)
        net.fault(None)
        await trio.sleep(11)
        assert watch.sets == [echo_names()]


async def test_targets_that_only_fail_send_nothing(autojump_clock: MockClock) -> None:
    """With SRV records but no target that can be looked up, there is no snapshot yet."""
    net = FakeNet()
    echo(net)
    net.fault(lambda q: "SERVFAIL" if q.rdtype != "SRV" else None)
    async with watching(net) as watch:
        await trio.sleep(500)
        assert watch.updates == []
        net.fault(None)
        await trio.sleep(11)
        assert watch.names == echo_names()


async def test_a_failing_and_an_absent_target(autojump_clock: MockClock) -> None:
    """One target SERVFAIL, one NXDOMAIN: the third one is published without them."""
    net = FakeNet()
    echo(net)
    net.set(HOST1, "AAAA")
    net.fault(lambda q: "SERVFAIL" if q.name == "echo002.test.com" else None)
    async with watching(net) as watch:
        await trio.sleep(5)
        assert watch.sets == [echo_names(3)]
        assert watch.updates[0][0] < 1
        net.fault(None)
        await trio.sleep(30)
        assert watch.names == echo_names(2, 3)


async def test_a_hanging_target_delays_the_first_snapshot_once(autojump_clock: MockClock) -> None:
    """A target that hangs costs the first snapshot one `query_timeout`, and no more."""
    net = FakeNet("10.0.0.1", "10.0.0.2")
    echo(net)
    net.fault(lambda q: "hang" if q.name == HOST1 else None)
    async with watching(net, query_timeout=3.0) as watch:
        await trio.sleep(60)
        assert watch.sets == [echo_names(2, 3)]
        assert watch.updates[0][0] == pytest.approx(3, abs=0.2)
        net.fault(None)
        await trio.sleep(20)
        assert watch.names == echo_names()


async def test_many_hanging_targets_delay_the_first_snapshot_no_longer(
    autojump_clock: MockClock,
) -> None:
    """Targets behind others that hang come in one update, as soon as there is a turn for them."""
    net = FakeNet()
    echo(net, hosts=12)
    hung = {f"echo{i:03}.test.com" for i in range(1, 9)}
    net.fault(lambda q: "hang" if q.name in hung else None)
    async with watching(net, query_timeout=2.0) as watch:
        await trio.sleep(100)
        assert watch.sets == [echo_names(9, 10, 11, 12)]
        assert watch.updates[0][0] == pytest.approx(6, abs=0.1)  # five turns, eight that hang


@pytest.mark.parametrize(("turns", "hanging"), [(1, 1), (2, 1), (3, 2), (5, 3)])
async def test_hanging_targets_cost_one_timeout_where_there_are_turns(
    autojump_clock: MockClock, turns: int, hanging: int
) -> None:
    """A target that hangs delays the rest by one timeout, not by one for each family."""
    net = FakeNet()
    echo(net, hosts=12)
    hung = {f"echo{i:03}.test.com" for i in range(1, hanging + 1)}
    net.fault(lambda q: "hang" if q.name in hung else None)
    async with watching(net, query_timeout=2.0, max_dns_concurrency=turns) as watch:
        await trio.sleep(100)
        assert watch.sets == [echo_names(*range(hanging + 1, 13))]
        assert watch.updates[0][0] == pytest.approx(2, abs=0.3)


async def test_a_hanging_new_target_does_not_hold_up_the_rest(autojump_clock: MockClock) -> None:
    """New SRV records with one target that hangs are adopted after one `query_timeout`."""
    net = FakeNet()
    echo(net, hosts=2)
    async with watching(net, query_timeout=5.0) as watch:
        await trio.sleep(10)
        net.fault(lambda q: "hang" if q.name == "echo004.test.com" else None)
        echo(net, hosts=4)
        await trio.sleep(100)
        assert watch.sets == [echo_names(1, 2), echo_names(1, 2, 3)]
        assert watch.updates[1][0] == pytest.approx(65, abs=1)


async def test_backends_are_not_given_up_for_targets_that_fail(autojump_clock: MockClock) -> None:
    """Old backends stay while none of the new SRV targets can be looked up."""
    net = FakeNet()
    echo(net, hosts=1)
    async with watching(net, max_stale=2000.0) as watch:
        await trio.sleep(10)
        net.set(SERVICE, "SRV", "1 1 6009 new.test.com.")
        net.set("new.test.com", "AAAA", "::9")
        net.fault(lambda q: "SERVFAIL" if q.name == "new.test.com" else None)
        await trio.sleep(1000)
        assert watch.sets == [echo_names(1)]
        net.fault(None)
        await trio.sleep(15)
        assert watch.sets == [echo_names(1), {"new.test.com:6009@::9"}]


async def test_new_targets_that_never_resolve(autojump_clock: MockClock) -> None:
    """... but no longer than `max_stale`."""
    net = FakeNet()
    echo(net, hosts=1)
    async with watching(net, max_stale=500.0) as watch:
        await trio.sleep(10)
        net.set(SERVICE, "SRV", "1 1 6009 new.test.com.")
        net.fault(lambda q: "SERVFAIL" if q.name == "new.test.com" else None)
        await trio.sleep(1000)
        assert watch.sets == [echo_names(1), set()]
        assert watch.updates[1][0] == pytest.approx(561, abs=1)


async def test_new_targets_that_do_not_exist(autojump_clock: MockClock) -> None:
    """New SRV records whose targets do not exist empty the set, once that is confirmed."""
    net = FakeNet()
    echo(net, hosts=1)
    async with watching(net) as watch:
        await trio.sleep(10)
        net.set(SERVICE, "SRV", "1 1 6009 new.test.com.")
        await trio.sleep(100)
        assert watch.sets == [echo_names(1), set()]
        assert watch.updates[1][0] == pytest.approx(62.1, abs=0.2)
        assert net[0].count("new.test.com", "A") == 2
