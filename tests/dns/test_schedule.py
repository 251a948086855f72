"""The times of queries: TTLs, limits, steady state. In virtual time."""

from __future__ import annotations

import itertools
import math
import random

import pytest
import trio
from trio.testing import MockClock

from qorb_trio import DnsResolverConfig
from qorb_trio.resolvers._dns.records import Question
from qorb_trio.resolvers._dns.service import Service
from qorb_trio.resolvers._dns.table import TrackerTable

from .net import SERVICE, FakeNet, echo, echo_names, watching


async def test_first_snapshot_is_complete(autojump_clock: MockClock) -> None:
    """The first update has every backend of qorb's example zone, at once."""
    net = FakeNet()
    echo(net)
    async with watching(net) as watch:
        await trio.sleep(1)
        assert watch.sets == [echo_names()]
        assert {(b.priority, b.weight) for b in watch.backends} == {(1, 1)}
        assert {b.address for b in watch.backends} == {("::1", 6000 + i) for i in (1, 2, 3)}


async def test_a_steady_service_costs_one_query_per_name_and_ttl(
    autojump_clock: MockClock,
) -> None:
    """Over a virtual day, the server counts one query per name per TTL, and no event."""
    net = FakeNet()
    echo(net, ttl=60)
    day = 86400
    async with watching(net) as watch:
        await trio.sleep(day)
        assert len(watch.updates) == 1
    counts = net[0].counts()
    assert len(counts) == 7
    for question, count in counts.items():
        # The service's own name is never asked later than after `query_interval`.
        least = day / 60.1 if question.name == SERVICE else day / 66.1
        assert least - 1 <= count <= day / 60 + 1, question


async def test_only_one_query_each_at_the_start(autojump_clock: MockClock) -> None:
    """Absent address families cost one query each, with no second one as a confirmation."""
    net = FakeNet()
    echo(net)
    async with watching(net):
        await trio.sleep(50)
    assert set(net[0].counts().values()) == {1}
    assert len(net.log) == 7


async def test_ttl_zero(autojump_clock: MockClock) -> None:
    """A TTL of 0 is one update, and at most one query a second per name."""
    net = FakeNet()
    echo(net, ttl=0)
    async with watching(net) as watch:
        await trio.sleep(100)
        assert watch.sets == [echo_names()]
    assert all(90 <= n <= 101 for q, n in net[0].counts().items() if q.rdtype != "A")


@pytest.mark.parametrize("ttl", [2**32 - 1, 2**31, 2**31 - 1])
async def test_enormous_ttls(autojump_clock: MockClock, ttl: int) -> None:
    """Absurd TTLs make no hot loop: at most a query per second, at least one per maximum."""
    net = FakeNet()
    echo(net, ttl=min(ttl, 2**31 - 1))
    if ttl >= 2**31:

        def tweak(message: object) -> None:
            for rrset in message.answer:  # type: ignore[attr-defined]
                rrset.ttl = ttl

        net[0].tweak = tweak
    async with watching(net) as watch:
        await trio.sleep(1000)
        assert len(watch.updates) == 1
    for count in net[0].counts().values():
        assert 1000 / 300 <= count <= 1001


async def test_mixed_ttls_take_the_least(autojump_clock: MockClock) -> None:
    """Records of one answer under several TTLs are asked for again after the least."""
    net = FakeNet()
    echo(net, hosts=1, ttl=250)

    def tweak(message: object) -> None:
        import dns.rrset

        if message.answer and message.answer[0].rdtype == 28:  # type: ignore[attr-defined]
            other = dns.rrset.from_text("echo001.test.com.", 7, "IN", "AAAA", "::2")
            message.answer.append(other)  # type: ignore[attr-defined]

    net[0].tweak = tweak
    async with watching(net) as watch:
        await trio.sleep(1)
        assert len(watch.backends) == 2
        assert watch.state("echo001.test.com", "AAAA").ttl == 7
        await trio.sleep(69)
    assert 9 <= net[0].count("echo001.test.com", "AAAA") <= 11


async def test_query_interval_limits_the_services_own_name(autojump_clock: MockClock) -> None:
    """The service's own name is asked each `query_interval`, however long its TTL."""
    net = FakeNet()
    echo(net, ttl=250)
    async with watching(net, query_interval=20):
        await trio.sleep(201)
    assert net[0].count(SERVICE, "SRV") == 11
    assert net[0].count("echo001.test.com", "AAAA") == 1


async def test_max_refresh_and_hardcoded_ttl(autojump_clock: MockClock) -> None:
    """`max_refresh` bounds long TTLs; `hardcoded_ttl` is taken instead of them."""
    net = FakeNet()
    echo(net, hosts=1, ttl=5000)
    async with watching(net, max_refresh=30.0, query_interval=1e9):
        await trio.sleep(301)
    assert net[0].count("echo001.test.com", "AAAA") == 11
    net[0].log.clear()
    async with watching(net, hardcoded_ttl=100.0, max_refresh=30.0, query_interval=1e9):
        await trio.sleep(301)
    assert net[0].count("echo001.test.com", "AAAA") == 3


async def test_refresh_is_spread(autojump_clock: MockClock) -> None:
    """Refreshes come after 1 to 1.1 times the TTL, not all at the same moment."""
    net = FakeNet()
    echo(net, hosts=30, ttl=100)
    async with watching(net):
        await trio.sleep(120)
    again = [when for when, q in net.log if q.rdtype == "AAAA" and when > 1]
    assert len(again) == 30
    assert min(again) >= 100
    assert max(again) <= 110.2
    assert max(again) - min(again) > 5


async def test_concurrency_is_bounded(autojump_clock: MockClock) -> None:
    """No more than `max_dns_concurrency` lookups are under way at once."""
    net = FakeNet()
    echo(net, hosts=50)
    async with watching(net, max_dns_concurrency=3) as watch:
        await trio.sleep(1)
        assert len(watch.backends) == 50
    assert net[0].most_at_once == 3


async def test_waiting_for_a_turn_is_not_under_the_timeout(autojump_clock: MockClock) -> None:
    """`query_timeout` covers an exchange, not the time before it could begin."""
    net = FakeNet()
    echo(net, hosts=20)
    net.fault(0.9)
    async with watching(net, max_dns_concurrency=1, query_timeout=1.0) as watch:
        await trio.sleep(60)
        assert len(watch.updates) == 1
        assert len(watch.backends) == 20


async def test_a_negative_answer_is_believed_for_the_time_of_its_soa(
    autojump_clock: MockClock,
) -> None:
    """A name that is not there is asked again after the SOA's time, or the retry interval."""
    net = FakeNet()
    net.set("x.com", "A", "10.0.0.1")
    net[0].negative_ttl = 40
    async with watching(net) as watch:
        await trio.sleep(30)
        assert watch.sets == [set()]
        assert [round(when) for when, _ in net.log] == [0, 1]
        await trio.sleep(60)
        times = [when for when, _ in net.log]
        assert 41 <= times[2] <= 46
        net[0].negative_ttl = None
        net[0].changed()
        await trio.sleep(100)
        gaps = [b - a for a, b in itertools.pairwise(times)][5:]
        assert all(10 <= gap <= 11.1 for gap in gaps)


def test_a_tracker_that_is_asked_for_is_not_due() -> None:
    """A name that is being asked for is not asked for twice, even when hints come in."""
    table = TrackerTable(DnsResolverConfig(), random.Random(1))
    tracker = table.add(Question("a.test", "A"), 0.0)
    assert table.pop_due(0.0) is tracker
    tracker.asking = True
    table.reschedule(tracker)
    assert table.next_due == math.inf
    assert table.pop_due(1.0) is None


def test_nothing_is_due() -> None:
    """A service whose names are all being asked for has nothing to ask."""
    service = Service(SERVICE, DnsResolverConfig(), random.Random(1), 0.0)
    assert service.take_due(0.0) is service.own
    assert service.take_due(0.0) is None


def test_the_times_of_a_tracker_are_not_kept() -> None:
    """A name whose time changes thousands of times has a few entries in the order."""
    table = TrackerTable(DnsResolverConfig(), random.Random(1))
    tracker = table.add(Question("a.test", "A"), 0.0)
    for due in range(1000):
        tracker.due = float(due)
        table.reschedule(tracker)
    assert len(table._heap) < 100
    assert table.next_due == 999.0
