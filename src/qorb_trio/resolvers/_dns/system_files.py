"""The system's files about names: ``/etc/resolv.conf`` and ``/etc/hosts``.

Both are read where they are needed, without a thread: they are small local files, and the
threads of the program may all be busy. They are read again when they have changed.
"""

from __future__ import annotations

import ipaddress
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, Generic, TypeVar, final

import attrs

from .names import is_usable_address, possible_names
from .records import Answer, Kind, Question
from .servers import Server, checked_nameserver, normal_ip

T = TypeVar("T")

RESOLV_CONF: Final = "/etc/resolv.conf"
HOSTS: Final = "/etc/hosts"

#: The time between two looks at a file, in seconds. (c-ares and systemd-resolved look too.)
CHECK_INTERVAL: Final = 5.0

#: The TTL of what ``/etc/hosts`` says, in seconds.
HOSTS_TTL: Final = 30

# Longer files are read up to here. A list of this size is no list of a user's hosts.
_MAX_SIZE = 1 << 20

_BRACKETED_V4 = re.compile(r"\[([0-9.]+)\]")  # superfluous, and not worth an outage

_MAX_NDOTS = 15  # as in the C library


@final
class WatchedFile(Generic[T]):
    """A file that is read again when it has changed, but looked at only now and then.

    Args:
      path: the file. One that cannot be read counts as empty, as in the C library.
      parse: makes the value of the content.
    """

    def __init__(self, path: str, parse: Callable[[str], T]) -> None:
        self._path = path
        self._parse = parse
        self._checked_at: float | None = None
        self._signature: tuple[int, ...] | None = None
        self._value = parse("")

    def value(self, now: float) -> T:
        """Return the value: the same object as before unless the file has changed."""
        if self._checked_at is None or now >= self._checked_at + CHECK_INTERVAL:
            self._checked_at = now
            signature = self._look()
            if signature != self._signature:
                self._signature = signature
                self._value = self._parse(self._read() if signature else "")
        return self._value

    def _look(self) -> tuple[int, ...] | None:
        try:
            found = Path(self._path).stat()
        except OSError:
            return None
        if not stat.S_ISREG(found.st_mode):  # opening a pipe could block
            return None
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns

    def _read(self) -> str:
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb") as file:
                return file.read(_MAX_SIZE).decode("utf-8", "replace")
        except OSError:
            return ""


# ------------------------------------------------------------------------- resolv.conf(5)


@final
@attrs.frozen
class SystemConfig:
    """The content of ``/etc/resolv.conf``."""

    servers: tuple[Server, ...]
    search: tuple[str, ...] = ()
    ndots: int = 1


def parse_resolv_conf(text: str) -> SystemConfig:
    """Read a resolv.conf(5); lines that make no sense are passed over.

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
        server = checked_nameserver(_BRACKETED_V4.sub(r"\1", text))
    except (TypeError, ValueError):
        return []
    return [server] if normal_ip(server.host) else []


def _ndots(options: Sequence[str], default: int) -> int:
    for option in options:
        name, _, value = option.partition(":")
        if name == "ndots" and value.isascii() and value.isdigit():
            return min(int(value), _MAX_NDOTS)
    return default


def search_names(name: str, *, absolute: bool, system: SystemConfig) -> tuple[str, ...]:
    """Return the names to try for `name`, in order, as the C library does with its search list."""
    if absolute:
        return (name,)
    suffixed = tuple(f"{name}.{suffix.lower()}" for suffix in system.search)
    if name.count(".") >= system.ndots:
        return (name, *suffixed)
    return (*suffixed, name)


# ------------------------------------------------------------------------------- hosts(5)


@final
class Hosts:
    """The content of ``/etc/hosts``.

    The text is searched for each name, because most of a long file is never asked for.
    """

    def __init__(self, text: str) -> None:
        self._text = text.lower()

    def __contains__(self, name: str) -> bool:
        return next(self._addresses(name), None) is not None

    def answer(self, question: Question) -> Answer | None:
        """Return the addresses of a name; `None` for a name that is not in the file."""
        found = list(dict.fromkeys(self._addresses(question.name)))
        if not found:
            return None
        version = 4 if question.rdtype == "A" else 6
        matching = [a for a in found if ipaddress.ip_address(a).version == version]
        usable = tuple(sorted(filter(is_usable_address, matching)))
        ignored = tuple(sorted(set(matching).difference(usable)))
        kind = Kind.RECORDS if usable else Kind.NODATA
        return Answer(question, kind, usable, HOSTS_TTL, authoritative=True, ignored=ignored)

    def _addresses(self, name: str) -> Iterator[str]:
        at = self._text.find(name)
        while at >= 0:
            start = self._text.rfind("\n", 0, at) + 1
            end = self._text.find("\n", at)
            line = self._text[start : end if end >= 0 else None]
            address, *names = line.partition("#")[0].split() or [""]
            if name in (one.rstrip(".") for one in names) and (ip := normal_ip(address)):
                yield ip
            at = self._text.find(name, end) if end >= 0 else -1


# ------------------------------------------------------------------------- what a run uses


@final
class SystemNames:
    """The names and nameservers that one run of a resolver takes from the system.

    Args:
      name: the service's own name.
      absolute: True if the search list does not apply to it.
      given: the nameservers that the user gave; `None` for those of the system.
    """

    def __init__(self, name: str, *, absolute: bool, given: Sequence[Server] | None) -> None:
        self._name = name
        self._absolute = absolute
        self._given = given
        self._resolv_conf = WatchedFile(RESOLV_CONF, parse_resolv_conf)
        self._hosts = WatchedFile(HOSTS, Hosts)
        self._used: SystemConfig | None = None

    def nameservers(self, now: float) -> tuple[Server, ...]:
        """Return the bootstrap nameservers."""
        return tuple(self._given or self._resolv_conf.value(now).servers)

    def names(self, now: float) -> tuple[str, ...]:
        """Return the names to try for the service's own name, in order."""
        system = SystemConfig(()) if self._absolute else self._resolv_conf.value(now)
        names = search_names(self._name, absolute=self._absolute, system=system)
        return tuple(possible_names(names))

    def has_changed(self, now: float) -> bool:
        """Return True if ``/etc/resolv.conf`` has changed since the last call, and matters."""
        if self._given is not None and self._absolute:
            return False
        before, self._used = self._used, self._resolv_conf.value(now)
        return before is not None and before is not self._used

    def answer(self, question: Question, *, default_port: int | None, now: float) -> Answer | None:
        """Return what ``/etc/hosts`` says; `None` where DNS has to be asked.

        With a `default_port`, a name in the file is a host, and has no SRV records.
        """
        hosts = self._hosts.value(now)
        if question.rdtype != "SRV":
            return hosts.answer(question)
        if default_port is not None and question.name in hosts:
            return Answer(question, Kind.NODATA, ttl=HOSTS_TTL, has_soa=True)
        return None
