"""One exchange with one server, over real sockets, whatever the server sends."""

from __future__ import annotations

import gc
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import pytest
import trio

from qorb_trio.resolvers._dns import transport as _dns_transport
from qorb_trio.resolvers._dns.records import Answer, Kind, QueryError, Question
from qorb_trio.resolvers._dns.servers import Server
from qorb_trio.resolvers._dns.transport import NetworkTransport

from .wire_server import Asked, wire_server

pytestmark = pytest.mark.real

HOST = Question("a.test", "A")


@pytest.fixture(autouse=True)
def no_descriptor_is_left() -> Iterator[None]:
    """No test leaves a descriptor open."""
    gc.collect()
    before = descriptors()
    yield
    gc.collect()
    assert descriptors() - before == set()


def descriptors() -> set[str]:
    """The sockets that are open in this process."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = str(entry.readlink())
        except OSError:
            continue
        if target.startswith("socket:"):
            found.add(target)
    return found


async def ask(
    server: Server,
    question: Question = HOST,
    *,
    timeout: float = 5,
    transport: NetworkTransport | None = None,
) -> Answer:
    transport = transport or NetworkTransport(edns_payload=1232)
    return await transport.exchange(server, question, timeout=timeout)


async def test_a_plain_exchange() -> None:
    """A query goes out with EDNS and RD, from a socket of its own, and is answered."""

    async def handler(asked: Asked) -> None:
        await asked.send(asked.answer("10.0.0.1", "10.0.0.2", ttl=77))

    async with wire_server(handler) as server:
        answer = await ask(server.server)
        assert answer == Answer(HOST, Kind.RECORDS, ("10.0.0.1", "10.0.0.2"), 77)
        query = server.asked[0].query
        assert (query.edns, query.payload) == (0, 1232)
        assert query.flags & dns.flags.RD
        assert len(server.asked) == 1


async def test_a_closed_port_is_an_error_at_once() -> None:
    """A closed port fails in milliseconds, not after the timeout."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    start = trio.current_time()
    with pytest.raises(QueryError, match="refused"):
        await ask(Server("127.0.0.1", port))
    assert trio.current_time() - start < 0.1


async def test_junk_is_skipped() -> None:
    """Wrong id, question, source, garbage: skipped until the right answer comes."""

    async def handler(asked: Asked) -> None:
        right = asked.answer("10.0.0.1")
        wrong_id = asked.answer("10.6.6.6")
        wrong_id.id = (right.id + 1) % 65536
        other = dns.message.make_response(dns.message.make_query("b.test.", "A"))
        other.id = right.id
        for junk in (
            b"",
            b"x",
            os.urandom(100),
            right.to_wire()[:2] + b"\x81\x80" + os.urandom(50),
            right.to_wire()[:-3],
            wrong_id,
            other,
            asked.wire,  # a query, not a response
            dns.message.make_query("a.test.", "A"),
        ):
            await asked.send(junk)
        with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as stranger:
            await stranger.sendto(asked.answer("10.6.6.6").to_wire(), asked.peer)
        await trio.sleep(0.02)
        await asked.send(right)

    async with wire_server(handler) as server:
        answer = await ask(server.server)
        assert answer.records == ("10.0.0.1",)
        assert len(server.asked) == 1


async def test_nothing_but_junk() -> None:
    """The error says so if only junk came in until the timeout."""

    async def handler(asked: Asked) -> None:
        message = asked.answer("10.0.0.1")
        message.id ^= 1
        await asked.send(message)

    async with wire_server(handler) as server:
        with pytest.raises(QueryError, match=r"no answer within 0.2 s \(ignored: a wrong id\)"):
            await ask(server.server, timeout=0.2)


async def test_silence() -> None:
    """A server that says nothing is given up at the timeout; the query is sent again."""

    async def handler(asked: Asked) -> None:
        await trio.lowlevel.checkpoint()

    async with wire_server(handler) as server:
        with pytest.raises(QueryError, match=r"no answer within 0.1 s$"):
            await ask(server.server, timeout=0.1)
        assert len(server.asked) == 1


async def test_a_lost_packet_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A query that is lost, or whose answer is, is sent again on the same socket."""
    monkeypatch.setattr(_dns_transport, "_RESEND", (0.05, 0.05))

    async def handler(asked: Asked) -> None:
        if len(server.asked) == 3:
            await asked.send(asked.answer("10.0.0.1"))

    async with wire_server(handler) as server:
        assert (await ask(server.server)).records == ("10.0.0.1",)
        assert len({asked.wire for asked in server.asked}) == 1


async def test_an_answer_that_is_cut_off_leads_to_tcp() -> None:
    """TC in an answer that ends within a record: not junk, but a reason to ask over TCP."""
    everything = [f"10.0.0.{i}" for i in range(1, 20)]

    async def handler(asked: Asked) -> None:
        message = asked.answer(*everything)
        if asked.tcp:
            await asked.send(message)
            return
        message.flags |= dns.flags.TC
        other = dns.message.make_response(dns.message.make_query("b.test.", "A"))
        other.id = message.id
        other.flags |= dns.flags.TC
        await asked.send(other.to_wire()[:-1])  # cut off within its question: junk
        await asked.send(other.to_wire() + b"x")
        await asked.send(message.to_wire()[:-5])

    async with wire_server(handler) as server:
        assert set((await ask(server.server)).records) == set(everything)
        assert [asked.tcp for asked in server.asked] == [False, True]


@pytest.mark.parametrize("partial", [True, False])
async def test_truncation_leads_to_tcp(partial: bool) -> None:
    """TC, with part of the records or none: all of them come over TCP."""
    everything = [f"10.0.0.{i}" for i in range(1, 200)]

    async def handler(asked: Asked) -> None:
        message = asked.answer(*(everything if asked.tcp else everything[:3] if partial else ()))
        if not asked.tcp:
            message.flags |= dns.flags.TC
        await asked.send(message)

    async with wire_server(handler) as server:
        answer = await ask(server.server)
        assert set(answer.records) == set(everything)
        assert [asked.tcp for asked in server.asked] == [False, True]


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("truncated", "truncated"),
        ("closed", "closed the TCP connection"),
        ("half", "closed the TCP connection"),
        ("garbage", "too short|a wrong id|not a response"),
        ("malformed", "malformed"),
        ("reset", "connection broken"),
        ("hang", "no answer"),
    ],
)
async def test_tcp_going_wrong(what: str, error: str) -> None:
    """A truncated set is never an answer; nor is a TCP connection that breaks or lies."""

    async def handler(asked: Asked) -> None:
        message = asked.answer("10.0.0.1")
        wire = message.to_wire()
        message.flags |= dns.flags.TC
        if not asked.tcp or what == "truncated":
            await asked.send(message)
        elif what == "half":
            await asked.send_raw(len(wire).to_bytes(2, "big") + wire[:-1])
        elif what == "garbage":
            await asked.send(os.urandom(40))
        elif what == "malformed":
            await asked.send(wire[:-5])
        elif what == "reset":
            asked.reset()
        elif what == "hang":
            await trio.sleep_forever()

    async with wire_server(handler) as server:
        with pytest.raises(QueryError, match=error):
            await ask(server.server, timeout=0.3 if what == "hang" else 5)


async def test_tcp_that_is_refused() -> None:
    """TC from a server that does not take TCP is a failure, not part of the set."""
    with trio.socket.socket() as silent, trio.socket.socket(type=socket.SOCK_DGRAM) as sock:
        await silent.bind(("127.0.0.1", 0))  # so that the port is not used otherwise
        await sock.bind(silent.getsockname())

        async def answer_once() -> None:
            wire, peer = await sock.recvfrom(65535)
            message = dns.message.make_response(dns.message.from_wire(wire))
            message.flags |= dns.flags.TC
            await sock.sendto(message.to_wire(), peer)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer_once)
            with pytest.raises(QueryError, match="refused"):
                await ask(Server("127.0.0.1", sock.getsockname()[1]))


@pytest.mark.parametrize("rcode", ["FORMERR", "NOTIMP"])
@pytest.mark.parametrize("bare", [True, False])
async def test_a_server_without_edns(rcode: str, bare: bool) -> None:
    """FORMERR or NOTIMP to EDNS: asked again without, and so from then on."""

    async def handler(asked: Asked) -> None:
        if asked.query.edns < 0:
            await asked.send(asked.answer("10.0.0.1"))
            return
        message = asked.answer()
        message.use_edns(False)
        message.set_rcode(dns.rcode.from_text(rcode))
        # Some servers send nothing but the header.
        await asked.send(message.to_wire()[:4] + bytes(8) if bare else message)

    async with wire_server(handler) as server:
        transport = NetworkTransport(edns_payload=1232)
        for _ in range(3):
            answer = await ask(server.server, transport=transport)
            assert answer.records == ("10.0.0.1",)
        assert [asked.query.edns for asked in server.asked] == [0, -1, -1, -1]


async def test_a_server_that_understands_nothing() -> None:
    """FORMERR with and without EDNS is a failure, and says nothing about EDNS."""

    async def handler(asked: Asked) -> None:
        message = asked.answer()
        message.set_rcode(dns.rcode.FORMERR)
        await asked.send(message)

    async with wire_server(handler) as server:
        transport = NetworkTransport(edns_payload=1232)
        for _ in range(2):
            with pytest.raises(QueryError, match="FORMERR"):
                await ask(server.server, transport=transport)
        assert [asked.query.edns for asked in server.asked] == [0, -1, 0, -1]


@pytest.mark.parametrize("rcode", ["SERVFAIL", "REFUSED"])
async def test_failures_are_said_to_be_such(rcode: str) -> None:
    """SERVFAIL and REFUSED are failures, with the question repeated or without."""

    async def handler(asked: Asked) -> None:
        message = asked.answer()
        message.set_rcode(dns.rcode.from_text(rcode))
        if len(server.asked) == 2:
            message.question = []
        await asked.send(message)

    async with wire_server(handler) as server:
        for _ in range(2):
            with pytest.raises(QueryError, match=rcode):
                await ask(server.server)


async def test_an_answer_without_its_question_is_junk() -> None:
    """NOERROR without a question section could be the answer to anything."""

    async def handler(asked: Asked) -> None:
        message = asked.answer("10.6.6.6")
        message.question = []
        await asked.send(message)
        message = asked.answer("10.6.6.6")
        message.question *= 2
        await asked.send(message)
        await asked.send(asked.answer("10.0.0.1"))

    async with wire_server(handler) as server:
        assert (await ask(server.server)).records == ("10.0.0.1",)


async def test_signed_answers_are_read() -> None:
    """An answer with a TSIG record that we did not ask for is read nevertheless."""
    import dns.tsig

    async def handler(asked: Asked) -> None:
        message = asked.answer("10.0.0.1")
        message.use_tsig(dns.tsig.Key("key.", b"secret" * 8))
        await asked.send(message)

    async with wire_server(handler) as server:
        assert (await ask(server.server)).records == ("10.0.0.1",)


async def test_a_nameserver_by_name() -> None:
    """A nameserver may be given by a name that the system knows; an unknown one fails."""

    async def handler(asked: Asked) -> None:
        await asked.send(asked.answer("10.0.0.1"))

    async with wire_server(handler) as server:
        with pytest.raises(QueryError, match=re.escape("[Errno")):
            await ask(Server("no-such-host.invalid", 53))
        with pytest.raises(QueryError, match="codec"):
            await ask(Server("a..b", 53))
        answer = await ask(Server("localhost", server.server.port))
        assert answer.records == ("10.0.0.1",)


async def test_a_nameserver_by_a_name_with_several_addresses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The next address of a nameserver's name is tried if one does not work."""

    async def handler(asked: Asked) -> None:
        await asked.send(asked.answer("10.0.0.1"))

    class Threads:
        async def run(self, _: object, _host: str, port: int, *__: object) -> list[object]:
            hosts = [
                (socket.AF_INET6, "::1"),
                (socket.AF_INET, "127.0.0.2"),
                (socket.AF_INET, "127.0.0.1"),
            ]
            return [(family, 0, 0, "", (host, port)) for family, host in hosts]

    async with wire_server(handler) as server:
        monkeypatch.setattr(_dns_transport, "_NAME_THREADS", Threads())
        answer = await ask(Server("ns.test", server.server.port))
        assert answer.records == ("10.0.0.1",)
        assert len(server.asked) == 1


async def test_an_unreachable_server() -> None:
    """A network that cannot be reached is a failure at once."""
    with pytest.raises(QueryError, match=r"\[Errno"):
        await ask(Server("255.255.255.255", 53))


@pytest.mark.parametrize("stage", ["udp", "tcp connect", "tcp length", "tcp body", "parse"])
async def test_cancelled_at_each_stage(  # noqa: C901
    stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelled at any stage, an exchange is gone at once and leaves no descriptor."""
    reached = trio.Event()

    async def stop_here() -> None:
        reached.set()
        await trio.sleep_forever()

    async def handler(asked: Asked) -> None:
        message = asked.answer("10.0.0.1")
        wire = message.to_wire()
        message.flags |= dns.flags.TC
        if stage == "udp":
            reached.set()
        elif not asked.tcp:
            await asked.send(message)
        elif stage == "tcp length":
            await asked.send_raw(b"\x01")
            await stop_here()
        elif stage == "tcp body":
            await asked.send_raw(len(wire).to_bytes(2, "big") + wire[:5])
            await stop_here()
        else:
            await asked.send(asked.answer(*(f"10.0.{i // 250}.{i % 250}" for i in range(999))))

    if stage == "tcp connect":

        async def open_socket(where: Any, kind: socket.SocketKind) -> trio.socket.SocketType:
            if kind is socket.SOCK_STREAM:
                await stop_here()
            return await original(where, kind)

        original = _dns_transport._open_socket
        monkeypatch.setattr(_dns_transport, "_open_socket", open_socket)
    if stage == "parse":

        def read(*_: object) -> Iterator[None]:
            reached.set()
            while True:
                yield

        monkeypatch.setattr(_dns_transport, "read", read)

    async with wire_server(handler) as server:
        before = descriptors()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, server.server)
            with trio.fail_after(5):
                await reached.wait()
            assert stage == "tcp connect" or descriptors() > before
            nursery.cancel_scope.cancel()
        assert stage == "udp" or descriptors() >= before
