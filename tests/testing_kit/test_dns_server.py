"""The embedded DNS server, asked over loopback sockets by dnspython's own client."""

from __future__ import annotations

import struct
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.query
import dns.rcode
import dns.update
import dns.zone
import pytest
import trio

from qorb_trio.testing import DnsQuery, DnsServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from dns.message import Message

    from qorb_trio.testing import DnsAction

pytestmark = pytest.mark.real

ZONE = """
$ORIGIN lab.test.
$TTL 300
@          SOA   ns hostmaster 7 3600 600 86400 11
@          NS    ns
ns         A     127.0.0.1
_echo._tcp SRV   0 1 7001 a
           SRV   0 1 7002 b
           SRV   0 1 7003 away.example.
a          A     127.0.0.1
           AAAA  ::1
b     5    A     127.0.0.2
alias      CNAME chain
chain      CNAME a
dangling   CNAME nowhere
outside    CNAME a.example.
loop       CNAME pool
pool       CNAME loop
x.deep.ent A     127.0.0.9
*.wild     A     127.0.0.3
sub        NS    ns.sub
ns.sub     A     127.0.0.53
mail       MX    10 a
"""


@pytest.fixture
async def server() -> AsyncIterator[DnsServer]:
    async with DnsServer(ZONE) as running:
        yield running


async def ask(server: DnsServer, name: str, rdtype: str = "A", **options: Any) -> Message:
    """One exchange, over UDP unless told otherwise; EDNS unless told otherwise."""
    transport = options.pop("transport", dns.asyncquery.udp)
    timeout = options.pop("timeout", 5)
    query = dns.message.make_query(name, rdtype, **({"use_edns": 0} | options))
    host, port = server.address
    response: Message = await transport(query, host, port=port, timeout=timeout)
    return response


def records(response: Message, section: str = "answer") -> list[str]:
    """The records of a section as text, without class and TTL."""
    return [
        f"{rrset.name} {rdata.rdtype.name} {rdata}"
        for rrset in getattr(response, section)
        for rdata in rrset
    ]


async def test_srv_comes_with_the_addresses_of_its_targets(server: DnsServer) -> None:
    """An SRV answer is authoritative, and brings the addresses that the zone has."""
    response = await ask(server, "_echo._tcp.lab.test.", "SRV")
    assert response.rcode() == dns.rcode.NOERROR
    assert response.flags & dns.flags.AA
    assert not response.flags & dns.flags.RA
    assert response.answer[0].ttl == 300
    assert records(response) == [
        "_echo._tcp.lab.test. SRV 0 1 7001 a.lab.test.",
        "_echo._tcp.lab.test. SRV 0 1 7002 b.lab.test.",
        "_echo._tcp.lab.test. SRV 0 1 7003 away.example.",
    ]
    assert records(response, "additional") == [
        "a.lab.test. A 127.0.0.1",
        "a.lab.test. AAAA ::1",
        "b.lab.test. A 127.0.0.2",
    ]
    assert [rrset.ttl for rrset in response.additional] == [300, 300, 5]


async def test_tcp_gives_the_same_answer(server: DnsServer) -> None:
    """UDP and TCP share the port and the records."""
    over_udp = await ask(server, "_echo._tcp.lab.test.", "SRV")
    over_tcp = await ask(server, "_echo._tcp.lab.test.", "SRV", transport=dns.asyncquery.tcp)
    assert records(over_udp) == records(over_tcp)
    assert [query.transport for query in server.queries] == ["udp", "tcp"]


async def test_a_blocking_client_in_a_thread(server: DnsServer) -> None:
    """Clients that know nothing of Trio are served too."""
    query = dns.message.make_query("a.lab.test.", "A")
    host, port = server.address
    call = partial(dns.query.udp, query, host, port=port, timeout=5)
    assert records(await trio.to_thread.run_sync(call)) == ["a.lab.test. A 127.0.0.1"]


async def test_every_query_is_logged(server: DnsServer) -> None:
    """The log has time, name, type, transport and client of each question, in order."""
    before = trio.current_time()
    await ask(server, "a.LAB.test.", "AAAA")
    await ask(server, "a.lab.test.", use_edns=-1)
    first, second = server.queries
    assert isinstance(first, DnsQuery)
    assert (first.name, first.type, first.transport) == ("a.LAB.test.", "AAAA", "udp")
    assert before <= first.time <= second.time <= trio.current_time()
    assert first.client[0] == "127.0.0.1"
    assert (first.message.edns, second.message.edns) == (0, -1)
    assert "message" not in repr(first)


@pytest.mark.parametrize(
    ("name", "rdtype", "rcode"),
    [
        ("nowhere.lab.test.", "A", "NXDOMAIN"),
        ("a.lab.test.", "MX", "NOERROR"),
        ("ent.lab.test.", "A", "NOERROR"),  # exists, for there is something below
        ("lab.test.", "A", "NOERROR"),
        ("x.wild.lab.test.", "MX", "NOERROR"),
    ],
)
async def test_negative_answers(server: DnsServer, name: str, rdtype: str, rcode: str) -> None:
    """NXDOMAIN and NODATA differ, and both bring the SOA at the negative TTL."""
    response = await ask(server, name, rdtype)
    assert response.rcode() == dns.rcode.from_text(rcode)
    assert response.flags & dns.flags.AA
    assert not response.answer
    [soa] = response.authority
    assert (soa.name.to_text(), soa.rdtype.name, soa.ttl) == ("lab.test.", "SOA", 11)


async def test_a_soa_with_a_short_ttl_shortens_the_negative_ttl(server: DnsServer) -> None:
    """The negative TTL is the lesser of the SOA's own TTL and its minimum."""
    server.set("@", "SOA", "ns hostmaster 8 3600 600 86400 11", ttl=4)
    assert (await ask(server, "nowhere.lab.test.")).authority[0].ttl == 4


async def test_a_zone_can_be_without_soa(server: DnsServer) -> None:
    """Without the SOA, negative answers have an empty authority section."""
    server.remove("@", "SOA")
    response = await ask(server, "nowhere.lab.test.")
    assert (response.rcode(), response.authority) == (dns.rcode.NXDOMAIN, [])


async def test_aliases_are_followed_within_the_zone(server: DnsServer) -> None:
    """The whole chain comes in one answer; a dangling one has the rcode of its end."""
    response = await ask(server, "alias.lab.test.")
    assert records(response) == [
        "alias.lab.test. CNAME chain.lab.test.",
        "chain.lab.test. CNAME a.lab.test.",
        "a.lab.test. A 127.0.0.1",
    ]
    response = await ask(server, "dangling.lab.test.")
    assert response.rcode() == dns.rcode.NXDOMAIN
    assert len(response.answer) == len(response.authority) == 1
    response = await ask(server, "alias.lab.test.", "MX")
    assert response.rcode() == dns.rcode.NOERROR
    assert (len(response.answer), len(response.authority)) == (2, 1)
    response = await ask(server, "alias.lab.test.", "CNAME")
    assert records(response) == ["alias.lab.test. CNAME chain.lab.test."]


@pytest.mark.parametrize(("name", "length"), [("outside", 1), ("loop", 2)])
async def test_chains_that_lead_nowhere_end(server: DnsServer, name: str, length: int) -> None:
    """A chain that leaves the zone, or bites its tail, is sent as far as it goes."""
    response = await ask(server, f"{name}.lab.test.")
    assert response.rcode() == dns.rcode.NOERROR
    assert (len(response.answer), len(response.authority)) == (length, 0)


async def test_wildcards_expand(server: DnsServer) -> None:
    """A wildcard answers under the name that was asked, at any depth."""
    for name in ("x.wild.lab.test.", "y.x.wild.lab.test."):
        assert records(await ask(server, name)) == [f"{name} A 127.0.0.3"]
    assert (await ask(server, "wild.lab.test.")).rcode() == dns.rcode.NOERROR


async def test_below_a_zone_cut_there_is_a_referral(server: DnsServer) -> None:
    """A name that was delegated is referred to its servers, with their addresses, without AA."""
    response = await ask(server, "host.sub.lab.test.")
    assert response.rcode() == dns.rcode.NOERROR
    assert not response.flags & dns.flags.AA
    assert not response.answer
    assert records(response, "authority") == ["sub.lab.test. NS ns.sub.lab.test."]
    assert records(response, "additional") == ["ns.sub.lab.test. A 127.0.0.53"]
    server.set("into", "CNAME", "host.sub")
    response = await ask(server, "into.lab.test.")
    assert response.flags & dns.flags.AA
    assert records(response, "authority") == ["sub.lab.test. NS ns.sub.lab.test."]


async def test_any_gives_everything(server: DnsServer) -> None:
    """ANY lists all records of the name, an alias without following it."""
    response = await ask(server, "a.lab.test.", "ANY", transport=dns.asyncquery.tcp)
    assert records(response) == ["a.lab.test. A 127.0.0.1", "a.lab.test. AAAA ::1"]
    response = await ask(server, "alias.lab.test.", "ANY")
    assert records(response) == ["alias.lab.test. CNAME chain.lab.test."]
    assert records(await ask(server, "mail.lab.test.", "MX"), "additional") == [
        "a.lab.test. A 127.0.0.1",
        "a.lab.test. AAAA ::1",
    ]


async def test_other_zones_are_refused(server: DnsServer) -> None:
    """The server speaks for its own zones and for the Internet class only."""
    assert (await ask(server, "example.")).rcode() == dns.rcode.REFUSED
    assert (await ask(server, "a.lab.test.", rdclass="CH")).rcode() == dns.rcode.REFUSED


async def test_what_is_not_implemented_says_so(server: DnsServer) -> None:
    """Zone transfers, updates and later versions of EDNS get their own errors."""
    response = await ask(server, "lab.test.", "IXFR", transport=raw_tcp)
    assert response.rcode() == dns.rcode.NOTIMP
    host, port = server.address
    update = dns.update.UpdateMessage("lab.test.")
    response = await dns.asyncquery.udp(update, host, port=port, timeout=5)
    assert (response.rcode(), response.opcode()) == (dns.rcode.NOTIMP, dns.opcode.UPDATE)
    assert (await ask(server, "a.lab.test.", use_edns=1)).rcode() == dns.rcode.BADVERS
    assert server.queries[0].type == "IXFR"


async def raw_tcp(query: Message, host: str, *, port: int, timeout: float) -> Message:
    """An exchange over TCP of a message that dnspython's client would treat in its own way."""
    with trio.fail_after(timeout):
        async with await trio.open_tcp_stream(host, port) as stream:
            await stream.send_all(query.to_wire(prepend_length=True))
            return dns.message.from_wire((await read_messages(stream, 1))[0])


async def read_messages(stream: trio.SocketStream, count: int) -> list[bytes]:
    """Read `count` length-framed messages."""
    buffer = b""
    messages: list[bytes] = []
    while len(messages) < count:
        while len(buffer) < 2 or len(buffer) < 2 + int.from_bytes(buffer[:2], "big"):
            data = await stream.receive_some()
            assert data, "the server has closed the connection"
            buffer += data
        size = 2 + int.from_bytes(buffer[:2], "big")
        messages.append(buffer[2:size])
        buffer = buffer[size:]
    return messages


async def exchange_bytes(server: DnsServer, data: bytes) -> bytes | None:
    """Send one datagram; the reply, or `None` if the next one is answered before it is."""
    sentinel = dns.message.make_query("a.lab.test.", "A", id=0xABCD)
    with trio.fail_after(5), trio.socket.socket(type=trio.socket.SOCK_DGRAM) as sock:
        await sock.connect(server.address)
        await sock.send(data)
        await sock.send(sentinel.to_wire())
        replies: list[bytes] = []
        while not replies or replies[-1][:2] != b"\xab\xcd":
            replies.append(await sock.recv(65535))
    return replies[0] if len(replies) == 2 else None


QUESTION = dns.message.make_query("a.lab.test.", "A", id=0x1234).to_wire()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"short",
        struct.pack("!HHHHHH", 1, dns.flags.QR, 0, 0, 0, 0),  # an answer
    ],
)
async def test_what_is_no_query_gets_no_reply(server: DnsServer, data: bytes) -> None:
    """Too short to have an id, or itself an answer: silence."""
    assert await exchange_bytes(server, data) is None
    assert len(server.queries) == 1


@pytest.mark.parametrize(
    "data",
    [
        QUESTION[:20],
        struct.pack("!HHHHHH", 0x1234, dns.flags.RD, 0, 0, 0, 0),  # no question
        struct.pack("!HHHHHH", 0x1234, dns.flags.RD, 2, 0, 0, 0) + QUESTION[12:] * 2,
        QUESTION[:12] + b"\xc0\x0c\x00\x01\x00\x01",  # a pointer to itself
    ],
)
async def test_a_malformed_query_is_a_formerr(server: DnsServer, data: bytes) -> None:
    """A message with an id that makes no sense gets FORMERR under that id."""
    reply = await exchange_bytes(server, data)
    assert reply is not None
    query_id, flags = struct.unpack_from("!HH", reply)
    assert query_id == 0x1234
    assert flags == dns.flags.QR | dns.flags.RD | dns.rcode.FORMERR


def many(server: DnsServer, count: int) -> None:
    """An SRV set that is too large for a datagram."""
    server.set("_many._tcp", "SRV", [f"0 1 {7000 + i} a" for i in range(count)])


@pytest.mark.parametrize(
    ("edns", "fits"), [({"use_edns": -1}, 10), ({"payload": 1200}, 30), ({"payload": 9000}, 30)]
)
async def test_too_large_for_udp_is_truncated(
    server: DnsServer, edns: dict[str, int], fits: int
) -> None:
    """Beyond the client's payload (512 without EDNS) and our own, TC sends it to TCP."""
    many(server, fits)
    response = await ask(server, "_many._tcp.lab.test.", "SRV", **edns)
    assert not response.flags & dns.flags.TC
    many(server, 60)
    response = await ask(server, "_many._tcp.lab.test.", "SRV", **edns)
    assert response.flags & dns.flags.TC
    response = await ask(server, "_many._tcp.lab.test.", "SRV", transport=dns.asyncquery.tcp)
    assert not response.flags & dns.flags.TC
    assert len(response.answer[0]) == 60


async def test_the_udp_payload_can_be_raised() -> None:
    """`udp_payload` is how much the server sends to those who allow it."""
    async with DnsServer(ZONE, udp_payload=4096) as server:
        many(server, 60)
        response = await ask(server, "_many._tcp.lab.test.", "SRV", payload=4096)
        assert len(response.answer[0]) == 60
        assert response.payload == 4096


async def test_additional_records_are_left_out_before_the_answer(server: DnsServer) -> None:
    """Additional records that do not fit are no reason for TC."""
    server.set("_wide._tcp", "SRV", [f"0 1 1 host{i}" for i in range(10)])
    for i in range(10):
        server.set(f"host{i}", "A", "127.0.0.1")
        server.set(f"host{i}", "AAAA", "::1")
    response = await ask(server, "_wide._tcp.lab.test.", "SRV", use_edns=-1)
    assert not response.flags & dns.flags.TC
    assert len(response.answer[0]) == 10
    assert 0 < len(response.additional) < 20


async def test_a_large_answer_does_not_hold_up_the_loop(server: DnsServer) -> None:
    """A thousand records are rendered beside the event loop, and arrive complete."""
    many(server, 1000)
    response = await ask(server, "_many._tcp.lab.test.", "SRV", transport=raw_tcp)
    assert len(response.answer[0]) == 1000


async def test_tcp_is_pipelined_and_answers_out_of_order(server: DnsServer) -> None:
    """Queries on one connection, in odd pieces, are answered as each is ready."""
    server.fault = lambda query: 0.05 if query.name.startswith("slow") else None
    server.set("slow", "A", "127.0.0.8")
    names = ("slow.lab.test.", "a.lab.test.", "b.lab.test.")
    data = b"".join(
        dns.message.make_query(name, "A").to_wire(prepend_length=True) for name in names
    )
    async with await trio.open_tcp_stream(*server.address) as stream:
        await stream.send_all(data[:1])
        await stream.send_all(data[1:50])
        await stream.send_all(data[50:])
        await stream.send_eof()
        with trio.fail_after(5):
            replies = [dns.message.from_wire(wire) for wire in await read_messages(stream, 3)]
            assert await stream.receive_some() == b""
    answered = [str(reply.answer[0].name) for reply in replies]
    assert sorted(answered[:2]) == ["a.lab.test.", "b.lab.test."]
    assert answered[2] == "slow.lab.test."


async def test_a_tcp_client_that_goes_away_is_no_error(server: DnsServer) -> None:
    """Resetting the connection before the answer leaves the server running."""
    server.fault = lambda query: 0.02 if query.transport == "tcp" else None
    stream = await trio.open_tcp_stream(*server.address)
    await stream.send_all(dns.message.make_query("a.lab.test.", "A").to_wire(prepend_length=True))
    stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, struct.pack("ii", 1, 0))
    await stream.aclose()
    await trio.sleep(0.05)
    assert (await ask(server, "a.lab.test.")).answer


@pytest.mark.parametrize("rcode", ["SERVFAIL", "refused", "FORMERR"])
async def test_fault_rcode(server: DnsServer, rcode: str) -> None:
    """The name of an rcode gives an empty answer with it."""
    server.fault = lambda query: rcode
    response = await ask(server, "a.lab.test.")
    assert response.rcode() == dns.rcode.from_text(rcode)
    assert not response.answer
    server.fault = None
    assert (await ask(server, "a.lab.test.")).answer


@pytest.mark.parametrize("action", ["drop", [], ["drop", 0.01], "close"])
async def test_fault_no_answer(server: DnsServer, action: DnsAction) -> None:
    """Dropped queries are logged, and not answered."""
    server.fault = lambda query: action
    with pytest.raises(dns.exception.Timeout):
        await ask(server, "a.lab.test.", timeout=0.05)
    assert len(server.queries) == 1


async def test_fault_close_ends_a_tcp_connection(server: DnsServer) -> None:
    """``"close"`` closes the connection, before or after an answer."""
    server.fault = lambda query: "close" if query.name.startswith("b") else ["answer", "close"]
    with pytest.raises(EOFError):
        await ask(server, "b.lab.test.", transport=dns.asyncquery.tcp)
    assert (await ask(server, "a.lab.test.", transport=dns.asyncquery.tcp)).answer


async def test_fault_delay(server: DnsServer) -> None:
    """A number delays the answer by that number of seconds."""
    server.fault = lambda query: 0.05
    start = trio.current_time()
    assert (await ask(server, "a.lab.test.")).answer
    assert trio.current_time() - start >= 0.05


async def test_fault_truncate(server: DnsServer) -> None:
    """An empty answer with TC, for UDP alone if the hook looks at the transport."""
    server.fault = lambda query: "truncate" if query.transport == "udp" else None
    response = await ask(server, "a.lab.test.")
    assert response.flags & dns.flags.TC
    assert not response.answer
    assert (await ask(server, "a.lab.test.", transport=dns.asyncquery.tcp)).answer


@pytest.mark.parametrize("forgery", ["wrong_id", "wrong_question", "garbage", b"\x00" * 40])
async def test_fault_forgeries(server: DnsServer, forgery: str | bytes) -> None:
    """A forgery that no client must believe comes first, and the right answer after it."""
    server.fault = lambda query: [forgery, 0.01, "answer"]
    with pytest.raises(dns.exception.DNSException):
        await ask(server, "a.lab.test.")
    patient = partial(dns.asyncquery.udp, ignore_errors=True, ignore_unexpected=True)
    assert (await ask(server, "a.lab.test.", transport=patient)).answer


async def test_fault_wrong_source(server: DnsServer) -> None:
    """The answer comes from a port that was not asked; over TCP there is none."""
    server.fault = lambda query: "wrong_source"
    with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as sock:
        await sock.bind(("127.0.0.1", 0))
        await sock.sendto(QUESTION, server.address)
        with trio.fail_after(5):
            data, source = await sock.recvfrom(65535)
        assert source != server.address
        assert dns.message.from_wire(data).answer
    with pytest.raises(dns.exception.Timeout):
        await ask(server, "a.lab.test.", transport=dns.asyncquery.tcp, timeout=0.05)


async def test_fault_message(server: DnsServer) -> None:
    """A message of the test's own making is sent as it is."""

    def lie(query: DnsQuery) -> Message:
        response = dns.message.make_response(query.message)
        response.answer = [dns.rrset.from_text(query.name, 1, "IN", "A", "127.6.6.6")]
        return response

    server.fault = lie
    assert records(await ask(server, "a.lab.test.")) == ["a.lab.test. A 127.6.6.6"]


@pytest.mark.parametrize(
    ("action", "kind", "message"),
    [
        ("nonsense", ValueError, "'nonsense', which is no action and no rcode"),
        (-1, ValueError, "cannot wait -1 seconds"),
        ([True], TypeError, "returned True"),
        (True, TypeError, "returned True"),
        (object(), TypeError, "returned <object"),
    ],
)
async def test_a_hook_that_returns_nonsense_is_loud(
    action: Any, kind: type[Exception], message: str
) -> None:
    """A mistake in the hook ends the server with an error that shows it."""
    inner = pytest.RaisesExc(kind, match=message)
    with pytest.RaisesGroup(inner, flatten_subgroups=True):
        async with DnsServer(ZONE, fault=lambda query: action) as server:
            await ask(server, "a.lab.test.")


async def test_records_change_at_run_time() -> None:
    """`set` replaces one set of records, `remove` takes one or all of a name away."""
    async with DnsServer(origin="test.", default_ttl=33) as server:
        server.set("host", "A", ["127.0.0.1", "127.0.0.2"])
        server.set("host.test.", "AAAA", "::1", ttl=2)
        response = await ask(server, "host.test.")
        assert len(response.answer[0]) == 2
        assert response.answer[0].ttl == 33
        server.set("host", "A", "127.0.0.3")
        assert records(await ask(server, "host.test.")) == ["host.test. A 127.0.0.3"]
        server.remove("host", "A")
        response = await ask(server, "host.test.")
        assert (response.rcode(), response.answer) == (dns.rcode.NOERROR, [])
        assert (await ask(server, "host.test.", "AAAA")).answer[0].ttl == 2
        server.remove("host")
        response = await ask(server, "host.test.")
        assert response.rcode() == dns.rcode.NXDOMAIN
        assert response.authority[0].ttl == 60


@pytest.mark.parametrize("ttl", [0, 2**31, 2**32 - 1])
async def test_any_ttl_can_be_served(server: DnsServer, ttl: int) -> None:
    """TTLs that sane servers do not send are sent."""
    server.set("a", "A", "127.0.0.1", ttl=ttl)
    host, port = server.address
    with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as sock:
        await sock.sendto(QUESTION, (host, port))
        with trio.fail_after(5):
            wire = await sock.recv(65535)
    # dnspython's parser would clamp it: the TTL is before the length and the address.
    assert wire[-10:-6] == ttl.to_bytes(4, "big")


async def test_without_a_zone_any_name_may_be_set() -> None:
    """A server that was told nothing refuses all, and owns all after the first `set`."""
    async with DnsServer() as server:
        assert (await ask(server, "a.example.")).rcode() == dns.rcode.REFUSED
        server.set("a.example.", "A", "127.0.0.1")
        assert records(await ask(server, "a.example.")) == ["a.example. A 127.0.0.1"]
        assert (await ask(server, ".")).rcode() == dns.rcode.NOERROR
        server.remove(".", "SOA")
        assert (await ask(server, ".")).rcode() == dns.rcode.NOERROR
        assert (await ask(server, "b.example.")).rcode() == dns.rcode.NXDOMAIN


async def test_internationalized_names() -> None:
    """Names may be written as people write them."""
    async with DnsServer(origin="test.") as server:
        server.set("bücher", "A", "127.0.0.1")
        assert (await ask(server, "xn--bcher-kva.test.")).answer


async def test_the_most_specific_zone_answers(server: DnsServer, tmp_path: Path) -> None:
    """Several zones, from text, a file or a `dns.zone.Zone`, and the closest one speaks."""
    file = tmp_path / "inner.zone"
    file.write_text("@ 60 IN A 127.1.1.1\n")
    server.load_zone(file, origin="inner.lab.test.")
    server.load_zone(str(file), origin="other.test.")
    relative = dns.zone.from_text(ZONE.replace("lab.test", "third.test"))
    server.load_zone(relative)
    for name in ("inner.lab.test.", "other.test."):
        assert records(await ask(server, name)) == [f"{name} A 127.1.1.1"]
        assert (await ask(server, f"x.{name}")).authority[0].name.to_text() == name
    assert records(await ask(server, "alias.third.test."))[2] == "a.third.test. A 127.0.0.1"
    server.set("new.third.test.", "A", "127.0.0.1")
    assert dns.name.from_text("new", None) not in relative.nodes
    with pytest.raises(ValueError, match="must end in a dot"):
        server.set("new", "A", "127.0.0.1")
    with pytest.raises(ValueError, match=r"x\.example\. is in no zone of this server, which has"):
        server.set("x.example.", "A", "127.0.0.1")


async def test_loading_a_zone_replaces_it(server: DnsServer) -> None:
    """A zone that is loaded again has nothing of its old records."""
    server.load_zone("c 60 IN A 127.0.0.1\n", origin="lab.test.")
    assert (await ask(server, "a.lab.test.")).rcode() == dns.rcode.NXDOMAIN
    assert (await ask(server, "c.lab.test.")).answer


async def test_both_families_on_one_port() -> None:
    """The same port is served over IPv4 and IPv6, UDP and TCP."""
    async with DnsServer(ZONE, hosts=["127.0.0.1", "::1"]) as server:
        (_, port), (v6, same) = server.addresses
        assert port == same
        query = dns.message.make_query("a.lab.test.", "A")
        assert (await dns.asyncquery.udp(query, v6, port=port, timeout=5)).answer
        assert (await dns.asyncquery.tcp(query, v6, port=port, timeout=5)).answer
        assert server.queries[-1].client[0] == "::1"
        assert (await ask(server, "a.lab.test.")).answer


async def test_stopping_frees_the_port_and_starting_takes_it_again() -> None:
    """Outside its block nothing listens; run again, the server has its old address."""
    server = DnsServer(ZONE)
    with pytest.raises(RuntimeError, match="no port before"):
        _ = server.address
    async with server:
        address = server.address
        assert (await ask(server, "a.lab.test.", transport=dns.asyncquery.tcp)).answer
        # A connection that is open when the server stops is closed by it.
        stream = await trio.open_tcp_stream(*address)
    with trio.fail_after(5):
        with pytest.raises(OSError, match="attempts to connect"):
            await trio.open_tcp_stream(*address)
        assert await stream.receive_some() == b""
    await stream.aclose()
    async with server:
        assert server.address == address
        assert (await ask(server, "a.lab.test.")).answer


async def test_serving_as_a_task() -> None:
    """`nursery.start` returns the address; a second run at the same time is refused."""
    server = DnsServer(ZONE)
    async with trio.open_nursery() as nursery:
        assert await nursery.start(server.serve) == server.address
        with pytest.raises(RuntimeError, match="running already"):
            await server.serve()
        assert (await ask(server, "a.lab.test.")).answer
        nursery.cancel_scope.cancel()


async def test_the_body_s_exception_comes_out_as_it_is() -> None:
    """An error in the block is not wrapped in a group."""
    with pytest.raises(KeyError, match="mine"):
        async with DnsServer(ZONE):
            raise KeyError("mine")


async def test_a_taken_port_is_an_oserror() -> None:
    """A given port that is in use is an error at once, also as it is."""
    async with DnsServer(ZONE) as server:
        with pytest.raises(OSError, match="in use"):
            async with DnsServer(ZONE, port=server.address[1]):
                raise AssertionError


async def test_a_port_free_for_udp_only_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another port is found if TCP's half of a port is in use."""
    with trio.socket.socket() as occupied:
        await occupied.bind(("127.0.0.1", 0))
        occupied.listen()
        # The first port that the system picks as "any port" is one that TCP cannot have.
        ports = [occupied.getsockname()[1]]
        real_bind = type(occupied).bind

        async def bind(sock: Any, address: tuple[str, int]) -> None:
            port = ports.pop() if address[1] == 0 and ports else address[1]
            await real_bind(sock, (address[0], port))

        monkeypatch.setattr(type(occupied), "bind", bind)
        async with DnsServer(ZONE) as server:
            assert server.address[1] != occupied.getsockname()[1]
            assert (await ask(server, "a.lab.test.")).answer
        assert not ports


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"port": -1}, ValueError, "port"),
        ({"default_ttl": 1.5}, TypeError, "default_ttl"),
        ({"negative_ttl": -1}, ValueError, "negative_ttl"),
        ({"udp_payload": 100}, ValueError, "udp_payload must be at least 512"),
        ({"hosts": []}, ValueError, "hosts: there must be one"),
        ({"hosts": "localhost"}, ValueError, "hosts: 'localhost' is not an IP address"),
        ({"origin": "a..b"}, ValueError, "name: 'a..b' is not a domain name"),
        ({"zone": "@ A 127.0.0.1\n"}, ValueError, "zone|origin"),
        ({"zone": "; empty\n"}, ValueError, "origin: the zone does not say"),
        ({"zone": "@ A nonsense\n", "origin": "test."}, ValueError, "zone: "),
        ({"zone": Path("/nonexistent")}, FileNotFoundError, "nonexistent"),
    ],
)
def test_bad_arguments(arguments: Any, kind: type[Exception], message: str) -> None:
    """Wrong arguments are refused at construction, naming the field."""
    with pytest.raises(kind, match=message):
        DnsServer(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a", "A", []), "values: there is none"),
        (("a", "A", "127.0.0.1.1"), "values: not records of type A"),
        (("a", "SRV", ["0 1 70000 a"]), "values: not records of type SRV"),
        (("a", "NOPE", "x"), "rdtype: 'NOPE' is not"),
        (("a", "ANY", "x"), "rdtype: 'ANY' cannot"),
        (("a..b", "A", "127.0.0.1"), "name: 'a..b'"),
        (("x" * 64, "A", "127.0.0.1"), "name: 'xxx"),
        (("a.example.", "A", "127.0.0.1"), "in no zone"),
    ],
)
def test_bad_records(arguments: Any, message: str) -> None:
    """Text that is no record is refused when it is set, not when it is asked for."""
    server = DnsServer(origin="test.")
    with pytest.raises(ValueError, match=message):
        server.set(*arguments)
    with pytest.raises(ValueError, match="ttl"):
        server.set("a", "A", "127.0.0.1", ttl=-1)


def test_removing_what_is_not_there() -> None:
    """`remove` of nothing is a mistake in the test."""
    server = DnsServer(origin="test.")
    with pytest.raises(LookupError, match=r"a\.test\. has no A to remove"):
        server.remove("a", "A")
    with pytest.raises(LookupError, match=r"a\.test\. has no records to remove"):
        server.remove("a")
    with pytest.raises(ValueError, match="must end in a dot"):
        DnsServer().remove("a")
    with pytest.raises(ValueError, match="which has none"):
        DnsServer().remove("a.test.")


def test_the_fakes_do_without_dnspython() -> None:
    """dnspython is imported when `DnsServer` is asked for, and not before."""
    program = (
        "import sys, qorb_trio.testing as kit;"
        "kit.FakeConnector, kit.ManualResolver;"
        "assert 'dns' not in sys.modules;"
        "assert 'DnsServer' in dir(kit) and not hasattr(kit, 'Nothing');"
        "kit.DnsServer;"
        "assert 'dns' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
