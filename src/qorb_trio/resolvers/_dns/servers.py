"""The addresses of nameservers: as a user gives them. No I/O."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import TypeAlias, final

import attrs

from ... import _validation as _check
from ..._model.backend import format_host_port, parse_host_port
from .._fixed import iterable, reject_bare_string

#: A nameserver as it may be given: ``(host, port)``, "host:port", "[v6]:port" or host.
NameserverLike: TypeAlias = "tuple[str, int] | str"

DNS_PORT = 53

# The name of a host: no empty label, none that is too long, and not a number at the end,
# because a name that ends so is a mistyped address (RFC 3696).
_LABEL = "[A-Za-z0-9_-]{1,63}"
_HOST = re.compile(rf"(?!.{{254}})({_LABEL}\.)*(?!\d+\.?$){_LABEL}\.?")


@final
@attrs.frozen(cache_hash=True)
class Server:
    """The address of a nameserver."""

    host: str
    port: int = DNS_PORT

    def __str__(self) -> str:
        return format_host_port(self.host, self.port)


def checked_nameservers(given: Iterable[NameserverLike]) -> tuple[Server, ...]:
    """Return the nameservers that a user gave, each one once.

    Raises:
      TypeError, ValueError: naming what is wrong.
    """
    reject_bare_string("nameservers", given)
    servers = tuple(dict.fromkeys(map(checked_nameserver, iterable("nameservers", given))))
    if not servers:
        raise ValueError("nameservers must not be empty: None means those of the system")
    return servers


def checked_nameserver(given: object) -> Server:
    """Return one nameserver; raises as `checked_nameservers` does."""
    if isinstance(given, str):
        host, port = _parse_nameserver(given)
    elif isinstance(given, tuple) and len(given) == 2:
        host, port = given
    else:
        raise TypeError(
            "nameservers must be (host, port) pairs, 'host:port', '[v6]:port' or 'host',"
            f" not {given!r}"
        )
    if not isinstance(host, str):
        raise TypeError(f"nameservers: the host must be a str, not {host!r}")
    _check.count("nameservers: the port", port, least=1)
    address = normal_ip(host)
    if port > 65535 or not (address or _HOST.fullmatch(host)):
        raise ValueError(f"nameservers: not the address of a nameserver: {given!r}")
    return Server(address or host, port)


def _parse_nameserver(text: str) -> tuple[str, int]:
    if normal_ip(text):
        return text, DNS_PORT
    if ":" not in text and "[" not in text:
        return text, DNS_PORT
    try:
        host, port = parse_host_port(f"{text}:{DNS_PORT}" if text.endswith("]") else text)
    except ValueError as exc:
        raise ValueError(f"nameservers: {exc}") from None
    if text.startswith("[") and ":" not in host:
        raise ValueError(f"nameservers: no IPv6 address between the brackets: {text!r}")
    return host, port


def normal_ip(text: str) -> str | None:
    """Return an address in the one form in which it is compared; `None` if it is none."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None
