"""Several nameservers: preference, hedging, demotion, disagreement, dynamic ones."""

from __future__ import annotations

import statistics

import pytest
import trio
from trio.testing import MockClock

from qorb_trio import Backend
from qorb_trio.resolvers._dns.lookup import Lookup, Stakes, Verdict
from qorb_trio.resolvers._dns.records import Kind, QueryError, Question
from qorb_trio.resolvers._dns.server_book import ServerBook
from qorb_trio.resolvers._dns.servers import Server

from .net import SERVICE, FakeNet, echo, echo_names, until, watching

A, B, C = "10.0.0.1", "10.0.0.2", "10.0.0.3"
FINDER = "_dns._udp.test.com"
SRV = Question(SERVICE, "SRV")


def lookup_over(net: FakeNet, *, hedge_delay: float = 0.15, timeout: float = 10) -> Lookup:
    hosts = [Server(name.rpartition(":")[0]) for name in net.servers]
    return Lookup(net, ServerBook(hosts), timeout=timeout, hedge_delay=hedge_delay)


async def timed(lookup: Lookup, question: Question = SRV) -> tuple[Verdict, float]:
    start = trio.current_time()
    verdict = await lookup.resolve(question)
    return verdict, trio.current_time() - start


async def test_the_first_server_is_asked_alone(autojump_clock: MockClock) -> None:
    """While the first server answers, the others are not asked."""
    net = FakeNet(A, B, C)
    echo(net)
    async with watching(net):
        await trio.sleep(1000)
    assert net[0].count() > 0
    assert net[1].count() == net[2].count() == 0


async def test_a_fast_no_while_the_other_has_records(autojump_clock: MockClock) -> None:
    """A says NXDOMAIN without SOA, B has records: they win, and B is asked first then."""
    net = FakeNet(A, B)
    net[0].negative_ttl = None
    net[1].latency = 0.1
    net[1].set(SERVICE, "SRV", "1 1 6001 echo001.test.com.")
    lookup = lookup_over(net)
    verdict, took = await timed(lookup)
    assert (verdict.server.rpartition(":")[0], verdict.answer.kind) == (B, Kind.RECORDS)
    assert took == pytest.approx(0.101)
    _, took = await timed(lookup)
    assert took == pytest.approx(0.1)
    assert net[0].count() == 1


async def test_not_offered_here_is_a_no(autojump_clock: MockClock) -> None:
    """The target "." removes nothing that another server has, until both say it."""
    net = FakeNet("10.0.0.1", "10.0.0.2")
    echo(net)
    async with watching(net) as watch:
        await trio.sleep(10)
        net[0].set(SERVICE, "SRV", "0 0 0 .")
        await trio.sleep(500)
        assert watch.sets == [echo_names()]
        net[1].set(SERVICE, "SRV")
        await trio.sleep(500)
        assert watch.sets == [echo_names(), set()]


async def test_not_offered_here_tells_more_than_a_no(autojump_clock: MockClock) -> None:
    """The preferred server says ".": there is no fallback to the name's own addresses."""
    net = FakeNet("10.0.0.1", "10.0.0.2")
    net.set("test.com", "A", "10.1.1.1")
    net[0].set("test.com", "SRV", "0 0 0 .")
    async with watching(net, "test.com", default_port=80) as watch:
        await trio.sleep(500)
        assert watch.sets == [set()]
        assert net[1].count() == 0


async def test_a_no_waits_for_others_no_longer_than_the_hedge(autojump_clock: MockClock) -> None:
    """A's NXDOMAIN stands when B and C hang; next time they are not waited for at all."""
    net = FakeNet(A, B, C)
    net[0].negative_ttl = None
    net[1].fault = net[2].fault = "hang"
    lookup = lookup_over(net)
    verdict, took = await timed(lookup)
    assert verdict.answer.kind is Kind.NXDOMAIN
    assert not verdict.confirmed
    assert took == pytest.approx(0.151)
    took = min([(await timed(lookup))[1] for _ in range(3)])
    assert took == pytest.approx(0.001)


async def test_one_no_is_enough_where_nothing_depends_on_it(autojump_clock: MockClock) -> None:
    """Without a second opinion the first "no" is taken."""
    net = FakeNet(A, B)
    net[0].negative_ttl = None
    verdict = await lookup_over(net).resolve(SRV, Stakes(second_opinion=False))
    assert verdict.answer.negative
    assert net[1].count() == 0


async def test_a_hung_server_costs_the_hedge_once(autojump_clock: MockClock) -> None:
    """A hangs: the first lookup takes the hedge longer, the next ones nothing more."""
    net = FakeNet(A, B)
    echo(net)
    net[0].fault = "hang"
    lookup = lookup_over(net)
    times = [(await timed(lookup))[1] for _ in range(20)]
    assert times[0] == pytest.approx(0.151)
    assert times[1:] == pytest.approx([0.001] * 19)
    assert net[0].count() == 1
    other = Question("echo001.test.com", "AAAA")
    assert (await timed(lookup, other))[1] == pytest.approx(0.001)


async def test_a_dead_and_a_hung_server_among_three(autojump_clock: MockClock) -> None:
    """After the first, the median lookup stays within twice that of a healthy server."""
    net = FakeNet(A, B, C)
    echo(net)
    net[0].fault = "hang"
    net[1].fault = "closed"
    lookup = lookup_over(net)
    times = []
    for _ in range(1000):
        times.append((await timed(lookup))[1])
        await trio.sleep(10)
    assert times[0] < 0.16
    assert statistics.median(times[1:]) <= 2 * 0.001
    assert max(times[1:]) <= 2 * 0.001
    # They are tried again now and then only if the good one does not answer.
    assert net[0].count() == net[1].count() == 1


async def test_hanging_in_mid_run_is_no_event(autojump_clock: MockClock) -> None:
    """A hangs while the resolver runs: nothing changes, and B is preferred from then on."""
    net = FakeNet(A, B)
    echo(net)
    async with watching(net) as watch:
        await trio.sleep(10)
        net[0].fault = "hang"
        await trio.sleep(1000)
        assert len(watch.updates) == 1
        snapshot = watch.resolver.snapshot()
        assert snapshot.nameservers[0].address == f"{B}:53"
        assert watch.state().server == f"{B}:53"
        net[0].fault = None
        await trio.sleep(2000)
        assert watch.state().server == f"{B}:53"  # sticky


async def test_a_closed_port_is_failed_over_at_once(autojump_clock: MockClock) -> None:
    """A's port is closed: B is asked without any delay."""
    net = FakeNet(A, B)
    echo(net)
    net[0].fault = "closed"
    _, took = await timed(lookup_over(net))
    assert took == pytest.approx(0.002)


async def test_servers_that_disagree_do_not_flap(autojump_clock: MockClock) -> None:
    """Two servers with different records: those of one are used, steadily."""
    net = FakeNet(A, B)
    echo(net)
    net[1].set(SERVICE, "SRV", "1 1 9999 echo001.test.com.")
    async with watching(net) as watch:
        await trio.sleep(3600)
        assert watch.sets == [echo_names()]


async def test_one_slow_answer_does_not_flap(autojump_clock: MockClock) -> None:
    """... and after the preferred one was slow for once, those of the other, steadily."""
    net = FakeNet(A, B)
    echo(net)
    net[1].set(SERVICE, "SRV", "1 1 9999 echo001.test.com.")
    async with watching(net) as watch:
        await trio.sleep(10)
        net[0].fault = 0.3
        await trio.sleep(100)
        net[0].fault = None
        await trio.sleep(3600)
        assert watch.sets == [echo_names(), {"echo001.test.com:9999@::1"}]


async def test_all_servers_fail(autojump_clock: MockClock) -> None:
    """If no server answers, the error names each, and none is demoted for it."""
    net = FakeNet(A, B)
    net[0].fault = "hang"
    net[1].fault = "closed"
    lookup = lookup_over(net, timeout=3)
    start = trio.current_time()
    with pytest.raises(QueryError, match=r"10.0.0.2:53: .*refused.*; 10.0.0.1:53: no answer"):
        await lookup.resolve(SRV)
    assert trio.current_time() - start == pytest.approx(3)
    assert all(one.demoted_until is None for one in lookup.servers.snapshot(trio.current_time()))


async def test_demotion_doubles_and_ends(autojump_clock: MockClock) -> None:
    """A demotion lasts 30 s, twice as long each time, and ends with an answer."""
    book = ServerBook([Server(A), Server(B)])
    for expected in (30, 60, 120, 240, 480, 600, 600):
        now = trio.current_time()
        book.demote(Server(A), now)
        book.demote(Server(A), now + 1)  # while it is demoted, that is no news
        assert book.order(SRV, now) == [Server(B), Server(A)]
        assert book.snapshot(now)[1].demoted_until == now + expected
        await trio.sleep(expected)
        assert book.order(SRV, trio.current_time()) == [Server(A), Server(B)]
    book.demote(Server(A), trio.current_time())
    book.answered(Server(A))
    assert book.order(SRV, trio.current_time()) == [Server(A), Server(B)]


async def test_what_has_left_is_not_blamed(autojump_clock: MockClock) -> None:
    """Outcomes of a nameserver that has left meanwhile are ignored."""
    book = ServerBook([Server(A)])
    book.answered(Server(B))
    book.failed(Server(B), "x")
    book.demote(Server(B), 0)
    book.prefer(SRV, Server(B), 0)
    assert book.servers == (Server(A),)
    assert book._favourites == {}
    assert not book.is_demoted(Server(B), 0)


async def test_records_win_over_two_noes(autojump_clock: MockClock) -> None:
    """Two servers say no without SOA, the third one has records: it is heard."""
    net = FakeNet(A, B, C)
    net[0].negative_ttl = net[1].negative_ttl = None
    net[2].set(SERVICE, "SRV", "1 1 6001 echo001.test.com.")
    verdict, _ = await timed(lookup_over(net))
    assert verdict.answer.records


async def test_answers_at_the_same_moment(autojump_clock: MockClock) -> None:
    """Answers that come in at the same moment are all heard: two noes confirm each other."""
    net = FakeNet(A, B, C)
    verdict, took = await timed(lookup_over(net, hedge_delay=0))
    assert verdict.answer.negative
    net[2].set(SERVICE, "SRV", "1 1 6001 echo001.test.com.")
    verdict, took = await timed(lookup_over(net, hedge_delay=0.001))
    assert took <= 0.003


async def test_no_hedge_means_one_after_the_other(autojump_clock: MockClock) -> None:
    """An endless `hedge_delay` asks the next server only after a failure."""
    net = FakeNet(A, B)
    echo(net)
    net[0].fault = "hang"
    lookup = lookup_over(net, hedge_delay=float("inf"), timeout=2)
    assert (await timed(lookup))[1] == pytest.approx(2.001)
    assert (await timed(lookup))[1] == pytest.approx(0.001)


async def test_no_delay_means_all_at_once(autojump_clock: MockClock) -> None:
    """A `hedge_delay` of 0 races all servers, and demotes none for being a bit slower."""
    net = FakeNet(A, B)
    echo(net)
    net[0].latency = 0.01
    lookup = lookup_over(net, hedge_delay=0)
    assert (await timed(lookup))[1] == pytest.approx(0.001)
    assert all(one.demoted_until is None for one in lookup.servers.snapshot(trio.current_time()))


# --------------------------------------------------------------------- dynamic servers


def find_servers(net: FakeNet, *ports: int) -> None:
    """Make the bootstrap server name the nameservers at these ports of B."""
    net[0].set(FINDER, "SRV", *(f"0 0 {port} ns.test.com." for port in ports), ttl=10)
    net[0].set("ns.test.com", "A", B, ttl=10)


async def test_a_dynamic_server_on_its_own_port(autojump_clock: MockClock) -> None:
    """A dynamic server on a port other than 53 is asked, before the bootstrap one."""
    net = FakeNet(A)
    echo(net)
    find_servers(net, 5353)
    dynamic = net.add(f"{B}:5353")
    echo(net)
    dynamic.set(SERVICE, "SRV", "1 1 7777 echo001.test.com.")
    async with watching(net, nameservers=[A], resolver_service=FINDER) as watch:
        await trio.sleep(100)
        assert watch.sets == [{"echo001.test.com:7777@::1"}]
        assert net[0].count(SERVICE) == 0
        servers = watch.resolver.snapshot().nameservers
        assert [(one.address, one.dynamic) for one in servers] == [
            (f"{B}:5353", True),
            (f"{A}:53", False),
        ]
        assert {one.name for one in watch.resolver.snapshot().names} >= {SERVICE, FINDER}


async def test_a_departed_dynamic_server_is_not_asked(autojump_clock: MockClock) -> None:
    """A dynamic server that leaves is asked no more, its successor is."""
    net = FakeNet(A)
    find_servers(net, 5353)
    old, new = net.add(f"{B}:5353"), net.add(f"{B}:5354")
    echo(net)
    async with watching(net, nameservers=[A], resolver_service=FINDER) as watch:
        await trio.sleep(5)
        for server in (net[0], old, new):
            server.set(FINDER, "SRV", "0 0 5354 ns.test.com.", ttl=10)
            server.set("ns.test.com", "A", B, ttl=10)
        await trio.sleep(70)
        asked = old.count()
        await trio.sleep(1000)
        assert old.count() == asked
        assert new.count(SERVICE) > 10
        assert len(watch.updates) == 1


async def test_bootstrap_servers_are_asked_again(autojump_clock: MockClock) -> None:
    """The bootstrap servers are asked again if no dynamic server answers."""
    net = FakeNet(A)
    find_servers(net, 5353)
    dynamic = net.add(f"{B}:5353")
    echo(net)
    async with watching(net, nameservers=[A], resolver_service=FINDER) as watch:
        await trio.sleep(5)
        dynamic.fault = "closed"
        before = net[0].count(SERVICE)
        await trio.sleep(200)
        assert net[0].count(SERVICE) > before
        assert watch.state().state == "good"
        assert len(watch.updates) == 1


@pytest.mark.parametrize("fault", ["SERVFAIL", "hang", "NXDOMAIN"])
async def test_without_dynamic_servers(autojump_clock: MockClock, fault: str) -> None:
    """The bootstrap servers are used, soon, if no dynamic server can be found."""
    net = FakeNet(A)
    echo(net)
    if fault != "NXDOMAIN":
        net[0].fault = lambda q: fault if q.name == FINDER else None
    async with watching(net, resolver_service=FINDER, query_timeout=4.0) as watch:
        await trio.sleep(5)
        assert watch.sets == [echo_names()]


async def test_servers_that_are_found_late_are_asked_at_once(autojump_clock: MockClock) -> None:
    """A service that the bootstrap server does not know is asked of one found later."""
    net = FakeNet(A)
    dynamic = net.add(f"{B}:5353")
    echo(net)
    for name, rdtype in list(net[0].records):
        net[0].set(name, rdtype)
    net[0].fault = "SERVFAIL"
    async with watching(net, nameservers=[A], resolver_service=FINDER) as watch:
        await trio.sleep(60)
        assert watch.updates == []
        find_servers(net, 5353)
        net[0].fault = lambda q: None if q.name in {FINDER, "ns.test.com"} else "REFUSED"
        await until(lambda: any(q.name == "ns.test.com" for _, q in net[0].log))
        found = trio.current_time()
        await until(lambda: watch.updates)
        assert trio.current_time() - found < 0.5
        assert dynamic.log


def test_dynamic_servers_by_priority() -> None:
    """Dynamic servers are asked by priority; Unix sockets are none."""
    book = ServerBook([Server(A)])
    book.set_dynamic(
        [
            Backend((C, 53), priority=2),
            Backend((B, 5353), priority=1),
            Backend("/run/dns.sock"),
            Backend((A, 53), priority=3),
        ]
    )
    assert book.servers == (Server(B, 5353), Server(C), Server(A))
