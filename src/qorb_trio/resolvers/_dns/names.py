"""Names and addresses as text, checked and brought into the one form used here."""

from __future__ import annotations

import contextlib
import ipaddress
import re
from collections.abc import Iterable, Iterator, Sequence

import dns.exception
import dns.name

from .records import ROOT

# The characters of a host or service name. Anything else (spaces, "host:port", URLs) is
# taken for a mistake unless it is escaped, as DNS-SD's instance names are.
_PLAIN = re.compile(r"[A-Za-z0-9_.-]*")


def is_ip_address(text: str) -> bool:
    """Return True if `text` is a literal IPv4 or IPv6 address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def is_usable_address(text: str) -> bool:
    """Return True if a client can connect to this address from a DNS record.

    0.0.0.0 and ``::`` mean "this host", and multicast addresses a group. A link-local IPv6
    address needs a zone (RFC 4007, section 6), which a DNS record cannot give.
    """
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address):
        if address.is_link_local and address.scope_id is None:
            return False
        address = address.ipv4_mapped or address
    return not (address.is_unspecified or address.is_multicast or text == "255.255.255.255")


def checked_name(field: str, text: object) -> str:
    """Return a domain name as text: lower case, A-labels, no final dot.

    IDNA 2008 with the mappings of UTS 46 is applied to labels that are not ASCII.

    Raises:
      TypeError, ValueError: naming `field`.
    """
    if not isinstance(text, str):
        raise TypeError(f"{field} must be a str, not {text!r}")
    if is_ip_address(text):
        raise ValueError(f"{field} must be a domain name, not the address {text!r}")
    try:
        name = dns.name.from_text(text)
    except (dns.exception.DNSException, UnicodeError) as exc:
        raise ValueError(f"{field} is not a domain name: {text!r}: {exc}") from exc
    if name == dns.name.root:
        raise ValueError(f"{field} must not be empty or the root, not {text!r}")
    result = name.canonicalize().to_text(omit_final_dot=True)
    if "\\" not in text and not _PLAIN.fullmatch(result):
        raise ValueError(f"{field} is not a domain name: {text!r}")
    return result


def possible_names(texts: Iterable[str]) -> Iterator[str]:
    """Yield the names that can exist, in the form of `checked_name`."""
    for text in texts:
        with contextlib.suppress(ValueError):
            yield checked_name("", text)


def wire_name(name: str) -> bytes:
    """Return a name in the form of `checked_name` as bytes, without compression."""
    if "\\" in name or name == ROOT:
        labels: Sequence[bytes] = dns.name.from_text(name).labels
    else:
        labels = [*name.encode("ascii").split(b"."), b""]
    return b"".join(bytes([len(label)]) + label for label in labels)


def is_within(name: str, zone: str) -> bool:
    """Return True if a name is that of the zone, or below it."""
    if zone in (ROOT, name):
        return True
    above = name.removesuffix(f".{zone}")
    # An escaped dot belongs to a label.
    return above != name and not above.endswith("\\")
