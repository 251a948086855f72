"""The target of the fuzzers: bytes from a nameserver, all the way to backends."""

from __future__ import annotations

import random
import struct

from qorb_trio import DnsResolverConfig
from qorb_trio._phases import finish
from qorb_trio.resolvers._dns.lookup import Verdict
from qorb_trio.resolvers._dns.records import Answer, QueryError, Question
from qorb_trio.resolvers._dns.servers import Server
from qorb_trio.resolvers._dns.service import Service
from qorb_trio.resolvers._dns.wire import JunkError, Query, read

SERVICE = "_echo._tcp.test.com"
SERVER = Server("10.0.0.1")
#: One query of each type, under id 0x1234; the bytes of a query play no part here.
QUERIES = {
    rdtype: Query(Question(SERVICE if rdtype == "SRV" else "echo001.test.com", rdtype), 0x1234, b"")
    for rdtype in ("SRV", "A", "AAAA")
}


def parse(data: bytes, rdtype: str = "SRV") -> Answer | QueryError | JunkError:
    """Return the outcome of a message; no other exception may come."""
    # Most random messages would fail at the id and at the flags, which is not interesting.
    data = struct.pack("!H", 0x1234) + data[2:]
    if len(data) > 2:
        data = data[:2] + bytes([(data[2] | 0x80) & 0x87]) + data[3:]
    try:
        return finish(read(data, QUERIES[rdtype])).outcome
    except JunkError as exc:
        return exc


def assemble(answers: list[Answer]) -> None:
    """Give a service these answers, one after the other, and check its state after each."""
    service = Service(SERVICE, DnsResolverConfig(default_port=80), random.Random(1), 0.0)
    now = 0.0
    for answer in answers:
        now += 1000
        while (tracker := service.take_due(now)) is None:
            assert service.table.next_due <= now, "nothing is asked for any more"
        verdict = Verdict(answer, str(SERVER))
        # The transport takes no answer to another question.
        if tracker.question.rdtype == answer.question.rdtype:
            service.answered(tracker, verdict, now)
        else:
            service.failed(tracker, "another question", now)
        backends = service.poll(now)
        assert backends is None or len({backend.name for backend in backends}) == len(backends)
        assert tracker.due >= now + 1, "asked again too soon"
        service.snapshot(now)


def one_input(data: bytes) -> None:
    """The entry of a fuzzer: several messages, each of a byte of type and its own length."""
    answers = []
    while len(data) > 3:
        rdtype = ("SRV", "A", "AAAA")[data[0] % 3]
        size = int.from_bytes(data[1:3], "big")
        outcome = parse(data[3 : 3 + size], rdtype)
        if isinstance(outcome, Answer):
            answers.append(outcome)
        data = data[3 + size :]
    assemble(answers)
