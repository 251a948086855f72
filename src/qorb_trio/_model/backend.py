"""`Backend`: one running instance of a service."""

from __future__ import annotations

import os
import re
from typing import TypeAlias, final

import attrs

from .. import _validation as _check

#: What a backend may be given as: ``(host, port)`` or the path of a Unix socket.
Address: TypeAlias = "tuple[str, int] | str"

#: The largest weight. SRV records have 16 bits, so this leaves room for weights by hand.
MAX_WEIGHT = 2**32

#: The weight that 0 counts as. RFC 2782 asks for "a very small chance". Its own algorithm gives
#: weight 0 against a total of n the chance 1 / (n + 1).
ZERO_WEIGHT = 0.5

_HOST_PORT = re.compile(r"[^/\0]*:\d+")
_SOCKET_PATH = re.compile(r"\.{0,2}/[^\0]*[^/\0]")
#: Rather loose: it is to find out what is left of a list, a URL or a path.
_HOST = re.compile(r"[^\s/,\[\]]+")


def format_host_port(host: str, port: int) -> str:
    """``host:port``, or ``[host]:port`` where the host is an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_host_port(text: str) -> tuple[str, int]:
    """The inverse of `format_host_port`; `ValueError` where it does not parse."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"an IPv6 address needs brackets, as in '[::1]:80': {text!r}")
    if not colon or not _HOST.fullmatch(host) or not (port.isascii() and port.isdigit()):
        raise ValueError(f"not 'host:port': {text!r}")
    return host, int(port)


def is_socket_path(text: str) -> bool:
    """Return True if a text can only be the path of a Unix socket: ``/…``, ``./…`` or ``../…``."""
    return _SOCKET_PATH.fullmatch(text) is not None


def effective_weight(weight: int) -> float:
    """Return a weight that is greater than zero, so that it can be divided by."""
    return weight or ZERO_WEIGHT


def _checked_address(address: object) -> Address:
    if isinstance(address, os.PathLike):
        address = os.fspath(address)
    if isinstance(address, str):
        if not address:
            raise ValueError("address must not be an empty path")
        if _HOST_PORT.fullmatch(address):
            raise ValueError(
                f"address {address!r} looks like 'host:port', but a string is the path of"
                " a Unix socket: give a (host, port) pair"
            )
        return address
    if not isinstance(address, tuple) or len(address) != 2:
        raise TypeError(
            f"address must be a (host, port) pair or the path of a Unix socket, not {address!r}"
        )
    host, port = address
    if not isinstance(host, str):
        raise TypeError(f"address: the host must be a str, not {host!r}")
    if not host:
        raise ValueError("address: the host must not be empty")
    _check.count("address: the port", port, least=1)
    if port > 65535:
        raise ValueError(f"address: the port must be at most 65535, not {port!r}")
    return (host, port)


def _checked_name(field: str, name: object) -> str | None:
    if name is not None and not isinstance(name, str):
        raise TypeError(f"{field} must be a str, not {name!r}")
    if name == "":
        raise ValueError(f"{field} must not be empty")
    return name


@final
@attrs.frozen(init=False, repr=False)
class Backend:
    """One running instance of a service: a name and an address. Immutable.

    Two backends are equal when name and address are; a known name at a new address
    is therefore a new backend, and a change of `priority`, `weight` or `target` is not.

    Args:
      address: ``(host, port)``, or the path of a Unix socket.
      name: what people and statistics call it; defaults to ``host:port``
        (``[v6]:port``) or the path.
      priority: as in RFC 2782: backends of the lowest number that has any online are
        used. At least 0.
      weight: as in RFC 2782: the share of a backend among those of one priority. Between 0
        and 2**32; a weight of 0 asks for a very small share.
      target: the host name behind the address, such as the target of an SRV record. For
        connectors that verify a name by TLS; by default `None`.

    Raises:
      TypeError, ValueError: naming the argument that is wrong.
    """

    address: tuple[str, int] | str
    name: str
    priority: int = attrs.field(eq=False)
    weight: int = attrs.field(eq=False)
    target: str | None = attrs.field(eq=False)

    def __init__(
        self,
        address: tuple[str, int] | str | os.PathLike[str],
        *,
        name: str | None = None,
        priority: int = 0,
        weight: int = 1,
        target: str | None = None,
    ) -> None:
        checked = _checked_address(address)
        _check.count("priority", priority)
        _check.count("weight", weight)
        if weight > MAX_WEIGHT:
            raise ValueError(f"weight must be at most 2**32, not {weight!r}")
        default = checked if isinstance(checked, str) else format_host_port(*checked)
        name = _checked_name("name", name) or default
        self.__attrs_init__(checked, name, priority, weight, _checked_name("target", target))

    @property
    def host(self) -> str | None:
        """The host part of the address; `None` for a Unix socket."""
        return None if isinstance(self.address, str) else self.address[0]

    @property
    def port(self) -> int | None:
        """The port part of the address; `None` for a Unix socket."""
        return None if isinstance(self.address, str) else self.address[1]

    def __repr__(self) -> str:
        parts = [repr(self.address), f"name={self.name!r}"]
        if self.priority != 0:
            parts.append(f"priority={self.priority}")
        if self.weight != 1:
            parts.append(f"weight={self.weight}")
        if self.target is not None:
            parts.append(f"target={self.target!r}")
        return f"Backend({', '.join(parts)})"
