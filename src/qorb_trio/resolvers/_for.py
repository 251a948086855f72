"""`resolver_for`: the resolver for an address or name as a user writes it."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

import attrs

from .. import _validation as _check
from .._model.backend import Backend, is_socket_path
from ..abc import Resolver
from ._dns.config import DnsResolverConfig
from ._dns.resolver import DnsResolver
from ._dns.servers import NameserverLike
from ._fixed import FixedResolver

_BRACKETS = re.compile(r"\[([^\[\]]*)\](?::(.*))?")
_NUMERIC_LABEL = re.compile(r"\d+")


def resolver_for(
    text: str,
    default_port: int | None = None,
    *,
    nameservers: Iterable[NameserverLike] | None = None,
    config: DnsResolverConfig | None = None,
) -> Resolver:
    """Return the resolver for an address or a name, as a user would write it.

    ============================================  =====================================
    ``"10.0.0.1:5432"``, ``"[::1]:80"``           that address, a `FixedResolver`
    ``"10.0.0.1"``, ``"::1"``                     the same, on `default_port`
    ``"localhost:80"``                            this host, without DNS (RFC 6761)
    ``"/run/x.sock"``                             that Unix socket, a `FixedResolver`
    ``"_svc._tcp.name"``                          its SRV records, a `DnsResolver`
    ``"name:80"``, ``"name"``                     its SRV records or, if it has none, its
                                                  addresses on that port or `default_port`
    ============================================  =====================================

    This is what cueball's ``resolverForIpOrDomain`` does. Nothing is looked up yet.

    Args:
      text: the address or name.
      default_port: the port, if `text` has none.
      nameservers: see `DnsResolver`; not used for an address.
      config: see `DnsResolver`; not used for an address.

    Raises:
      TypeError, ValueError: if `text` is neither an address nor a name, if its port is not
        a port, and for an address without a port.
    """
    if not isinstance(text, str):
        raise TypeError(f"an address or a name must be a str, not {text!r}")
    if default_port is not None:
        _check.count("default_port", default_port, least=1)
        if default_port > 65535:
            raise ValueError(f"default_port must be at most 65535, not {default_port!r}")
    if "://" in text:
        raise ValueError(f"a URL, give host:port: {text!r}")
    if "/" in text:
        return FixedResolver([_unix_socket(text)])
    host, port_text = _split(text)
    if not host:
        raise ValueError(f"neither an address nor a name: {text!r}")
    port = default_port if port_text is None else _port(port_text, text)
    if _is_address(host, text) or host.rstrip(".").lower() == "localhost":
        if port is None:
            raise ValueError(f"an address needs a port, or default_port: {text!r}")
        return FixedResolver([(host.rstrip("."), port)])
    config = DnsResolverConfig() if config is None else config
    _check.instance("config", config, DnsResolverConfig)
    if port is not None:
        config = attrs.evolve(config, default_port=port)
    return DnsResolver(host, nameservers=nameservers, config=config)


def _unix_socket(text: str) -> Backend:
    if not is_socket_path(text):
        raise ValueError(f"neither an address, nor a name, nor the path of a socket: {text!r}")
    return Backend(text)


def _split(text: str) -> tuple[str, str | None]:
    """Return the host, without brackets, and the text after the colon."""
    if bracketed := _BRACKETS.fullmatch(text):
        if ":" not in bracketed[1] or not _is_ip(bracketed[1]):
            raise ValueError(f"no IPv6 address between the brackets: {text!r}")
        return bracketed[1], bracketed[2]
    if text.count(":") == 1:
        host, _, port = text.partition(":")
        return host, port
    return text, None


def _port(port: str, text: str) -> int:
    if port.isascii() and port.isdigit() and 1 <= int(port[:6]) <= 65535:
        return int(port)
    raise ValueError(f"the port must be a number from 1 to 65535: {text!r}")


def _is_address(host: str, text: str) -> bool:
    if _is_ip(host):
        return True
    # No top-level domain is a number (RFC 3696), so this was meant to be an address.
    if ":" in host or _NUMERIC_LABEL.fullmatch(host.rstrip(".").rpartition(".")[2]):
        raise ValueError(f"not an address: {text!r}")
    return False


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


resolver_for.__module__ = "qorb_trio"  # where users import it from
