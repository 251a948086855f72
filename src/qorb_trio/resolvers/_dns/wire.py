"""Questions to bytes, and bytes to answers. Pure; the only reader of DNS messages.

dnspython parses. What is made of a message is decided here: which messages are junk to
be skipped, which are failures, and which are answers.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast, final

import attrs
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from .names import name_text
from .records import Answer, Hint, Kind, QueryError, Question, Records, Srv

if TYPE_CHECKING:
    import dns.rdtypes.ANY.CNAME
    import dns.rdtypes.ANY.SOA
    import dns.rdtypes.IN.A
    import dns.rdtypes.IN.SRV

#: A chain of more CNAMEs than this is taken for an endless one.
MAX_CNAMES = 16

_HEADER = struct.Struct("!HHHHHH")
_IN = dns.rdataclass.IN
_TYPES = {
    "SRV": dns.rdatatype.SRV,
    "A": dns.rdatatype.A,
    "AAAA": dns.rdatatype.AAAA,
}
# Answers of servers that do not know EDNS (RFC 6891, section 7) or not our version of it.
_NOT_UNDERSTOOD = frozenset({dns.rcode.FORMERR, dns.rcode.NOTIMP, dns.rcode.BADVERS})
# What dnspython raises for a message that is none.
_MALFORMED = (dns.exception.DNSException, ValueError, struct.error)
_TRUNCATED = "the answer is truncated"


class JunkError(Exception):
    """Not the answer to our query: to be skipped, and waited on."""


@final
@attrs.frozen
class Query:
    """One query, ready to be sent."""

    question: Question
    id: int
    wire: bytes


@final
@attrs.frozen
class Reply:
    """A reply to our query, whatever it says."""

    outcome: Answer | QueryError
    """What the server answers, or why that is none."""

    truncated: bool
    """Whether something was left out because it did not fit."""

    not_understood: bool
    """Whether the server did not understand the query, be it only for its EDNS."""


def make_query(question: Question, *, payload: int | None) -> Query:
    """A recursive query with a random id; with EDNS if `payload` is not `None`."""
    message = dns.message.make_query(
        dns.name.from_text(question.name),
        _TYPES[question.rdtype],
        use_edns=False if payload is None else 0,
        payload=payload or 0,
    )
    return Query(question, message.id, message.to_wire())


def check_header(wire: bytes, query: Query) -> None:
    """Cheap checks, before anything is parsed that may be large.

    Raises:
      JunkError: too short, a wrong id, or not a response.
    """
    if len(wire) < _HEADER.size:
        raise JunkError("too short for a DNS message")
    ident, flags, *_ = _HEADER.unpack_from(wire)
    if ident != query.id:
        raise JunkError("a wrong id")
    if not flags & dns.flags.QR or dns.flags.Flag(flags) & 0x7800:
        raise JunkError("not a response to a query")


def read(wire: bytes, query: Query) -> Reply:
    """Read a reply. Takes about 0.1 ms per record, so large ones belong in a thread.

    Raises:
      JunkError: malformed, or the answer to another question.
    """
    check_header(wire, query)
    try:
        message = dns.message.from_wire(wire, keyring=False, ignore_trailing=True)
    except _MALFORMED as exc:
        if _is_cut_off(wire, query):
            return Reply(QueryError(_TRUNCATED), truncated=True, not_understood=False)
        raise JunkError(f"malformed: {str(exc) or type(exc).__name__}") from exc
    if not _is_our_question(message, query.question):
        raise JunkError("the answer to another question")
    return Reply(
        outcome=_outcome(message, query.question),
        truncated=bool(message.flags & dns.flags.TC),
        not_understood=message.rcode() in _NOT_UNDERSTOOD,
    )


def _is_cut_off(wire: bytes, query: Query) -> bool:
    """Whether a reply to our query ends in the middle of a record, and says so by TC."""
    try:
        message = dns.message.from_wire(wire, question_only=True)
    except _MALFORMED:
        return False
    return bool(message.flags & dns.flags.TC) and _is_our_question(message, query.question)


def _is_our_question(message: dns.message.Message, question: Question) -> bool:
    if not message.question:
        # Servers that did not understand the query, or do not want to, may leave it out.
        return message.rcode() not in {dns.rcode.NOERROR, dns.rcode.NXDOMAIN}
    if len(message.question) != 1:
        return False
    asked = message.question[0]
    return (
        asked.rdclass == _IN
        and asked.rdtype == _TYPES[question.rdtype]
        and name_text(asked.name) == question.name
    )


def _outcome(message: dns.message.Message, question: Question) -> Answer | QueryError:
    try:
        return _interpret(message, question)
    except QueryError as exc:
        return exc


def _interpret(message: dns.message.Message, question: Question) -> Answer:
    """What the server says.

    Raises:
      QueryError: it says that it failed, or refers to other servers, or contradicts
        itself.
    """
    rcode = message.rcode()
    if message.flags & dns.flags.TC:
        raise QueryError(_TRUNCATED)
    if rcode not in {dns.rcode.NOERROR, dns.rcode.NXDOMAIN}:
        raise QueryError(dns.rcode.to_text(rcode))
    sets = _sets(message.answer)
    name, chain_ttl = _end_of_chain(sets, question)
    found = sets.get((name, _TYPES[question.rdtype]))
    if found is not None:
        if rcode == dns.rcode.NXDOMAIN:
            raise QueryError("records in an answer that says NXDOMAIN")
        ttl = found.ttl if chain_ttl is None else min(found.ttl, chain_ttl)
        records = _records(found, question.rdtype)
        return Answer(question, Kind.RECORDS, records, ttl, hints=_hints(message, records))
    return _negative(message, question, name, chain_ttl)


def _sets(
    section: list[dns.rrset.RRset],
) -> Mapping[tuple[str, dns.rdatatype.RdataType], dns.rrset.RRset]:
    return {(name_text(s.name), s.rdtype): s for s in section if s.rdclass == _IN and s}


def _end_of_chain(
    sets: Mapping[tuple[str, dns.rdatatype.RdataType], dns.rrset.RRset], question: Question
) -> tuple[str, int | None]:
    """Follow CNAMEs within one answer: the last name, and the least TTL on the way."""
    name, ttl = question.name, None
    seen = {name}
    while (cname := sets.get((name, dns.rdatatype.CNAME))) is not None:
        name = name_text(cast("dns.rdtypes.ANY.CNAME.CNAME", cname[0]).target)
        ttl = cname.ttl if ttl is None else min(ttl, cname.ttl)
        if name in seen or len(seen) > MAX_CNAMES:
            raise QueryError(f"the CNAMEs of {question.name} go round in circles")
        seen.add(name)
    return name, ttl


def _negative(
    message: dns.message.Message, question: Question, name: str, chain_ttl: int | None
) -> Answer:
    """No records at the end of the chain: told apart as in RFC 2308, section 2."""
    soa = next(
        (s for s in message.authority if s.rdtype == dns.rdatatype.SOA and _holds(s.name, name)),
        None,
    )
    if message.rcode() == dns.rcode.NXDOMAIN:
        return Answer(question, Kind.NXDOMAIN, ttl=_negative_ttl(soa, chain_ttl))
    if soa is None and name != question.name:
        return Answer(question, Kind.NODATA, ttl=chain_ttl, follow=name)
    if soa is None and any(s.rdtype == dns.rdatatype.NS for s in message.authority):
        raise QueryError("a referral to other nameservers")
    return Answer(question, Kind.NODATA, ttl=_negative_ttl(soa, chain_ttl))


def _holds(zone: dns.name.Name, name: str) -> bool:
    return dns.name.from_text(name).is_subdomain(zone)


def _negative_ttl(soa: dns.rrset.RRset | None, chain_ttl: int | None) -> int | None:
    """RFC 2308, section 5: the lesser of the SOA record's TTL and its MINIMUM."""
    if soa is None:
        return None
    ttl = min(soa.ttl, cast("dns.rdtypes.ANY.SOA.SOA", soa[0]).minimum)
    return ttl if chain_ttl is None else min(ttl, chain_ttl)


def _records(found: dns.rrset.RRset, rdtype: str) -> Records:
    if rdtype == "SRV":
        return tuple(sorted({_srv(cast("dns.rdtypes.IN.SRV.SRV", rdata)) for rdata in found}))
    return _addresses(found)


def _srv(rdata: dns.rdtypes.IN.SRV.SRV) -> Srv:
    return Srv(rdata.priority, rdata.weight, rdata.port, name_text(rdata.target))


def _addresses(found: dns.rrset.RRset) -> tuple[str, ...]:
    return tuple(sorted({cast("dns.rdtypes.IN.A.A", rdata).address for rdata in found}))


def _hints(message: dns.message.Message, records: Records) -> dict[Question, Hint]:
    """The addresses of exactly these SRV records' targets; what else came is ignored."""
    targets = {srv.target for srv in records if isinstance(srv, Srv)}
    hints = {}
    for (name, rdtype), found in _sets(message.additional).items():
        if name in targets and rdtype in {dns.rdatatype.A, dns.rdatatype.AAAA}:
            question = Question(name, dns.rdatatype.to_text(rdtype))
            hints[question] = Hint(_addresses(found), found.ttl)
    return hints
