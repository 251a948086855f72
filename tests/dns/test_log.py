"""The log of the resolver: never silence, never noise, and nothing forged."""

from __future__ import annotations

import logging
import random
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from qorb_trio import DnsResolver, DnsResolverConfig
from qorb_trio.resolvers._dns.records import Answer, Kind, Question
from qorb_trio.resolvers._dns.report import Reporter, Trouble
from qorb_trio.testing import DnsServer

from .net import SERVICE, FakeNet, echo, echo_names, watching

LOGGER = "qorb_trio.resolver"


@pytest.fixture(autouse=True)
def all_levels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, LOGGER)


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """The level and text of each line of the resolver."""
    return [(one.levelname, one.getMessage()) for one in caplog.records if one.name == LOGGER]


@pytest.mark.parametrize("fault", ["closed", "SERVFAIL", "hang"])
async def test_a_dead_nameserver_is_said(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    """The line for an unresolved service has query, nameserver, outcome and next query."""
    net = FakeNet()
    net.fault(fault)
    async with watching(net, query_timeout=60.0) as watch:
        await trio.sleep(8)
        [(level, text)] = lines(caplog)
        assert level == "WARNING"
        assert f"service {SERVICE}: cannot be resolved: asked" in text
        assert f"for {SERVICE} SRV: " in text
        assert "10.0.0.1:53" in text
        outcome = {"closed": "Connection refused", "hang": "no answer in 3.0 s"}.get(fault, fault)
        assert outcome in text
        assert fault == "hang" or "asked again in 1." in text
        trouble = watch.resolver.snapshot().trouble
        assert trouble is not None
        assert ("not answered yet" if fault == "hang" else outcome) in trouble


async def test_an_outage_is_said_at_growing_distances(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A day without DNS: a line at once, then after 1, 3, 7 and 15 minutes, then each 15."""
    net = FakeNet()
    net.fault("closed")
    times = []
    async with watching(net):
        for _ in range(4 * 3600):
            before = len(lines(caplog))
            await trio.sleep(6)
            times += [trio.current_time()] * (len(lines(caplog)) - before)
    assert [round(when / 60) for when in times[:5]] == [0, 1, 3, 7, 15]
    assert len(times) <= 5 + 24 * 4


async def test_stale_answers_and_recovery_are_said(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A resolver that loses its nameservers: a WARNING, and an INFO with the duration."""
    net = FakeNet()
    echo(net)
    async with watching(net) as watch:
        await trio.sleep(30)
        assert lines(caplog) == []
        net.fault("closed")
        await trio.sleep(75)
        net.fault(None)
        await trio.sleep(30)
        assert watch.sets == [echo_names()]
        first, last = lines(caplog)
        assert first[0] == "WARNING"
        assert (
            f"service {SERVICE}: its backends may be out of date: last answered 60 s ago"
            in first[1]
        )
        assert "refused; asked again in 1." in first[1]
        assert last[0] == "INFO"
        assert f"service {SERVICE}: resolved again after " in last[1]
        seconds = float(last[1].split()[-2])
        assert 40 < seconds < 60


async def test_stale_answers_become_no_answers(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """After `max_stale` the log says that the service cannot be resolved."""
    net = FakeNet()
    echo(net)
    async with watching(net, max_stale=300.0):
        await trio.sleep(30)
        net.fault("closed")
        await trio.sleep(1000)
    texts = [text for _, text in lines(caplog)]
    assert "its backends may be out of date" in texts[0]
    assert "(and " in "".join(texts)
    assert any("cannot be resolved" in text for text in texts)


@pytest.mark.parametrize("port", [None, 80])
async def test_a_service_that_does_not_exist_is_said(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, port: int | None
) -> None:
    """A name that does not exist, once that is confirmed: who said what."""
    net = FakeNet()
    net.set("com", "TXT", "x")
    async with watching(net, "db.test.com", default_port=port):
        await trio.sleep(10)
        [(level, text)] = lines(caplog)
        assert level == "WARNING"
        rdtype = "SRV" if port is None else "A"
        assert (
            f"cannot be resolved: asked 10.0.0.1:53 for db.test.com {rdtype}: no such name" in text
        )
        net.set("db.test.com", "SRV", "1 1 80 a.com.")
        net.set("a.com", "A", "10.0.0.1")
        await trio.sleep(100)
        assert lines(caplog)[-1][0] == "INFO"


async def test_targets_without_addresses_are_said(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """SRV records whose targets have no addresses: the log names a target."""
    net = FakeNet()
    net.set(SERVICE, "SRV", "1 1 80 nowhere.com.")
    async with watching(net):
        await trio.sleep(10)
    [(_, text)] = lines(caplog)
    assert "nowhere.com A: no such name" in text


async def test_flapping_is_one_line_a_minute(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A nameserver that fails every few seconds: one line a minute at most, on average."""
    net = FakeNet()
    echo(net, ttl=1)
    async with watching(net):
        for _ in range(60):
            net.fault("SERVFAIL")
            await trio.sleep(5)
            net.fault(None)
            await trio.sleep(5)
            assert len(lines(caplog)) <= trio.current_time() / 60 + 2
        await trio.sleep(300)
    assert lines(caplog)[-1][0] == "INFO"
    assert len(lines(caplog)) >= 8


async def test_a_single_failure_that_is_not_reported_needs_no_recovery(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """While no line may be written, trouble that passes leaves no trace."""
    reporter = Reporter("x")
    trouble = Trouble(False, lambda: "broken")
    for now in (0, 1, 2):
        reporter.update(trouble, now)
    reporter.update(None, 3)
    reporter.update(trouble, 4)
    reporter.update(None, 5)
    reporter.update(None, 500)
    assert [level for level, _ in lines(caplog)] == ["WARNING", "INFO"]
    assert "after 3.0 s" in lines(caplog)[1][1]


async def test_texts_from_the_network_are_escaped(caplog: pytest.LogCaptureFixture) -> None:
    """Line ends, control, bidi and zero-width characters cannot forge a line of the log."""
    reporter = Reporter("a\nb")
    reporter.update(Trouble(False, lambda: "x\r\n2026 WARNING \x1b[8m\u202e\u200b"), 0)
    [(_, text)] = lines(caplog)
    assert text == r"service a\nb: cannot be resolved: x\r\n2026 WARNING \x1b[8m\u202e\u200b"


def test_what_is_noted_does_not_pile_up(caplog: pytest.LogCaptureFixture) -> None:
    """Each ignored address is one line, and the memory of them is bounded."""
    reporter = Reporter("x")
    for number in range(1000):
        question = Question(f"h{number}.test", "A")
        answer = Answer(question, Kind.NOT_OFFERED, ignored=("0.0.0.0",))
        for _ in range(2):
            reporter.note_answer(answer, number * 60.0)
    assert len(lines(caplog)) == 1000
    assert len(reporter._noted) == 100


async def test_the_finder_of_nameservers_is_said(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A `resolver_service` that cannot be resolved has a line of its own."""
    net = FakeNet()
    echo(net)
    net.fault(lambda q: "SERVFAIL" if "_dns" in q.name else None)
    async with watching(net, resolver_service="_dns._udp.test.com"):
        await trio.sleep(30)
    [(_, text)] = lines(caplog)
    assert "service _dns._udp.test.com: cannot be resolved" in text


@pytest.mark.real
async def test_a_dead_nameserver_in_real_time(caplog: pytest.LogCaptureFixture) -> None:
    """A closed port, on a real socket: one WARNING within a second; then INFO."""
    async with DnsServer(origin="test.") as server:
        address = server.address
    config = DnsResolverConfig(min_refresh=0.1)
    resolver = DnsResolver(
        "_echo._tcp.test", nameservers=[address], config=config, rng=random.Random(1)
    )
    outbox, inbox = trio.open_memory_channel[object](0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(resolver.run, outbox)
        await trio.sleep(1)
        [(level, text)] = lines(caplog)
        assert level == "WARNING"
        assert f"127.0.0.1:{address[1]}: [Errno 111] Connection refused" in text
        server.set("_echo._tcp", "SRV", "0 1 7001 a")
        server.set("a", "A", "127.0.0.1")
        async with server:
            await inbox.receive()
            await trio.sleep(0.5)
        assert lines(caplog)[1][0] == "INFO"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("named", ["path", "text"])
def test_zone_errors_name_the_file(tmp_path: Path, named: str) -> None:
    """A zone file that cannot be parsed or decoded is an error that names it."""
    path = tmp_path / "broken.zone"
    given = path if named == "path" else str(path)
    path.write_text("@ SOA nonsense\n")
    with pytest.raises(ValueError, match=r"zone .*broken\.zone: "):
        DnsServer(given, origin="test.")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"zone .*broken\.zone: .*utf-8"):
        DnsServer(given, origin="test.")
    with pytest.raises(ValueError, match=r"^zone: "):
        DnsServer("@ SOA nonsense\n", origin="test.")
