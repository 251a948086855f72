"""Field faults of the DNS resolver, in virtual time: one test for each line of the list."""

from __future__ import annotations

import gc
import itertools
import logging
import random
from collections.abc import Collection, Iterator
from pathlib import Path

import attrs
import dns.message
import dns.rrset
import pytest
import trio
from trio.testing import MockClock

from qorb_trio import Backend, DnsResolver, DnsResolverConfig, resolver_for
from qorb_trio.resolvers._dns import engine, service, system_files
from qorb_trio.resolvers._dns.assembly import MAX_BACKENDS, Assembler
from qorb_trio.resolvers._dns.lookup import Verdict
from qorb_trio.resolvers._dns.records import Answer, Hint, Kind, Question, Srv
from qorb_trio.resolvers._dns.server_book import MAX_DYNAMIC, ServerBook
from qorb_trio.resolvers._dns.servers import Server
from qorb_trio.resolvers._dns.service import MAX_TARGETS, Service
from qorb_trio.resolvers._dns.table import QUERIES_PER_SECOND

from .net import SERVICE, FakeNet, Watch, echo, echo_names, watching

A, B, C = "10.0.0.1", "10.0.0.2", "10.0.0.3"
HOST1 = "echo001.test.com"
LOGGER = "qorb_trio.resolver"


# ------------------------------------------------------------------------- resolv.conf, hosts


@attrs.define
class SystemFiles:
    """A resolv.conf and a hosts file of the test's own, and how often they are looked at."""

    resolv_conf: Path
    hosts: Path
    looks: int = 0


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SystemFiles:
    found = SystemFiles(tmp_path / "resolv.conf", tmp_path / "hosts")
    monkeypatch.setattr(system_files, "RESOLV_CONF", str(found.resolv_conf))
    monkeypatch.setattr(system_files, "HOSTS", str(found.hosts))
    look = system_files.WatchedFile._look

    def counted(self: system_files.WatchedFile[object]) -> object:
        found.looks += self._path == str(found.resolv_conf)
        return look(self)

    monkeypatch.setattr(system_files.WatchedFile, "_look", counted)
    return found


async def system_watch(net: FakeNet, name: str, nursery: trio.Nursery, **settings: object) -> Watch:
    """A running resolver that asks the system's nameservers."""
    config = DnsResolverConfig(**settings)  # type: ignore[arg-type]
    resolver = DnsResolver(name, config=config, rng=random.Random(1), transport=net)
    watch = Watch(resolver, net)
    outbox, inbox = trio.open_memory_channel[Collection[Backend]](0)
    nursery.start_soon(watch.collect, inbox)
    nursery.start_soon(resolver.run, outbox)
    return watch


async def test_resolv_conf_is_read_again(
    autojump_clock: MockClock, nursery: trio.Nursery, files: SystemFiles
) -> None:
    """After the nameservers in resolv.conf change, only the new ones are asked."""
    files.resolv_conf.write_text(f"nameserver {A}\n")
    net = FakeNet(A, B)
    echo(net, ttl=10)
    watch = await system_watch(net, SERVICE, nursery)
    await trio.sleep(30)
    assert net[0].count() > 0
    assert net[1].count() == 0
    files.resolv_conf.write_text(f"nameserver {B}\n# changed\n")
    await trio.sleep(20)
    before = net[0].count()
    await trio.sleep(100)
    assert net[0].count() == before
    assert net[1].count() > 50
    assert watch.sets == [echo_names()]
    nursery.cancel_scope.cancel()


async def test_a_resolv_conf_that_changes_ends_an_outage_soon(
    autojump_clock: MockClock, nursery: trio.Nursery, files: SystemFiles
) -> None:
    """A name that could not be resolved is asked of the new nameservers at once."""
    files.resolv_conf.write_text("nameserver 10.9.9.9\n")
    net = FakeNet(A)
    echo(net)
    watch = await system_watch(net, SERVICE, nursery)
    await trio.sleep(60)
    assert watch.sets == []
    changed = trio.current_time()
    files.resolv_conf.write_text(f"nameserver {A}\n")
    await trio.sleep(30)
    assert watch.sets == [echo_names()]
    assert watch.updates[0][0] - changed < 11.1  # the longest back-off
    nursery.cancel_scope.cancel()


async def test_resolv_conf_is_looked_at_once_per_5_seconds(
    autojump_clock: MockClock, nursery: trio.Nursery, files: SystemFiles
) -> None:
    """The file is looked at once per 5 s at most, and only when a query is due."""
    files.resolv_conf.write_text(f"nameserver {A}\n")
    net = FakeNet(A)
    echo(net, hosts=20, ttl=0)
    await system_watch(net, SERVICE, nursery, min_refresh=0.1)
    await trio.sleep(100)
    assert net[0].count() > 5000
    assert 15 <= files.looks <= 21
    echo(net, hosts=20, ttl=300)
    await trio.sleep(10)
    before = files.looks
    await trio.sleep(59)
    assert files.looks - before <= 4
    nursery.cancel_scope.cancel()


async def test_a_resolv_conf_that_cannot_be_read(
    autojump_clock: MockClock, nursery: trio.Nursery, files: SystemFiles
) -> None:
    """A missing file, a folder, or one that may not be opened counts as empty: this host."""
    net = FakeNet("127.0.0.1")
    echo(net)
    watch = await system_watch(net, SERVICE, nursery)
    await trio.sleep(10)
    assert watch.sets == [echo_names()]
    files.resolv_conf.mkdir()
    await trio.sleep(100)
    assert watch.state().server == "127.0.0.1:53"
    nursery.cancel_scope.cancel()


def test_a_file_that_vanishes_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is there at the look and gone at the reading counts as empty."""
    path = tmp_path / "file"
    path.write_text("text")
    watched = system_files.WatchedFile(str(path), str)
    look = system_files.WatchedFile._look

    def vanishing(self: system_files.WatchedFile[str]) -> object:
        found = look(self)
        path.unlink()
        return found

    monkeypatch.setattr(system_files.WatchedFile, "_look", vanishing)
    assert watched.value(0) == ""


async def test_etc_hosts_is_honoured(
    autojump_clock: MockClock, nursery: trio.Nursery, files: SystemFiles
) -> None:
    """A name in /etc/hosts has the addresses from there, without a query; changes are seen."""
    files.hosts.write_text("# 10.6.6.6 db\n10.1.1.1 other DB.lan db # x\n::5 db\nnonsense db\n")
    net = FakeNet(A)
    files.resolv_conf.write_text(f"nameserver {A}\n")
    watch = await system_watch(net, "db.lan", nursery, default_port=80)
    await trio.sleep(1)
    assert watch.sets == [{"db.lan:80@10.1.1.1"}]
    assert watch.updates[0][0] < 0.1
    assert net.log == []
    assert watch.state("db.lan", "A").server == "/etc/hosts"
    files.hosts.write_text("10.1.1.2 db.lan\n10.1.1.3 db.lan.\n10.1.1.2 db.lan\nfe80::1%lo db.lan")
    await trio.sleep(60)
    expected = {"db.lan:80@10.1.1.2", "db.lan:80@10.1.1.3", "db.lan:80@fe80::1%lo"}
    assert watch.names == expected
    net.set("db.lan", "A", "10.7.7.7")
    files.hosts.write_text("127.0.0.1 localhost\n")
    await trio.sleep(130)
    assert watch.names == {"db.lan:80@10.7.7.7"}
    nursery.cancel_scope.cancel()


async def test_targets_in_etc_hosts(autojump_clock: MockClock, files: SystemFiles) -> None:
    """An SRV target that is in /etc/hosts has its addresses from there."""
    files.hosts.write_text(f"10.1.1.1 {HOST1}\n0.0.0.0 echo002.test.com\n")
    net = FakeNet()
    echo(net)
    async with watching(net) as watch:
        await trio.sleep(10)
        assert watch.sets == [{f"{HOST1}:6001@10.1.1.1"} | echo_names(3)]


async def test_a_name_without_a_dot_is_searched_for(
    autojump_clock: MockClock, nursery: trio.Nursery, files: SystemFiles
) -> None:
    """A name without a dot is tried in the domains of the system's search list."""
    files.resolv_conf.write_text(f"nameserver {A}\nsearch lan.test\n")
    net = FakeNet(A)
    net.set("db.lan.test", "A", "10.1.1.1")
    watch = await system_watch(net, "db", nursery, default_port=80)
    await trio.sleep(10)
    assert watch.sets == [{"db:80@10.1.1.1"}]
    nursery.cancel_scope.cancel()


# -------------------------------------------------------------------------- tables that grow


def size_of(root: object) -> int:
    """The number of entries in all containers that a resolver's run refers to."""
    seen: set[int] = set()
    total, todo = 0, [root]
    while todo:
        one = todo.pop()
        if id(one) in seen or isinstance(one, type | trio.lowlevel.Task):
            continue
        seen.add(id(one))
        if isinstance(one, dict | list | set | tuple):
            total += len(one)
            todo += gc.get_referents(one)
        elif type(one).__module__.startswith(("qorb_trio.resolvers", "collections")):
            todo += gc.get_referents(one)
    return total


async def test_tables_do_not_grow_with_answers(autojump_clock: MockClock) -> None:
    """After 10,000 answers, each with another alias and hint, nothing has piled up."""
    net = FakeNet()
    echo(net, hosts=3, ttl=0)
    server = net[0]
    server.additional = True
    server.follows_cnames = False
    numbers = itertools.count()

    def another_alias(question: Question) -> None:
        if question.name == HOST1:
            number = next(numbers)
            server.records[HOST1, "CNAME"] = (0, [f"alias{number}.test.com."])
            server._cache.pop(question, None)
            server._cache[Question(f"alias{number}.test.com", question.rdtype)] = address
            server._cache.pop(Question(f"alias{number - 20}.test.com", question.rdtype), None)

    address = Answer(Question(HOST1, "AAAA"), Kind.RECORDS, ("::1",), 0)
    server.fault = another_alias
    async with watching(net, max_dns_concurrency=50, min_refresh=0.1) as watch:
        await trio.sleep(10)
        asked, size = server.count(), size_of(watch.resolver._engine)
        await trio.sleep(300)
        assert server.count() - asked > 10_000
        assert size_of(watch.resolver._engine) <= size + 70  # the slack of the heap


# ------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize("name", ["a..b", ".", "10.0.0.1", "a b", "x" * 64])
def test_a_resolver_service_that_cannot_exist_is_an_error(name: str) -> None:
    """`DnsResolverConfig(resolver_service="a..b")` is a `ValueError` that names the field."""
    with pytest.raises(ValueError, match="resolver_service"):
        DnsResolverConfig(resolver_service=name)


@pytest.mark.parametrize("text", ["[10.0.0.1]:80", "[10.0.0.1]", "[localhost]:80", "[]:80"])
def test_brackets_are_for_ipv6(text: str) -> None:
    """`resolver_for("[10.0.0.1]:80")` is a `ValueError`."""
    with pytest.raises(ValueError, match="brackets"):
        resolver_for(text, 80)


# ------------------------------------------------------------------ servers that add or leak


@pytest.mark.parametrize("fault", ["NODATA", "NXDOMAIN"])
async def test_no_other_server_adds_against_the_preferred_one(
    autojump_clock: MockClock, fault: str
) -> None:
    """The preferred server's "no" with SOA is final: the next one is not even asked."""
    net = FakeNet(A, B, C)
    if fault == "NODATA":
        echo(net)
    for liar in (net[1], net[2]):
        liar.set(SERVICE, "SRV", "0 0 666 evil.test.com.")
        for host in ("evil", "echo001", "echo002", "echo003"):
            liar.set(f"{host}.test.com", "A", "10.6.6.6")
    async with watching(net) as watch:
        await trio.sleep(1000)
        assert watch.sets == ([echo_names()] if fault == "NODATA" else [set()])
        assert net[1].log == net[2].log == []


async def test_no_other_server_adds_while_the_preferred_one_is_slow(
    autojump_clock: MockClock,
) -> None:
    """A final "no" of the second server keeps the third from being asked, if the first is slow."""
    net = FakeNet(A, B, C)
    net[0].fault = 1.5
    net[2].set(SERVICE, "SRV", "0 0 666 evil.test.com.")
    net[2].set("evil.test.com", "A", "10.6.6.6")
    async with watching(net) as watch:
        await trio.sleep(60)
        assert watch.sets == [set()]
        assert net[1].log
        assert net[2].log == []


async def test_another_server_may_veto_a_removal(autojump_clock: MockClock) -> None:
    """Records that another server still has stay; those that it has beside them do not come."""
    net = FakeNet(A, B)
    echo(net)
    net[1].set(SERVICE, "SRV", "1 1 6002 echo002.test.com.", "0 0 666 evil.test.com.")
    net[1].set("evil.test.com", "A", "10.6.6.6")
    async with watching(net) as watch:
        await trio.sleep(10)
        net[0].set(SERVICE, "SRV")
        await trio.sleep(500)
        assert watch.sets == [echo_names(), echo_names(2)]
        net[1].set(SERVICE, "SRV", "0 0 666 evil.test.com.")
        await trio.sleep(500)
        assert watch.names == set()


async def test_a_veto_does_not_wait_long(autojump_clock: MockClock) -> None:
    """A second server that hangs delays the removal by no more than the confirmation."""
    net = FakeNet(A, B)
    echo(net)
    async with watching(net) as watch:
        await trio.sleep(10)
        net[1].fault = "hang"
        net[0].set(SERVICE, "SRV")
        await trio.sleep(100)
        assert watch.sets == [echo_names(), set()]
        assert watch.updates[1][0] == pytest.approx(61.2, abs=0.3)


async def test_the_preferred_server_is_waited_for_when_it_is_slow(
    autojump_clock: MockClock,
) -> None:
    """A "no" of the second server does not outrun the records of a preferred one that is slow."""
    net = FakeNet(A, B, C)
    echo(net)
    net[0].latency = 0.2
    net[1].set(SERVICE, "SRV")
    async with watching(net) as watch:
        await trio.sleep(3)
        assert watch.sets == [echo_names()]


# ----------------------------------------------------------------------- additional records


async def test_a_hint_does_not_outrank_an_answer(autojump_clock: MockClock) -> None:
    """A hint replaces no record that is known, removes none, and puts off no query."""
    net = FakeNet()
    net.set(SERVICE, "SRV", "1 1 6001 echo001.test.com.")
    net.set(HOST1, "AAAA", "::1", "::2", "::3", "::4", ttl=100)

    def tweak(message: dns.message.Message) -> None:
        if message.question[0].rdtype == 33:
            for text in ("::2", "::666"):
                hint = dns.rrset.from_text(f"{HOST1}.", 300, "IN", "AAAA", text)
                message.additional.append(hint)

    async with watching(net) as watch:
        await trio.sleep(10)
        net[0].tweak = tweak
        net[0].changed()
        await trio.sleep(3600)
        assert watch.sets == [{f"{HOST1}:6001@::{i}" for i in (1, 2, 3, 4)}]
        assert net[0].count(HOST1, "AAAA") >= 3600 / 110


async def test_a_hint_is_replaced_by_the_answer(autojump_clock: MockClock) -> None:
    """A hint is used while nothing else is known, until the first answer is there."""
    net = FakeNet()
    echo(net, hosts=1)
    net.set("late.test.com", "AAAA", "::7")
    net.set(SERVICE, "SRV", "1 1 6001 echo001.test.com.", "1 1 6007 late.test.com.")

    def tweak(message: dns.message.Message) -> None:
        message.additional.append(dns.rrset.from_text(f"{HOST1}.", 300, "IN", "AAAA", "::9"))

    net[0].tweak = tweak
    net.fault(lambda q: 2.0 if q == Question(HOST1, "AAAA") else None)
    async with watching(net) as watch:
        await trio.sleep(10)
        late = "late.test.com:6007@::7"
        assert watch.sets == [{f"{HOST1}:6001@::9", late}, {f"{HOST1}:6001@::1", late}]
        assert watch.updates[0][0] < 0.5


async def test_a_hint_outlives_failures(autojump_clock: MockClock) -> None:
    """While the target itself cannot be looked up, its hint is used, up to `max_stale`."""
    net = FakeNet()
    echo(net)
    net[0].additional = True
    net.fault(lambda q: "SERVFAIL" if q.name == HOST1 else None)
    async with watching(net, max_stale=500.0) as watch:
        await trio.sleep(400)
        assert watch.sets == [echo_names()]
        await trio.sleep(400)
        assert watch.sets == [echo_names(), echo_names(2, 3)]


# --------------------------------------------------------------------------- too many, too fast


async def test_sets_are_published_a_few_times_a_second(autojump_clock: MockClock) -> None:
    """100 targets whose addresses change all the time: few sets, each of them complete."""
    net = FakeNet()
    hosts = [f"h{i}.test.com" for i in range(100)]
    net.set(SERVICE, "SRV", *(f"1 1 80 {host}." for host in hosts), ttl=0)
    numbers = itertools.count()

    def change(question: Question) -> None:
        if question.rdtype == "A":
            n = next(numbers)
            net[0].records[question.name, "A"] = (
                0,
                [f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}"],
            )
            net[0].changed()

    net.fault(change)
    net[0].latency = 0.05
    async with watching(net, families=("A",)) as watch:
        await trio.sleep(25)
        assert 30 <= len(watch.updates) <= 25 / engine.PUBLISH_INTERVAL + 1
        gaps = [b - a for (a, _), (b, _) in itertools.pairwise(watch.updates)]
        assert min(gaps) >= engine.PUBLISH_INTERVAL * 0.999
        assert {len({b.target for b in update}) for _, update in watch.updates} == {100}


async def test_queries_for_a_large_service_are_paced(autojump_clock: MockClock) -> None:
    """At TTL 0 a service of 500 targets costs a bounded number of queries per second."""
    net = FakeNet()
    echo(net, hosts=500, ttl=0)
    async with watching(net, max_dns_concurrency=100):
        await trio.sleep(20)
        before = net[0].count()
        await trio.sleep(100)
        assert net[0].count() - before <= 100 * QUERIES_PER_SECOND * 1.1
        counts = [n for question, n in net[0].counts().items() if question.rdtype == "AAAA"]
        assert min(counts) >= 100 / (1001 / QUERIES_PER_SECOND) / 1.2


async def test_targets_have_a_limit(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """More targets than the maximum: that many are used, always the same, with one WARNING."""
    monkeypatch.setattr(service, "MAX_TARGETS", 20)
    net = FakeNet()
    echo(net, hosts=50, ttl=5)
    async with watching(net) as watch:
        await trio.sleep(300)
        assert [len(update) for _, update in watch.updates] == [20]
        # The best priority comes first.
        texts = [f"{i > 3} 1 {6000 + i} echo{i:03}.test.com." for i in range(1, 51)]
        net.set(
            SERVICE, "SRV", *(text.replace("True", "2").replace("False", "1") for text in texts)
        )
        await trio.sleep(300)
        assert len(watch.backends) == 20
        assert echo_names(1, 2, 3) <= watch.names
    [record] = [one for one in caplog.records if one.name == LOGGER]
    assert record.levelno == logging.WARNING
    assert "more targets than the maximum" in record.getMessage()


def test_the_limit_of_targets_is_a_choice_of_each_resolver() -> None:
    """Resolvers choose differently, so that together they use all targets."""
    records = tuple(sorted(Srv(1, 1, 80, f"h{i}.test") for i in range(MAX_TARGETS + 700)))
    answer = Answer(Question(SERVICE, "SRV"), Kind.RECORDS, records, 60)
    chosen = []
    for seed in range(2):
        one = Service(SERVICE, DnsResolverConfig(), random.Random(seed), 0.0)
        one.answered(one.own, Verdict(answer, "x"), 0.0)
        chosen.append({t.question.name for t in one.table} - {SERVICE})
        assert one.left_out == 700
    assert len(chosen[0]) == len(chosen[1]) == MAX_TARGETS
    assert 300 < len(chosen[0] - chosen[1]) < 700


def test_backends_have_a_limit() -> None:
    """Many ports and many addresses do not multiply without bound."""
    addresses = [f"10.0.{i // 250}.{i % 250}" for i in range(4000)]
    assembler = Assembler()
    backends = assembler.assemble([Srv(1, 1, 1 + i, "a") for i in range(2000)], lambda _: addresses)
    assert len(backends) == MAX_BACKENDS
    assert assembler.is_cut
    assert len(assembler.assemble([Srv(1, 1, 1, "a")], lambda _: addresses)) == 4000
    assert not assembler.is_cut


async def test_too_many_backends_are_said(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A service that is cut down to the maximum of backends is one WARNING."""
    monkeypatch.setattr("qorb_trio.resolvers._dns.assembly.MAX_BACKENDS", 10)
    net = FakeNet()
    net.set(SERVICE, "SRV", *(f"1 1 {port} echo001.test.com." for port in range(1, 8)))
    net.set(HOST1, "A", "10.0.0.1", "10.0.0.2")
    async with watching(net) as watch:
        await trio.sleep(500)
        assert len(watch.backends) == 10
    assert [one.getMessage() for one in caplog.records if "backends" in one.getMessage()] == [
        f"service {SERVICE}: more than 10000 backends: the rest is left out"
    ]


# ------------------------------------------------------------------------ dynamic nameservers


def find(net: FakeNet, count: int) -> None:
    """Have the first server name `count` dynamic nameservers."""
    net[0].set("_dns._udp.test.com", "SRV", *(f"0 0 {5000 + i} ns.test.com." for i in range(count)))
    net[0].set("ns.test.com", "A", "10.9.9.9")


@pytest.mark.parametrize("fault", ["hang", "closed"])
async def test_200_dead_dynamic_servers_cost_little(autojump_clock: MockClock, fault: str) -> None:
    """200 dead dynamic servers delay the service by about one hedge, at each lookup."""
    net = FakeNet(A)
    echo(net)
    find(net, 200)
    for i in range(200):
        net.add(f"10.9.9.9:{5000 + i}").fault = fault
    async with watching(net, nameservers=[A], resolver_service="_dns._udp.test.com") as watch:
        await trio.sleep(300)
        assert watch.sets == [echo_names()]
        assert watch.updates[0][0] < 1.5
        servers = watch.resolver.snapshot().nameservers
        assert sum(one.dynamic for one in servers) == MAX_DYNAMIC


def test_dynamic_servers_that_fail_make_room_for_others() -> None:
    """After the demotion of a dynamic server, one that was not in use is tried instead."""
    book = ServerBook([Server(A)])
    book.set_dynamic([Backend(("10.9.9.9", 5000 + i)) for i in range(10)])
    assert len(book.servers) == MAX_DYNAMIC + 1
    question = Question(SERVICE, "SRV")
    first, second, *_ = book.order(question, 0)
    assert (first.port, second) == (5000, Server(A))
    for server in book.servers[:3]:
        book.demote(server, 0)
    assert [one.port for one in book.order(question, 1)][:2] == [5003, 53]
    ports = {one.port for one in book.order(question, 31)}
    assert {5008, 5009} <= ports
    assert len(ports) == MAX_DYNAMIC + 1
    # The list goes round. A successor inherits the length of the demotion.
    book.demote(Server("10.9.9.9", 5008), 31)
    assert book.is_demoted(Server("10.9.9.9", 5008), 31 + 59)
    book.answered(Server("10.9.9.9", 5004))
    book.answered(Server("10.9.9.9", 5005))
    assert [one.port for one in book.order(question, 32)][:3] == [5004, 5005, 53]
    book.demote(Server(A), 32)
    assert book.order(question, 33)[2] != Server(A)


# ------------------------------------------------------------ addresses that nobody can dial


@pytest.mark.parametrize(
    "address",
    ["0.0.0.0", "224.0.0.1", "255.255.255.255", "::", "ff02::1", "fe80::1", "::ffff:0.0.0.0"],
)
async def test_addresses_that_cannot_be_dialled_are_ignored(
    autojump_clock: MockClock, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    """0.0.0.0, multicast, link-local without a zone: no backend, and one WARNING."""
    net = FakeNet()
    echo(net, hosts=2)
    family = "AAAA" if ":" in address else "A"
    net.set(HOST1, family, address, "::5" if family == "AAAA" else "10.0.0.5", ttl=5)
    net.set("echo002.test.com", family, address, ttl=5)
    net.set("echo002.test.com", "A" if family == "AAAA" else "AAAA", ttl=5)
    async with watching(net) as watch:
        await trio.sleep(500)
        assert not any(name.endswith(f"@{address}") for name in watch.names)
        assert f"{HOST1}:6001@{'::5' if family == 'AAAA' else '10.0.0.5'}" in watch.names
        assert not any(name.startswith("echo002") for name in watch.names)
    lines = [one.getMessage() for one in caplog.records if one.name == LOGGER]
    assert len(lines) == 2
    assert all(address in line and "ignored" in line for line in lines)


def test_hints_that_cannot_be_dialled_are_ignored() -> None:
    """An additional record with such an address is no hint."""
    from qorb_trio._phases import finish
    from qorb_trio.resolvers._dns.wire import make_query, read

    query = make_query(Question(SERVICE, "SRV"), payload=None)
    message = dns.message.make_response(dns.message.from_wire(query.wire))
    message.answer.append(dns.rrset.from_text(f"{SERVICE}.", 60, "IN", "SRV", "1 1 1 a.test."))
    for rdtype, text in (("A", "0.0.0.0"), ("AAAA", "::1")):
        message.additional.append(dns.rrset.from_text("a.test.", 60, "IN", rdtype, text))
    answer = finish(read(message.to_wire(), query)).outcome
    assert isinstance(answer, Answer)
    assert answer.hints == {Question("a.test", "AAAA"): Hint(("::1",), 60)}


@pytest.fixture(autouse=True)
def collect_garbage() -> Iterator[None]:
    yield
    gc.collect()
