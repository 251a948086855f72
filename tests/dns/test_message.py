"""The parser of DNS messages: dnspython reads the same, and nothing takes long."""

from __future__ import annotations

import dns.exception
import dns.message
import dns.name
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given, strategies as st

from qorb_trio._phases import finish
from qorb_trio.resolvers._dns.message import (
    TC,
    MalformedError,
    Message,
    Section,
    Type,
    parse,
    query,
)
from qorb_trio.resolvers._dns.names import is_within, wire_name
from qorb_trio.resolvers._dns.records import Srv

from ..fuzz.test_messages import damaged, messages

_USED: set[int] = {Type.A, Type.AAAA, Type.SRV, Type.CNAME, Type.NS, Type.SOA}


def text(name: dns.name.Name) -> str:
    return name.canonicalize().to_text(omit_final_dot=True)


def data_of(rdata: object, rdtype: int) -> object:
    match rdtype:
        case Type.A | Type.AAAA:
            return rdata.address  # type: ignore[attr-defined]
        case Type.SRV:
            srv = rdata
            return Srv(srv.priority, srv.weight, srv.port, text(srv.target))  # type: ignore[attr-defined]
        case Type.SOA:
            return rdata.minimum  # type: ignore[attr-defined]
        case _:
            return text(rdata.target)  # type: ignore[attr-defined]


def as_dnspython_sees_it(section: list[dns.rrset.RRset]) -> dict[tuple[str, int], object]:
    return {
        (text(rrset.name), int(rrset.rdtype)): (
            rrset.ttl,
            {data_of(rdata, rrset.rdtype) for rdata in rrset},
        )
        for rrset in section
        if rrset.rdtype in _USED and rrset.rdclass == 1
    }


def as_we_see_it(section: Section) -> dict[tuple[str, int], object]:
    return {key: (found.ttl, set(found.data)) for key, found in section.items()}


def read(wire: bytes) -> Message | None:
    try:
        return finish(parse(wire))
    except MalformedError:
        return None


@given(messages() | damaged())
def test_dnspython_reads_the_same(wire: bytes) -> None:
    """Messages that dnspython reads are read alike: the same questions and records."""
    try:
        expected = dns.message.from_wire(wire, keyring=False, ignore_trailing=True)
    except (dns.exception.DNSException, ValueError, IndexError):
        return
    found = read(wire)
    assert found is not None
    assert (found.id, found.flags) == (expected.id, int(expected.flags) & 0xFFFF | found.flags & 15)
    assert found.rcode == expected.rcode()
    asked = [(text(q.name), int(q.rdtype), int(q.rdclass)) for q in expected.question]
    assert found.questions == asked
    if found.is_cut_off:
        return
    for ours, theirs in [
        (found.answer, expected.answer),
        (found.authority, expected.authority),
        (found.additional, expected.additional),
    ]:
        singles = {key for key in ours if key[1] in {Type.CNAME, Type.SOA}}
        for key, value in as_dnspython_sees_it(theirs).items():
            if key in singles:  # of several, which there must not be, we take the first
                assert key in ours
            else:
                assert as_we_see_it(ours)[key] == value


@given(st.binary(max_size=200) | damaged())
def test_garbage_is_malformed_or_cut_off(wire: bytes) -> None:
    """Any bytes are a message or malformed; no other exception may come."""
    found = read(wire)
    assert found is None or not found.is_cut_off or found.flags & TC


@pytest.mark.parametrize(
    "name",
    ["a.test", "x" * 63 + ".test", r"my\032printer.test", r"a\.b.test", r"\000\255.test", "."],
)
def test_names_survive_the_wire(name: str) -> None:
    """A name with odd bytes is written, read and compared as dnspython does it."""
    wire = query(1, wire_name(name), Type.A, 1232)
    expected = dns.message.from_wire(wire)
    assert expected.question[0].name == dns.name.from_text(name)
    assert (expected.edns, expected.payload) == (0, 1232)
    found = read(wire)
    assert found is not None
    assert found.questions == [(name, Type.A, 1)]


@pytest.mark.parametrize(
    ("name", "zone", "within"),
    [
        ("a.b", "b", True),
        ("b", "b", True),
        ("a.b", ".", True),
        ("ab", "b", False),
        (r"a\.b", "b", False),
        ("b", "a.b", False),
    ],
)
def test_names_within_zones(name: str, zone: str, within: bool) -> None:
    """A name is within a zone by labels, and not by characters."""
    assert is_within(name, zone) is within


def message_of(body: bytes, *, questions: int = 0, answers: int = 0, flags: int = 0x8180) -> bytes:
    header = [1, flags, questions, answers, 0, 0]
    return b"".join(number.to_bytes(2, "big") for number in header) + body


RECORD = b"\0\0\x01\0\x01\0\0\0\x05\0\x04\x0a\0\0\x01"


@pytest.mark.parametrize(
    "wire",
    [
        b"",
        message_of(b"", questions=5),
        message_of(b"\0\0\x01\0\x01" * 5, questions=5),
        message_of(b"\xc0\x0c\0\x01\0\x01", questions=1),
        message_of(b"\x40a\0\0\x01\0\x01", questions=1),
        message_of(b"\x05ab", questions=1),
        message_of((b"\x01a" * 128) + b"\0\0\x01\0\x01", questions=1),
        message_of(RECORD[:-1], answers=1),
        message_of(RECORD[:9] + b"\0\x03\x0a\0\0", answers=1),
        message_of(b"\0\0\x05\0\x01\0\0\0\x05\0\x03\0\0\0", answers=1),
        message_of(b"\0\0\x06\0\x01\0\0\0\x05\0\x01\0", answers=1),
        message_of(b"\0\0\x21\0\x01\0\0\0\x05\0\x02\0\0", answers=1),
    ],
)
def test_malformed_messages(wire: bytes) -> None:
    """Messages that end early, lie about lengths or point in circles are malformed."""
    assert read(wire) is None


def test_a_pointer_to_the_root() -> None:
    """A name may end in a pointer to the root's zero byte."""
    found = read(message_of(b"\x01A\xc0\x00\0\x01\0\x01", questions=1))
    assert found is not None
    assert found.questions == [("a", Type.A, 1)]


def test_large_messages_are_read_in_pieces() -> None:
    """Between two pauses there are 100 records at most."""
    pieces = parse(message_of(RECORD * 1050, answers=1050))
    assert sum(1 for _ in pieces) == 10
    found = read(message_of(RECORD * 1050, answers=1050))
    assert found is not None
    assert len(found.answer[".", Type.A].data) == 1050
