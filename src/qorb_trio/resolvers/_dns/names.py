"""Names as a user writes them, checked and brought into the one form used here."""

from __future__ import annotations

import contextlib
import ipaddress
import re
from collections.abc import Iterable, Iterator

import dns.exception
import dns.name

# What a host or service name is made of. Anything else (spaces, "host:port", URLs) is
# taken for a mistake unless it is escaped, as DNS-SD's instance names are.
_PLAIN = re.compile(r"[A-Za-z0-9_.-]*")


def name_text(name: dns.name.Name) -> str:
    """The form in which names are compared: lower case, A-labels, no final dot."""
    return name.canonicalize().to_text(omit_final_dot=True)


def is_ip_address(text: str) -> bool:
    """Whether `text` is a literal IPv4 or IPv6 address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def checked_name(field: str, text: object) -> str:
    """A domain name, in the form of `name_text`.

    IDNA 2008 with the mappings of UTS 46 is applied to what is not ASCII.

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
    result = name_text(name)
    if "\\" not in text and not _PLAIN.fullmatch(result):
        raise ValueError(f"{field} is not a domain name: {text!r}")
    return result


def possible_names(texts: Iterable[str]) -> Iterator[str]:
    """Those of some names that can exist, in the form of `name_text`."""
    for text in texts:
        with contextlib.suppress(ValueError):
            yield checked_name("", text)
