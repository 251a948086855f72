"""From records to backends, as they change: SRV fields, addresses, CNAMEs, hints."""

from __future__ import annotations

from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
import trio
from trio.testing import MockClock

from qorb_trio import DnsResolver
from qorb_trio.resolvers._dns import system_files
from qorb_trio.resolvers._dns.assembly import Assembler, usable
from qorb_trio.resolvers._dns.records import Question, Srv

from .net import SERVICE, FakeNet, echo, echo_names, watching

HOST1 = "echo001.test.com"


async def test_address_change(autojump_clock: MockClock) -> None:
    """A changed address is one update that adds the new backend and removes the old."""
    net = FakeNet()
    echo(net, hosts=2)
    async with watching(net) as watch:
        await trio.sleep(10)
        net.set(HOST1, "AAAA", "::5")
        await trio.sleep(100)
        other = echo_names(2)
        assert watch.sets == [echo_names(1, 2), {f"{HOST1}:6001@::5"} | other]


async def test_port_change(autojump_clock: MockClock) -> None:
    """A changed port arrives as a new set."""
    net = FakeNet()
    echo(net, hosts=1)
    async with watching(net) as watch:
        await trio.sleep(10)
        net.set(SERVICE, "SRV", "1 1 6999 echo001.test.com.")
        await trio.sleep(100)
        assert watch.sets == [echo_names(1), {f"{HOST1}:6999@::1"}]


async def test_move_to_other_hosts(autojump_clock: MockClock) -> None:
    """A service that moves to other hosts is one update, with no empty set in between."""
    net = FakeNet()
    echo(net)
    net[0].latency = 0.5
    async with watching(net) as watch:
        await trio.sleep(10)
        net.set(SERVICE, "SRV", "1 1 6001 new1.test.com.", "1 1 6001 new2.test.com.")
        net.set("new1.test.com", "A", "10.1.0.1")
        net.set("new2.test.com", "A", "10.1.0.2")
        await trio.sleep(100)
        assert watch.sets == [
            echo_names(),
            {"new1.test.com:6001@10.1.0.1", "new2.test.com:6001@10.1.0.2"},
        ]
        assert {q.name for _, q in net.log if trio.current_time() - 30 < _} <= {
            SERVICE,
            "new1.test.com",
            "new2.test.com",
        }


@pytest.mark.parametrize("fault", [40.0, "hang"])
async def test_answers_for_what_has_left(autojump_clock: MockClock, fault: float | str) -> None:
    """Answers for a target that has left the service meanwhile are ignored."""
    net = FakeNet()
    echo(net, hosts=2)
    async with watching(net, query_timeout=50.0) as watch:
        await trio.sleep(30)
        net.fault(lambda q: fault if q.name == HOST1 else None)
        net.set(SERVICE, "SRV", "1 1 6002 echo002.test.com.")
        net.set(HOST1, "AAAA", "::7")
        net[0].records[HOST1, "AAAA"] = (1, ["::7"])
        await trio.sleep(35)
        net.set(SERVICE, "SRV", "1 1 6001 echo001.test.com.", "1 1 6002 echo002.test.com.")
        await trio.sleep(20)
        net.set(SERVICE, "SRV", "1 1 6002 echo002.test.com.")
        await trio.sleep(200)
        assert watch.sets[:2] == [echo_names(1, 2), echo_names(2)]
        assert watch.names == echo_names(2)
        assert {name.name for name in watch.resolver.snapshot().names} == {
            SERVICE,
            "echo002.test.com",
        }


async def test_weight_change(autojump_clock: MockClock) -> None:
    """A change of weight alone is an update with equal backends."""
    net = FakeNet()
    echo(net, hosts=1)
    async with watching(net) as watch:
        await trio.sleep(10)
        net.set(SERVICE, "SRV", "1 7 6001 echo001.test.com.")
        await trio.sleep(100)
        assert watch.sets == [echo_names(1), echo_names(1)]
        assert [u[0].weight for _, u in watch.updates] == [1, 7]
        assert watch.updates[0][1] == watch.updates[1][1]


async def test_case_change(autojump_clock: MockClock) -> None:
    """Names that differ in case only are the same: no event."""
    net = FakeNet()
    echo(net, hosts=1)
    async with watching(net, "_ECHO._tcp.Test.COM.") as watch:
        await trio.sleep(10)
        net.set(SERVICE, "SRV", "1 1 6001 ECHO001.Test.com.")
        await trio.sleep(200)
        assert watch.sets == [echo_names(1)]


async def test_order_change(autojump_clock: MockClock) -> None:
    """A server that rotates its records causes no event."""
    net = FakeNet()
    net.set(SERVICE, "SRV", "1 1 1 a.com.", "1 1 2 a.com.", ttl=5)
    net.set("a.com", "A", "10.0.0.1", "10.0.0.2", ttl=5)
    async with watching(net) as watch:
        for turn in range(20):
            await trio.sleep(5)
            if turn % 2:
                net.set(SERVICE, "SRV", "1 1 1 a.com.", "1 1 2 a.com.", ttl=5)
                net.set("a.com", "A", "10.0.0.1", "10.0.0.2", ttl=5)
            else:
                net.set(SERVICE, "SRV", "1 1 2 a.com.", "1 1 1 a.com.", ttl=5)
                net.set("a.com", "A", "10.0.0.2", "10.0.0.1", ttl=5)
        assert len(watch.updates) == 1


@pytest.mark.parametrize(
    ("families", "names"),
    [
        (("A", "AAAA"), {"a.com:1@10.0.0.1", "a.com:1@2001:db8::1"}),
        (("A",), {"a.com:1@10.0.0.1"}),
        (("AAAA",), {"a.com:1@2001:db8::1"}),
    ],
)
async def test_families(
    autojump_clock: MockClock, families: tuple[str, ...], names: set[str]
) -> None:
    """IPv4 and IPv6 and each alone; IPv6 addresses are compressed."""
    net = FakeNet()
    net.set(SERVICE, "SRV", "1 1 1 a.com.")
    net.set("a.com", "A", "10.0.0.1")
    net.set("a.com", "AAAA", "2001:0DB8:0:0:0:0:0:1")
    async with watching(net, families=families) as watch:
        await trio.sleep(1)
        assert watch.sets == [names]
        assert {q.rdtype for _, q in net.log} == {"SRV", *families}


async def test_three_addresses_on_a_target(autojump_clock: MockClock) -> None:
    """One target with three addresses is three backends that share its weight."""
    net = FakeNet()
    net.set(SERVICE, "SRV", "1 60 1 a.com.", "1 20 1 b.com.")
    net.set("a.com", "A", "10.0.0.1", "10.0.0.2", "10.0.0.3")
    net.set("b.com", "A", "10.0.0.4")
    async with watching(net) as watch:
        await trio.sleep(1)
        assert {b.name: b.weight for b in watch.backends} == {
            "a.com:1@10.0.0.1": 20,
            "a.com:1@10.0.0.2": 20,
            "a.com:1@10.0.0.3": 20,
            "b.com:1@10.0.0.4": 20,
        }


async def test_a_name_without_srv_falls_back(autojump_clock: MockClock) -> None:
    """With `default_port`, a name without SRV records is its addresses on that port."""
    net = FakeNet()
    net.set("db.com", "A", "10.1.0.1")
    async with watching(net, "db.com", default_port=5432) as watch:
        await trio.sleep(10)
        assert watch.sets == [{"db.com:5432@10.1.0.1"}]
        assert watch.updates[0][0] < 0.1
        assert (watch.backends[0].priority, watch.backends[0].weight) == (0, 1)
        net.set("db.com", "SRV", "0 0 99 db.com.")
        await trio.sleep(70)
        assert watch.names == {"db.com:99@10.1.0.1"}
        net.set("db.com", "SRV")
        await trio.sleep(70)
        assert watch.names == {"db.com:5432@10.1.0.1"}


async def test_no_fallback_without_a_port(autojump_clock: MockClock) -> None:
    """Without `default_port`, addresses of the service's own name are not looked up."""
    net = FakeNet()
    net.set("db.com", "A", "10.1.0.1")
    async with watching(net, "db.com") as watch:
        await trio.sleep(10)
        assert watch.sets == [set()]
        assert net[0].count("db.com", "A") == 0


async def test_no_fallback_on_failure(autojump_clock: MockClock) -> None:
    """A failing SRV lookup is no reason to fall back."""
    net = FakeNet()
    net.set("db.com", "A", "10.1.0.1")
    net.fault(lambda q: "SERVFAIL" if q.rdtype == "SRV" else None)
    async with watching(net, "db.com", default_port=80) as watch:
        await trio.sleep(100)
        assert watch.updates == []


async def test_an_absent_name_with_a_fallback(autojump_clock: MockClock) -> None:
    """A name that does not exist at all is one empty snapshot, soon."""
    net = FakeNet()
    async with watching(net, "db.com", default_port=80) as watch:
        await trio.sleep(100)
        assert watch.sets == [set()]
        assert watch.updates[0][0] < 1.3


async def test_search_list(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The suffixes of the search list are tried where asked for, if they make a name."""
    path = tmp_path / "resolv.conf"
    path.write_text(f"search x.org a..b {'x' * 250} y.org\n")
    monkeypatch.setattr(system_files, "RESOLV_CONF", str(path))
    net = FakeNet()
    net.set("db.y.org", "A", "10.1.0.1")
    async with watching(net, "db", default_port=80, search=True) as watch:
        await trio.sleep(10)
        assert watch.sets == [{"db:80@10.1.0.1"}]
        net.fault(lambda q: "SERVFAIL" if q.name == "db.x.org" else None)
        await trio.sleep(200)
        assert len(watch.updates) == 1
        net.fault("SERVFAIL")
        await trio.sleep(300)
        assert len(watch.updates) == 1
    for service in ("db", "db."):
        async with watching(net, service, default_port=80, search=service == "db.") as watch:
            net.fault(None)
            await trio.sleep(10)
            assert watch.sets == [set()]
    assert DnsResolver("db").service == "db"


# ------------------------------------------------------------------------------ CNAMEs


@pytest.mark.parametrize("follows", [True, False])
async def test_cnames(autojump_clock: MockClock, follows: bool) -> None:
    """CNAMEs at the service and at a target are followed; the key is the SRV target."""
    net = FakeNet()
    net[0].follows_cnames = follows
    net.set(SERVICE, "CNAME", "other.com.", ttl=200)
    net.set("other.com", "CNAME", "third.com.", ttl=50)
    net.set("third.com", "SRV", "1 1 6001 a.com.", ttl=100)
    net.set("a.com", "CNAME", "b.com.", ttl=30)
    net.set("b.com", "A", "10.0.0.1", ttl=100)
    async with watching(net, families=("A",)) as watch:
        await trio.sleep(1)
        assert watch.sets == [{"a.com:6001@10.0.0.1"}]
        assert watch.state().ttl == 50
        assert watch.state("a.com", "A").ttl == 30


@pytest.mark.parametrize("follows", [True, False])
async def test_dangling_cname(autojump_clock: MockClock, follows: bool) -> None:
    """A CNAME to nowhere is an empty answer, confirmed as any other."""
    net = FakeNet()
    net[0].follows_cnames = follows
    net.set(SERVICE, "CNAME", "nowhere.com.")
    async with watching(net) as watch:
        await trio.sleep(10)
        assert watch.sets == [set()]
        assert watch.state().ttl == 60


@pytest.mark.parametrize("follows", [True, False])
async def test_cname_loop(autojump_clock: MockClock, follows: bool) -> None:
    """CNAMEs in a circle are a failure: nothing is sent, and queries are few."""
    net = FakeNet()
    net[0].follows_cnames = follows
    net.set(SERVICE, "CNAME", "b.com.")
    net.set("b.com", "CNAME", f"{SERVICE}.")
    async with watching(net) as watch:
        await trio.sleep(100)
        assert watch.updates == []
        assert "round in circles" in watch.state().last_error
        assert len(net.log) < 16 * 20


# -------------------------------------------------------------------------- additional


async def test_additional_records(autojump_clock: MockClock) -> None:
    """Addresses that come along are used at once, and everything is asked for."""
    net = FakeNet()
    net[0].additional = True
    echo(net)
    net.set("echo002.test.com", "CNAME", "elsewhere.com.")
    net.set("echo002.test.com", "AAAA")
    net.set("elsewhere.com", "AAAA", "::2")
    async with watching(net, families=("AAAA",)) as watch:
        await trio.sleep(50)
        assert watch.names == {*echo_names(1, 3), "echo002.test.com:6002@::2"}
        assert net[0].count(HOST1) == 1  # although its address came along
        for host in (1, 3):
            net.set(f"echo00{host}.test.com", "AAAA", f"::{host}{host}")
        await trio.sleep(61)
        assert watch.names == {
            "echo001.test.com:6001@::11",
            "echo002.test.com:6002@::2",
            "echo003.test.com:6003@::33",
        }


async def test_foreign_additional_records(autojump_clock: MockClock) -> None:
    """Additional records of other names, types and classes are ignored."""
    net = FakeNet()
    echo(net, hosts=1)

    def tweak(message: dns.message.Message) -> None:
        for text in (
            "evil.com. 60 IN AAAA ::bad",
            f"{SERVICE}. 60 IN AAAA ::bad",
            f"{HOST1}. 60 IN TXT ::bad",
        ):
            name, ttl, rdclass, rdtype, data = text.split()
            message.additional.append(dns.rrset.from_text(name, int(ttl), rdclass, rdtype, data))

    net[0].tweak = tweak
    async with watching(net) as watch:
        await trio.sleep(100)
        assert watch.sets == [echo_names(1)]


# ------------------------------------------------------------------- what servers get wrong


def refer(message: dns.message.Message) -> None:
    message.answer.clear()
    message.set_rcode(dns.rcode.NOERROR)
    message.authority = [dns.rrset.from_text("com.", 60, "IN", "NS", "ns.com.")]


def lame(message: dns.message.Message) -> None:
    message.set_rcode(dns.rcode.NXDOMAIN)


def truncate(message: dns.message.Message) -> None:
    message.flags |= dns.flags.TC


@pytest.mark.parametrize(
    ("tweak", "error"),
    [(refer, "referral"), (lame, "NXDOMAIN"), (truncate, "truncated")],
)
async def test_what_is_no_answer(autojump_clock: MockClock, tweak: object, error: str) -> None:
    """A referral, records with NXDOMAIN, and a truncated set are failures, not answers."""
    net = FakeNet()
    echo(net)
    async with watching(net) as watch:
        await trio.sleep(10)
        net[0].tweak = tweak  # type: ignore[assignment]
        net[0].changed()
        await trio.sleep(500)
        assert len(watch.updates) == 1
        assert error in watch.state().last_error


# ----------------------------------------------------------------------------- assembly


def weights(records: list[str], addresses: dict[str, list[str]]) -> dict[str, tuple[int, int]]:
    srv = []
    for text in records:
        priority, weight, port, target = text.split()
        srv.append(Srv(int(priority), int(weight), int(port), target))
    backends = Assembler().assemble(usable(srv), lambda target: addresses.get(target, ["10.0.0.1"]))
    return {b.name: (b.priority, b.weight) for b in backends}


@pytest.mark.parametrize("given", [(1, 3, 6), (0, 100), (0, 0, 0), (65535, 65535)])
def test_weights_as_they_are(given: tuple[int, ...]) -> None:
    """Weights 1:3:6, 0:100 and all 0 pass through where targets have one address."""
    found = weights([f"5 {w} 1 t{i}" for i, w in enumerate(given)], {})
    assert [found[f"t{i}:1@10.0.0.1"] for i in range(len(given))] == [(5, w) for w in given]


def test_weights_are_shared_among_addresses() -> None:
    """Weights are scaled by tier, so that shares are whole, and keep their proportions."""
    addresses = {"a": ["1", "2", "3"], "b": ["4", "5"], "c": ["6", "7"]}
    found = weights(["1 1 1 a", "1 1 1 b", "2 0 1 c", "2 8 2 c"], addresses)
    assert sorted(found.values()) == [(1, 2)] * 3 + [(1, 3)] * 2 + [(2, 0)] * 2 + [(2, 4)] * 2


def test_absurd_shares_are_rounded() -> None:
    """With address counts of large common multiples, shares are rounded but never to 0."""
    counts = (7, 11, 13, 17, 19)
    addresses = {f"t{n}": [f"10.0.{n}.{i}" for i in range(n)] for n in counts}
    found = weights([f"1 1 1 t{n}" for n in counts], addresses)
    for n in counts:
        assert all(
            weight == pytest.approx(10000 / n, abs=0.5)
            for name, (_, weight) in found.items()
            if name.startswith(f"t{n}:")
        )
    assert min(weight for _, weight in found.values()) > 0


def test_priority_tiers() -> None:
    """Priorities are passed on; backends are sorted by them."""
    found = weights(["20 1 1 b", "10 1 1 a", "10 1 2 a"], {})
    assert [priority for priority, _ in found.values()] == [10, 10, 20]


def test_duplicates() -> None:
    """Exact duplicates count once, weights of one priority add up, the lower one counts."""
    records = [
        Srv(1, 5, 80, "a"),
        Srv(1, 5, 80, "a"),
        Srv(1, 7, 80, "a"),
        Srv(2, 90, 80, "a"),
        Srv(3, 1, 81, "a"),
        Srv(0, 0, 0, "a"),
        Srv(0, 0, 9, "."),
    ]
    assert usable(records) == (Srv(1, 12, 80, "a"), Srv(3, 1, 81, "a"))


def test_a_question_reads_well() -> None:
    """Questions and records are shown as in zone files."""
    assert str(Question("a.com", "SRV")) == "a.com SRV"
    assert str(Srv(1, 2, 3, "a.com")) == "1 2 3 a.com"


def test_part_of_another_name_in_the_hosts_file() -> None:
    """A line of ``/etc/hosts`` counts for its names, and not for what is part of them."""
    hosts = system_files.Hosts("10.0.0.1 echo2\n10.0.0.2 x # echo\n10.0.0.3 echo\n")
    answer = hosts.answer(Question("echo", "A"))
    assert answer is not None
    assert answer.records == ("10.0.0.3",)
    assert "ech" not in hosts
