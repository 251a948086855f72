"""The zones of the test DNS server, and its answers. No I/O.

The algorithm is that of RFC 1034, section 4.3.2, for an authoritative server without
recursion; negative answers as in RFC 2308.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, TypeAlias, cast, final

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdataset
import dns.rdatatype
import dns.rdtypes.ANY.CNAME
import dns.rdtypes.ANY.SOA
import dns.rrset
import dns.zone

#: A zone as it may be given: the text of a zone file, its path, or a dnspython zone.
ZoneLike: TypeAlias = "str | os.PathLike[str] | dns.zone.Zone"

_IN: Final = dns.rdataclass.IN
_CNAME: Final = dns.rdatatype.CNAME
_SOA: Final = dns.rdatatype.SOA
_NS: Final = dns.rdatatype.NS

#: The attribute of a record that names another host, whose addresses go along.
_TARGETS: Final = {
    dns.rdatatype.SRV: "target",
    dns.rdatatype.MX: "exchange",
    dns.rdatatype.NS: "target",
}


def parse_name(name: str, origin: dns.name.Name | None) -> dns.name.Name:
    """Return an absolute name; raise `ValueError` if there is none."""
    try:
        parsed = dns.name.from_text(name, origin)
    except (dns.exception.DNSException, UnicodeError) as exc:
        raise ValueError(f"name: {name!r} is not a domain name: {exc}") from exc
    if not parsed.is_absolute():
        raise ValueError(f"name: {name!r} must end in a dot, as there is not exactly one zone")
    return parsed


def parse_type(rdtype: str) -> dns.rdatatype.RdataType:
    """Return a record type; raise `ValueError` for a type that cannot be stored."""
    try:
        parsed = dns.rdatatype.from_text(rdtype)
    except dns.exception.DNSException as exc:
        raise ValueError(f"rdtype: {rdtype!r} is not a record type") from exc
    if dns.rdatatype.is_metatype(parsed):
        raise ValueError(f"rdtype: {rdtype!r} cannot be stored")
    return parsed


def _read_zone(zone: ZoneLike, origin: str | None) -> dns.zone.Zone:
    where = "zone"
    if isinstance(zone, dns.zone.Zone):
        # Through text, because this server keeps a copy with absolute names.
        origin, zone = str(zone.origin), zone.to_text(want_origin=True)
    elif isinstance(zone, os.PathLike) or "\n" not in zone:
        where = f"zone {os.fspath(zone)}"
        zone = _read_file(where, zone)
    try:
        return dns.zone.from_text(zone, origin, relativize=False, check_origin=False)
    except dns.exception.DNSException as exc:
        raise ValueError(f"{where}: {exc}") from exc


def _read_file(where: str, path: str | os.PathLike[str]) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as exc:
        raise ValueError(f"{where}: {exc}") from exc


@final
class Zones:
    """The zones of a server: their records, and the answers to questions about them."""

    def __init__(self, *, default_ttl: int, negative_ttl: int) -> None:
        self._default_ttl = default_ttl
        self._negative_ttl = negative_ttl
        self._zones: dict[dns.name.Name, dns.zone.Zone] = {}

    # --------------------------------------------------------------- the records

    def add_zone(self, origin: str) -> None:
        """Add a zone that has nothing but its SOA, or empty it."""
        name = parse_name(origin, dns.name.root)
        self._zones[name] = dns.zone.Zone(name, relativize=False)
        self._provide_soa(name)

    def load_zone(self, zone: ZoneLike, origin: str | None) -> None:
        """Add a zone, or replace it as a whole."""
        read = _read_zone(zone, origin)
        if read.origin is None:
            raise ValueError("origin: the zone does not say its name, so give its origin")
        self._zones[read.origin] = read
        self._provide_soa(read.origin)

    def _provide_soa(self, origin: dns.name.Name) -> None:
        zone = self._zones[origin]
        if zone.get_rdataset(origin, _SOA) is None:
            text = f"ns hostmaster 1 3600 600 86400 {self._negative_ttl}"
            self._store(zone, origin, _SOA, [text], self._negative_ttl)

    def set(self, name: str, rdtype: str, values: str | Iterable[str], ttl: int | None) -> None:
        """Make these the records of that name and type."""
        texts = [values] if isinstance(values, str) else list(values)
        if not texts:
            raise ValueError("values: there is none; use remove() to remove records")
        if not self._zones:
            self.add_zone(".")
        owner, zone = self._place(name)
        ttl = self._default_ttl if ttl is None else ttl
        self._store(zone, owner, parse_type(rdtype), texts, ttl)

    def _store(
        self,
        zone: dns.zone.Zone,
        owner: dns.name.Name,
        rdtype: dns.rdatatype.RdataType,
        texts: list[str],
        ttl: int,
    ) -> None:
        try:
            rdataset = dns.rdataset.from_text_list(
                _IN, rdtype, ttl, texts, origin=zone.origin, relativize=False
            )
        except (dns.exception.DNSException, ValueError) as exc:
            raise ValueError(f"values: not records of type {rdtype.name}: {exc}") from exc
        zone.replace_rdataset(owner, rdataset)

    def remove(self, name: str, rdtype: str | None) -> None:
        """Remove the records of a name, of one type or all; raise `LookupError` without any."""
        owner, zone = self._place(name)
        if rdtype is None:
            there = zone.get_node(owner) is not None
            zone.delete_node(owner)
        else:
            there = zone.get_rdataset(owner, parse_type(rdtype)) is not None
            zone.delete_rdataset(owner, parse_type(rdtype))
        if not there:
            raise LookupError(f"name: {owner} has no {rdtype or 'records'} to remove")

    def _place(self, name: str) -> tuple[dns.name.Name, dns.zone.Zone]:
        only = next(iter(self._zones)) if len(self._zones) == 1 else None
        owner = parse_name(name, only)
        zone = self._zone_of(owner)
        if zone is None:
            zones = ", ".join(map(str, self._zones)) or "none"
            raise ValueError(f"name: {owner} is in no zone of this server, which has {zones}")
        return owner, zone

    def _zone_of(self, name: dns.name.Name) -> dns.zone.Zone | None:
        for ancestor in _ancestors(name):
            if ancestor in self._zones:
                return self._zones[ancestor]
        return None

    # --------------------------------------------------------------- the answers

    def answer(self, query: dns.message.Message, *, payload: int) -> dns.message.Message:
        """Return the correct response to a well-formed message with one question.

        `payload` is the size of UDP message to advertise in EDNS.
        """
        response = dns.message.make_response(query, our_payload=payload)
        question = query.question[0]
        zone = self._zone_of(question.name) if question.rdclass == _IN else None
        if zone is None:
            response.set_rcode(dns.rcode.REFUSED)
        elif dns.rdatatype.is_metatype(question.rdtype) and question.rdtype != dns.rdatatype.ANY:
            response.set_rcode(dns.rcode.NOTIMP)
        else:
            _Lookup(zone, response).follow(question.name, question.rdtype)
        return response


@final
class _Lookup:
    """Answers one question from one zone."""

    def __init__(self, zone: dns.zone.Zone, response: dns.message.Message) -> None:
        assert zone.origin is not None
        self._zone = zone
        self._origin = zone.origin
        self._response = response
        # An answer that ends at a referral is not authoritative, unless it had begun
        # with an alias of ours.
        response.flags |= dns.flags.AA

    def follow(self, name: dns.name.Name, rdtype: dns.rdatatype.RdataType) -> None:
        seen: set[dns.name.Name] = set()
        while name.is_subdomain(self._origin) and name not in seen:
            seen.add(name)
            if self._refer(name):
                return
            alias = self._answer(name, rdtype)
            if alias is None:
                return
            name = alias
        # The chain leaves the zone, or bites its tail: what there is of it is sent.

    def _answer(self, name: dns.name.Name, rdtype: dns.rdatatype.RdataType) -> dns.name.Name | None:
        """Answer for one name; return the next name if it is an alias."""
        found = [
            rdataset
            for rdataset in self._rdatasets(name)
            if rdataset.rdtype in (rdtype, _CNAME) or rdtype == dns.rdatatype.ANY
        ]
        for rdataset in found:
            self._response.answer.append(_rrset(name, rdataset))
            self._add_targets(rdataset)
        if not found:
            self._deny(name)
        elif rdtype not in (_CNAME, dns.rdatatype.ANY) and found[0].rdtype == _CNAME:
            return cast("dns.rdtypes.ANY.CNAME.CNAME", found[0][0]).target
        return None

    def _rdatasets(self, name: dns.name.Name) -> list[dns.rdataset.Rdataset]:
        """Return the records of a name: its own, or a wildcard's if nothing exists there."""
        node = self._zone.get_node(name)
        if node is None and not self._exists(name):
            closest = next(filter(self._exists, _ancestors(name.parent())), self._origin)
            node = self._zone.get_node(dns.name.Name([b"*", *closest.labels]))
        return [] if node is None else list(node.rdatasets)

    def _exists(self, name: dns.name.Name) -> bool:
        """Return True if there is a record at or below a name (RFC 8020)."""
        if name == self._origin or name in self._zone.nodes:
            return True
        return any(owner.is_subdomain(name) for owner in self._zone.nodes)

    def _deny(self, name: dns.name.Name) -> None:
        if not self._exists(name) and not self._rdatasets(name):
            self._response.set_rcode(dns.rcode.NXDOMAIN)
        soa = self._zone.get_rdataset(self._origin, _SOA)
        if soa is not None:
            negative = _rrset(self._origin, soa)
            negative.ttl = min(soa.ttl, cast("dns.rdtypes.ANY.SOA.SOA", soa[0]).minimum)
            self._response.authority.append(negative)

    def _refer(self, name: dns.name.Name) -> bool:
        """Send the client elsewhere, if the name lies below a zone cut."""
        depth = len(self._origin)
        for labels in range(depth + 1, len(name) + 1):
            cut = name.split(labels)[1]
            servers = self._zone.get_rdataset(cut, _NS)
            if servers is not None:
                if not self._response.answer:
                    self._response.flags &= ~dns.flags.AA
                self._response.authority.append(_rrset(cut, servers))
                self._add_targets(servers)
                return True
        return False

    def _add_targets(self, rdataset: dns.rdataset.Rdataset) -> None:
        """Add the addresses of the hosts that these records name, if they are in the zone."""
        attribute = _TARGETS.get(rdataset.rdtype)
        if attribute is None:
            return
        present = {(rrset.name, rrset.rdtype) for rrset in self._response.additional}
        for rdata in rdataset:
            target = getattr(rdata, attribute)
            for family in (dns.rdatatype.A, dns.rdatatype.AAAA):
                addresses = self._zone.get_rdataset(target, family)
                if addresses is not None and (target, family) not in present:
                    present.add((target, family))
                    self._response.additional.append(_rrset(target, addresses))


def _ancestors(name: dns.name.Name) -> Iterator[dns.name.Name]:
    """Yield the name itself, its parent, and so on up to the root."""
    yield name
    while name != dns.name.root:
        name = name.parent()
        yield name


def _rrset(name: dns.name.Name, rdataset: dns.rdataset.Rdataset) -> dns.rrset.RRset:
    rrset = dns.rrset.RRset(name, rdataset.rdclass, rdataset.rdtype)
    rrset.ttl = rdataset.ttl
    # Adding a thousand records one by one takes 35 ms, and copying them together none.
    rrset.items = rdataset.items.copy()
    return rrset
