"""The nameservers: which there are, and in which order to ask them. No I/O."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from typing import TypeAlias, final

import attrs

from ... import _validation as _check
from ..._model.backend import Backend, format_host_port, parse_host_port
from .._fixed import iterable, reject_bare_string
from .records import Question
from .snapshot import NameserverSnapshot

#: What a nameserver may be given as: ``(host, port)``, "host:port", "[v6]:port" or host.
NameserverLike: TypeAlias = "tuple[str, int] | str"

DNS_PORT = 53

# A server that fails where another answers is asked last for so long; twice as long each
# time it happens again. Long enough that trying it anew costs nothing to speak of.
_DEMOTION = 30.0
_LONGEST_DEMOTION = 600.0

_MAX_NDOTS = 15  # as in the C library

# The name of a host: no empty label, none that is too long, and not a number at the end,
# where an address that is none was meant (RFC 3696).
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


@final
@attrs.frozen
class SystemConfig:
    """What ``/etc/resolv.conf`` says."""

    servers: tuple[Server, ...]
    search: tuple[str, ...] = ()
    ndots: int = 1


def checked_nameservers(given: Iterable[NameserverLike]) -> tuple[Server, ...]:
    """The nameservers that a user gave, each one once.

    Raises:
      TypeError, ValueError: naming what is wrong.
    """
    reject_bare_string("nameservers", given)
    servers = tuple(dict.fromkeys(map(_checked_nameserver, iterable("nameservers", given))))
    if not servers:
        raise ValueError("nameservers must not be empty: None means those of the system")
    return servers


def _checked_nameserver(given: object) -> Server:
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
    address = _ip(host)
    if port > 65535 or not (address or _HOST.fullmatch(host)):
        raise ValueError(f"nameservers: not the address of a nameserver: {given!r}")
    return Server(address or host, port)


def _parse_nameserver(text: str) -> tuple[str, int]:
    if _ip(text):
        return text, DNS_PORT
    if ":" not in text and "[" not in text:
        return text, DNS_PORT
    try:
        host, port = parse_host_port(f"{text}:{DNS_PORT}" if text.endswith("]") else text)
    except ValueError as exc:
        raise ValueError(f"nameservers: {exc}") from None
    if text.startswith("[") and not _ip(host):
        raise ValueError(f"nameservers: no address between the brackets: {text!r}")
    return host, port


def _ip(text: str) -> str | None:
    """An address in the one form in which it is compared; `None` for what is none."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None


def parse_resolv_conf(text: str) -> SystemConfig:
    """What a resolv.conf(5) says; lines that make no sense are passed over.

    ``[v6]:port`` and ``host:port`` are understood too. Without any nameserver it is the
    one on this host, as the C library has it.
    """
    servers: list[Server] = []
    search: tuple[str, ...] = ()
    ndots = 1
    for line in text.splitlines():
        keyword, *values = line.split("#")[0].split(";")[0].split() or [""]
        if keyword == "nameserver" and values:
            servers += _system_nameserver(values[0])
        elif keyword in {"search", "domain"} and values:
            search = tuple(suffix.strip(".") for suffix in values if suffix.strip("."))
        elif keyword == "options":
            ndots = _ndots(values, ndots)
    unique = tuple(dict.fromkeys(servers)) or (Server("127.0.0.1"),)
    return SystemConfig(unique, search, ndots)


def _system_nameserver(text: str) -> list[Server]:
    try:
        server = _checked_nameserver(text)
    except (TypeError, ValueError):
        return []
    return [server] if _ip(server.host) else []


def _ndots(options: Sequence[str], default: int) -> int:
    for option in options:
        name, _, value = option.partition(":")
        if name == "ndots" and value.isascii() and value.isdigit():
            return min(int(value), _MAX_NDOTS)
    return default


def search_names(name: str, *, absolute: bool, system: SystemConfig) -> tuple[str, ...]:
    """The names to try for `name`, in order, as the C library does with its search list."""
    if absolute:
        return (name,)
    suffixed = tuple(f"{name}.{suffix.lower()}" for suffix in system.search)
    if name.count(".") >= system.ndots:
        return (name, *suffixed)
    return (*suffixed, name)


@attrs.define
class _Health:
    demoted_until: float | None = None
    demotion: float = 0
    last_error: str | None = None


@final
class ServerBook:
    """The nameservers, how they have done, and hence the order in which to ask them.

    A dynamic server comes before a bootstrap one, the one that last had records for a
    question before others, then the one preferred overall; one that has been demoted
    comes after all that have not.
    """

    def __init__(self, bootstrap: Sequence[Server]) -> None:
        self._bootstrap = tuple(bootstrap)
        self._dynamic: tuple[Server, ...] = ()
        self._health: dict[Server, _Health] = {server: _Health() for server in bootstrap}
        self._preferred: Server | None = None
        self._favourites: dict[Question, Server] = {}

    @property
    def servers(self) -> tuple[Server, ...]:
        """All nameservers, dynamic ones first."""
        return tuple(dict.fromkeys((*self._dynamic, *self._bootstrap)))

    def set_dynamic(self, backends: Iterable[Backend]) -> None:
        """Replace the dynamic nameservers; those that have left are asked no more."""
        ranked = sorted(backends, key=lambda one: (one.priority, -one.weight, one.name))
        self._dynamic = tuple(
            dict.fromkeys(
                Server(*one.address) for one in ranked if not isinstance(one.address, str)
            )
        )
        servers = self.servers
        self._health = {server: self._health.get(server) or _Health() for server in servers}

    def order(self, question: Question, now: float) -> list[Server]:
        """The nameservers in the order in which `question` should be asked of them."""
        favourite = self._favourites.get(question)
        servers = self.servers

        def rank(server: Server) -> tuple[bool, bool, bool, bool]:
            return (
                self.is_demoted(server, now),
                server not in self._dynamic,
                server != favourite,
                server != self._preferred,
            )

        return sorted(servers, key=rank) if len(servers) > 1 else list(servers)

    def is_demoted(self, server: Server, now: float) -> bool:
        """Whether a server is asked last, and waited for by none."""
        health = self._health.get(server)
        return (
            health is not None and health.demoted_until is not None and now < health.demoted_until
        )

    def answered(self, server: Server) -> None:
        """A server has given an answer, of whatever kind."""
        if server in self._health:  # it may have left meanwhile
            self._health[server] = _Health()

    def failed(self, server: Server, error: str) -> None:
        """A server has failed to answer; that alone does not demote it."""
        if (health := self._health.get(server)) is not None:
            health.last_error = error

    def demote(self, server: Server, now: float) -> None:
        """A server was slow or failed where another answered: ask it last for a while."""
        health = self._health.get(server)
        if health is None or self.is_demoted(server, now):
            return
        health.demotion = min(health.demotion * 2 or _DEMOTION, _LONGEST_DEMOTION)
        health.demoted_until = now + health.demotion

    def prefer(self, question: Question, server: Server, now: float) -> None:
        """A server had records for `question`: stay with it."""
        self._favourites[question] = server
        preferred = self._preferred
        if preferred not in self._health or self.is_demoted(preferred, now):
            self._preferred = server

    def forget(self, question: Question) -> None:
        """`question` will not be asked any more."""
        self._favourites.pop(question, None)

    def snapshot(self, now: float) -> tuple[NameserverSnapshot, ...]:
        """All nameservers for a person to look at, the next to be asked first."""
        servers = self.order(Question("", ""), now)
        return tuple(self._describe(server, now) for server in servers)

    def _describe(self, server: Server, now: float) -> NameserverSnapshot:
        health = self._health[server]
        return NameserverSnapshot(
            address=str(server),
            dynamic=server in self._dynamic,
            demoted_until=health.demoted_until if self.is_demoted(server, now) else None,
            last_error=health.last_error,
        )
