"""Hypothesis on parse and assembly: no crash, no hang, bounded time, whatever comes in."""

from __future__ import annotations

import random
import struct
import time

import dns.message
import dns.rrset
import pytest
from hypothesis import given, strategies as st

from qorb_trio.resolvers._dns.assembly import Assembler, usable
from qorb_trio.resolvers._dns.records import Answer, Kind, QueryError, Question, Srv
from qorb_trio.resolvers._dns.wire import JunkError

from . import target

labels = st.sampled_from(["echo001", "echo002", "_echo", "_tcp", "test", "com", "x" * 63])
names = st.lists(labels, min_size=0, max_size=3).map(lambda parts: ".".join([*parts, ""]) or ".")
near_names = st.sampled_from(
    [f"{target.SERVICE}.", "echo001.test.com.", "echo002.test.com.", "test.com.", "com.", "."]
)
small = st.sampled_from([0, 1, 2, 80, 65535])
ttls = st.sampled_from([0, 1, 60, 2**31 - 1, 2**31, 2**32 - 1])
any_name = near_names | names
records = st.one_of(
    st.tuples(st.just("SRV"), st.builds("{} {} {} {}".format, small, small, small, any_name)),
    st.tuples(st.just("A"), st.sampled_from(["10.0.0.1", "10.0.0.2", "0.0.0.0"])),
    st.tuples(st.just("AAAA"), st.sampled_from(["::1", "::", "::ffff:10.0.0.1"])),
    st.tuples(st.sampled_from(["CNAME", "NS", "DNAME"]), any_name),
    st.tuples(st.just("SOA"), st.builds("a. b. 1 2 3 4 {}".format, small)),
    st.tuples(st.just("TXT"), st.just("hello")),
)


@st.composite
def sections(draw: st.DrawFn) -> list[dns.rrset.RRset]:
    found = []
    for rdtype, text in draw(st.lists(records, max_size=6)):
        rrset = dns.rrset.from_text(draw(any_name), 0, "IN", rdtype, text)
        rrset.ttl = draw(ttls)
        found.append(rrset)
    return found


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """Well-formed messages that make sense or do not."""
    rdtype = draw(st.sampled_from(["SRV", "A", "AAAA"]))
    query = target.QUERIES[rdtype]
    message = dns.message.make_response(dns.message.make_query(query.question.name, rdtype))
    message.answer = draw(sections())
    message.authority = draw(sections())
    message.additional = draw(sections())
    message.flags |= draw(st.sampled_from([0, 0, 0, 0x0200, 0x0400, 2, 3, 5]))
    return message.to_wire(max_size=65535)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """... and then cut off, overwritten, or with pointers where they do not belong."""
    data = bytearray(draw(messages()))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(2, len(data) - 1))
        damage = draw(st.binary(min_size=1, max_size=3) | st.sampled_from([b"\xc0\x0c", b"\xff"]))
        data[at : at + len(damage)] = damage
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)


@given(st.binary(max_size=300) | damaged() | messages(), st.sampled_from(["SRV", "A", "AAAA"]))
def test_any_message(data: bytes, rdtype: str) -> None:
    """Any message is an answer, a failure or junk; an answer is well-formed."""
    outcome = target.parse(data, rdtype)
    assert isinstance(outcome, Answer | QueryError | JunkError)
    if isinstance(outcome, Answer):
        assert bool(outcome.records) == (outcome.kind is Kind.RECORDS)
        assert outcome.ttl is None or 0 <= outcome.ttl < 2**31
        assert len(set(outcome.records)) == len(outcome.records)


@given(st.lists(messages() | damaged(), max_size=8))
def test_any_sequence_of_answers(wires: list[bytes]) -> None:
    """A service's backends are unique by name after any sequence of answers."""
    outcomes = [target.parse(wire, rdtype) for wire in wires for rdtype in ("SRV", "A", "AAAA")]
    target.assemble([outcome for outcome in outcomes if isinstance(outcome, Answer)])


srvs = st.builds(
    Srv, st.integers(0, 3), st.sampled_from([0, 1, 3, 6, 65535]), small,
    st.sampled_from(["a", "b", "c", "."]),
)  # fmt: skip
addresses = st.dictionaries(
    st.sampled_from(["a", "b", "c"]),
    st.lists(st.integers(1, 99).map(lambda n: f"10.0.0.{n}"), max_size=9, unique=True),
)


@given(st.lists(srvs), addresses)
def test_assembly(given_srvs: list[Srv], known: dict[str, list[str]]) -> None:
    """Weights keep their proportions, zero stays zero, nothing impossible is dialled."""
    records = usable(given_srvs)
    backends = Assembler().assemble(records, lambda name: known.get(name, []))
    assert len({backend.name for backend in backends}) == len(backends)
    assert len(backends) == sum(len(known.get(srv.target, [])) for srv in records)
    assert all(backend.port for backend in backends)
    for srv in records:
        shares = [b for b in backends if b.name.startswith(f"{srv.target}:{srv.port}@")]
        assert all(b.priority == srv.priority for b in shares)
        assert all((b.weight == 0) == (srv.weight == 0) for b in shares)
        for other in records:
            peers = [b for b in backends if b.name.startswith(f"{other.target}:{other.port}@")]
            if other.priority == srv.priority and shares and peers:
                ours, theirs = (sum(b.weight for b in group) for group in (shares, peers))
                assert ours * other.weight == theirs * srv.weight


def pointer_bomb() -> bytes:
    """64 KiB of names that each follow thousands of pointers."""
    chain = bytearray()
    previous = 12
    for i in range(8000):
        chain += struct.pack("!H", 0xC000 | previous)
        previous = 12 + 11 + 2 * i
    body = b"\0" + struct.pack("!HHIH", 65280, 1, 0, len(chain)) + chain
    one = struct.pack("!HHHIH", 0xC000 | previous, 65281, 1, 0, 0)
    count = (65535 - 12 - len(body)) // len(one)
    header = struct.pack("!HHHHHH", 0x1234, 0x8180, 0, count + 1, 0, 0)
    return header + body + one * count


def self_pointer() -> bytes:
    """A name that points to itself."""
    return struct.pack("!HHHHHH", 0x1234, 0x8180, 1, 0, 0, 0) + b"\xc0\x0c\0\x21\0\1"


def label_bomb() -> bytes:
    """64 KiB of records whose names are as long as names can be, all by pointer."""
    name = b"".join(b"\x01a" for _ in range(126)) + b"\0"
    header = struct.pack("!HHHHHH", 0x1234, 0x8180, 1, 5000, 0, 0)
    question = name + b"\0\x21\0\1"
    return header + question + (b"\xc0\x0c" + struct.pack("!HHIH", 65281, 1, 0, 0)) * 5000


@pytest.mark.parametrize("bomb", [pointer_bomb, self_pointer, label_bomb])
def test_bombs(bomb: object) -> None:
    """Messages made to take long to read do not."""
    data = bomb()  # type: ignore[operator]
    start = time.thread_time()
    assert isinstance(target.parse(data), JunkError)
    assert time.thread_time() - start < 10


@pytest.mark.parametrize("seed", range(20))
def test_a_large_answer_of_many_kinds(seed: int) -> None:
    """Answers that fill 64 KiB take time in proportion, and come out whole."""
    rng = random.Random(seed)
    count = rng.randrange(100, 1500)
    question = target.QUERIES["SRV"].question
    message = dns.message.make_response(dns.message.make_query(question.name, "SRV"))
    texts = [f"{rng.randrange(3)} {rng.randrange(9)} {i + 1} h{i}.test." for i in range(count)]
    message.answer = [dns.rrset.from_text_list(f"{question.name}.", 60, "IN", "SRV", texts)]
    start = time.thread_time()
    answer = target.parse(message.to_wire(max_size=65535))
    assert isinstance(answer, Answer)
    assert len(answer.records) == count
    assert time.thread_time() - start < 0.005 * count
    assert answer.question == Question(question.name, "SRV")
