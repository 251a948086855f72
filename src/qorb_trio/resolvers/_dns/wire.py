"""From questions to bytes, and from bytes to answers. Pure.

`message` reads the bytes. This module decides which messages are junk that the resolver
skips, which are failures, and which are answers.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import cast, final

import attrs
import dns.rcode

from ..._phases import Phases
from .message import (
    AA,
    HEADER,
    IN,
    OPCODE_BITS,
    QR,
    TC,
    Data,
    MalformedError,
    Message,
    RecordSet,
    Type,
    parse,
    query,
)
from .names import is_usable_address, is_within, wire_name
from .records import Answer, Hint, Kind, QueryError, Question, Records, Srv

#: The maximum length of a chain of CNAMEs.
MAX_CNAMES = 16

_TYPES = {"SRV": Type.SRV, "A": Type.A, "AAAA": Type.AAAA}
# Answers of servers that do not know EDNS (RFC 6891, section 7) or not our version of it.
_NOT_UNDERSTOOD = frozenset({dns.rcode.FORMERR, dns.rcode.NOTIMP, dns.rcode.BADVERS})
_TRUNCATED = "the answer is truncated"


class JunkError(Exception):
    """A message that is not the answer to our query. It may be a forgery."""


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
    """The server's answer, or the reason why the reply is none."""

    truncated: bool
    """True if the server left something out because it did not fit."""

    not_understood: bool
    """True if the server did not understand the query, perhaps only because of its EDNS."""


def make_query(question: Question, *, payload: int | None) -> Query:
    """Return a recursive query with a random id; with EDNS if `payload` is not `None`."""
    ident = int.from_bytes(os.urandom(2), "big")
    wire = query(ident, wire_name(question.name), _TYPES[question.rdtype], payload)
    return Query(question, ident, wire)


def read(wire: bytes, sent: Query) -> Phases[Reply]:
    """Read a reply to the query `sent`, in pieces.

    Raises:
      JunkError: if it is malformed, or the answer to another question.
    """
    _check_header(wire, sent)
    try:
        message = yield from parse(wire)
    except MalformedError as exc:
        raise JunkError(f"malformed: {exc}") from exc
    if not _is_our_question(message, sent.question):
        raise JunkError("the answer to another question")
    return Reply(
        outcome=_outcome(message, sent.question),
        truncated=bool(message.flags & TC),
        not_understood=message.rcode in _NOT_UNDERSTOOD,
    )


def _check_header(wire: bytes, sent: Query) -> None:
    if len(wire) < HEADER.size:
        raise JunkError("too short for a DNS message")
    ident, flags, *_ = HEADER.unpack_from(wire)
    if ident != sent.id:
        raise JunkError("a wrong id")
    if not flags & QR or flags & OPCODE_BITS:
        raise JunkError("not a response to a query")


def _is_our_question(message: Message, question: Question) -> bool:
    if not message.questions:
        # A server that failed may leave the question out.
        return message.rcode not in {dns.rcode.NOERROR, dns.rcode.NXDOMAIN}
    return message.questions == [(question.name, _TYPES[question.rdtype], IN)]


def _outcome(message: Message, question: Question) -> Answer | QueryError:
    try:
        return _interpret(message, question)
    except QueryError as exc:
        return exc


def _interpret(message: Message, question: Question) -> Answer:
    """Return the server's answer.

    Raises:
      QueryError: if the server says that it failed, refers to other servers, or contradicts
        itself.
    """
    if message.flags & TC:
        raise QueryError(_TRUNCATED)
    if message.rcode not in {dns.rcode.NOERROR, dns.rcode.NXDOMAIN}:
        raise QueryError(_rcode_text(message.rcode))
    name, chain_ttl = _end_of_chain(message, question)
    found = message.answer.get((name, _TYPES[question.rdtype]))
    if found is None:
        return _negative(message, question, name, chain_ttl)
    if message.rcode == dns.rcode.NXDOMAIN:
        raise QueryError("records in an answer that says NXDOMAIN")
    return _positive(message, question, found, _least(found.ttl, chain_ttl))


def _rcode_text(rcode: int) -> str:
    return dns.rcode.to_text(dns.rcode.Rcode.make(rcode))


def _least(ttl: int, chain_ttl: int | None) -> int:
    return ttl if chain_ttl is None else min(ttl, chain_ttl)


def _end_of_chain(message: Message, question: Question) -> tuple[str, int | None]:
    """Follow CNAMEs within one answer: the last name, and the smallest TTL on the way."""
    name, ttl = question.name, None
    seen = {name}
    while (alias := message.answer.get((name, Type.CNAME))) is not None:
        name = cast("str", alias.data[0])
        ttl = _least(alias.ttl, ttl)
        if name in seen or len(seen) > MAX_CNAMES:
            raise QueryError(f"the CNAMEs of {question.name} go round in circles")
        seen.add(name)
    return name, ttl


def _negative(message: Message, question: Question, name: str, chain_ttl: int | None) -> Answer:
    """No records at the end of the chain: told apart as in RFC 2308, section 2."""
    soa = _soa_ttl(message, name)
    ttl = None if soa is None else _least(soa, chain_ttl)
    if message.rcode == dns.rcode.NXDOMAIN:
        return Answer(question, Kind.NXDOMAIN, ttl=ttl, has_soa=soa is not None)
    if soa is None and name != question.name:
        return Answer(question, Kind.NODATA, ttl=chain_ttl, follow=name)
    if soa is None and any(rdtype == Type.NS for _, rdtype in message.authority):
        raise QueryError("a referral to other nameservers")
    return Answer(question, Kind.NODATA, ttl=ttl, has_soa=soa is not None)


def _soa_ttl(message: Message, name: str) -> int | None:
    """RFC 2308, section 5: the lesser of the SOA record's TTL and its MINIMUM, in seconds."""
    for (zone, rdtype), found in message.authority.items():
        if rdtype == Type.SOA and is_within(name, zone):
            return min(found.ttl, cast("int", found.data[0]))
    return None


def _positive(message: Message, question: Question, found: RecordSet, ttl: int) -> Answer:
    is_own = bool(message.flags & AA)
    if question.rdtype == "SRV":
        targets = tuple(sorted(set(cast("list[Srv]", found.data))))
        hints = _hints(message, targets)
        return Answer(question, Kind.RECORDS, targets, ttl, hints=hints, authoritative=is_own)
    usable, ignored = _addresses(found.data)
    # Addresses count as none if nobody can connect to any of them.
    kind = Kind.RECORDS if usable else Kind.NOT_OFFERED
    return Answer(question, kind, usable, ttl, ignored=ignored, authoritative=is_own)


def _addresses(data: Iterable[Data]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the addresses that can be connected to, and those that cannot."""
    found = sorted(set(cast("Iterable[str]", data)))
    usable = tuple(filter(is_usable_address, found))
    ignored = () if len(usable) == len(found) else tuple(set(found).difference(usable))
    return usable, tuple(sorted(ignored))


def _hints(message: Message, records: Records) -> dict[Question, Hint]:
    """Return the addresses of exactly these targets; other additional records are ignored."""
    targets = {srv.target for srv in cast("tuple[Srv, ...]", records)}
    hints = {}
    for (name, rdtype), found in message.additional.items():
        if name in targets and rdtype in (Type.A, Type.AAAA):
            usable, _ = _addresses(found.data)
            if usable:
                hints[Question(name, Type(rdtype).name)] = Hint(usable, found.ttl)
    return hints
