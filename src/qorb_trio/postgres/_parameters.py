"""libpq's connection parameters: checked at construction, completed for each backend.

Those that are not asynchronous are pure functions.
"""

from __future__ import annotations

import ipaddress
import math
import os
import re
import socket
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import psycopg
import trio
from psycopg.conninfo import conninfo_to_dict, make_conninfo

if TYPE_CHECKING:
    from psycopg.abc import ConnDict, ConnParam

    from .. import Backend

#: Maximum number of threads that look up host names, in one run of Trio.
_MAX_THREADS: Final = 16

#: Roles that a backend can be required to have, and libpq's meaning of them.
ROLES: Final = ("any", "read-write", "read-only", "primary", "standby")

_SOCKET_FILE = re.compile(r"(?P<folder>.*)/\.s\.PGSQL\.(?P<port>[0-9]+)")


def checked(conninfo: str, kwargs: Mapping[str, ConnParam]) -> tuple[dict[str, Any], str]:
    """Return the parameters of a connector, and the role that its backends must have."""
    if not isinstance(conninfo, str):
        raise TypeError(f"conninfo must be a str, not {conninfo!r}")
    try:
        params = conninfo_to_dict(conninfo, **kwargs)
        make_conninfo("", **params)
        connect_timeout(params)
    except psycopg.Error as exc:
        raise ValueError(f"conninfo: {str(exc).strip()}") from None
    for name in ("hostaddr", "port"):
        if params.get(name):
            raise ValueError(
                f"conninfo: {name} must be left out: the address of each backend says where to"
                " connect"
            )
    if "," in str(params.get("host", "")):
        raise ValueError("conninfo: host must be one name: the resolver finds the backends")
    role = str(params.pop("target_session_attrs", "any"))
    if role not in ROLES:
        raise ValueError(f"conninfo: target_session_attrs must be one of {ROLES}, not {role!r}")
    return params, role


def connect_timeout(params: Mapping[str, Any]) -> float:
    """Return ``connect_timeout`` by libpq's rules: at least 2 seconds, 0 means no limit."""
    value = params.get("connect_timeout")
    if value is None:
        return math.inf
    try:
        seconds = int(float(value))
    except (ValueError, OverflowError):
        raise psycopg.ProgrammingError(f"bad value for connect_timeout: {value!r}") from None
    return max(2, seconds) if seconds > 0 else math.inf


def for_backend(params: Mapping[str, Any], backend: Backend) -> ConnDict:
    """Return the parameters for a connection to one backend.

    ``host`` is the name that TLS verifies: the parameter of that name if it is given, else the
    backend's target, else the host of its address. An address that is a name has no
    ``hostaddr`` yet.
    """
    if isinstance(backend.address, str):
        found = _SOCKET_FILE.fullmatch(backend.address)
        if found is None:
            raise ValueError(
                f"{backend.name}: PostgreSQL's Unix sockets are called .s.PGSQL.<port>, and"
                f" the address is {backend.address!r}"
            )
        # An empty `hostaddr` keeps PGHOSTADDR from being used.
        return {**params, "host": found["folder"] or "/", "port": found["port"], "hostaddr": ""}
    host, port = backend.address
    name = str(params.get("host") or (backend.target or host).rstrip("."))
    return {**params, "host": name, "port": port, "hostaddr": host if _is_ip(host) else None}


async def look_up_backend(params: Mapping[str, Any], backend: Backend) -> ConnDict:
    """Return the parameters for one backend, its host looked up if it is a name."""
    complete = for_backend(params, backend)
    if complete["hostaddr"] is not None:
        return complete
    addresses = await look_up(str(backend.host))
    # libpq tries them in turn, with one port for all.
    hosts = ",".join([str(complete["host"])] * len(addresses))
    return {**complete, "host": hosts, "hostaddr": ",".join(addresses)}


async def look_up_hosts(params: ConnDict) -> ConnDict:
    """Return the parameters of a connection string, its host names looked up.

    libpq would look them up while the whole program waits.
    """
    hosts = str(params.get("host") or os.environ.get("PGHOST", "")).split(",")
    if params.get("hostaddr") or not any(_is_name(host) for host in hosts):
        return params
    ports = str(params.get("port") or os.environ.get("PGPORT", "")).split(",")
    if len(ports) == 1:
        ports *= len(hosts)
    if len(ports) != len(hosts):
        raise psycopg.OperationalError(f"{len(ports)} ports do not match {len(hosts)} hosts")
    found: list[tuple[str, str, str]] = []
    for host, port in zip(hosts, ports, strict=True):
        addresses = await look_up(host) if _is_name(host) else [host if _is_ip(host) else ""]
        found += [(host, address, port) for address in addresses]
    columns = zip(("host", "hostaddr", "port"), zip(*found, strict=True), strict=True)
    return {**params, **{name: ",".join(values) for name, values in columns}}


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_name(host: str) -> bool:
    """Return True for a host that must be looked up: no address, no folder of a socket."""
    return bool(host) and not host.startswith(("/", "@")) and not _is_ip(host)


_run_limiter: Final[trio.lowlevel.RunVar[trio.CapacityLimiter]] = trio.lowlevel.RunVar(
    "qorb_trio.postgres look-ups"
)


def _limiter() -> trio.CapacityLimiter:
    """Return this run's limiter of look-ups: a look-up that hangs cannot be cancelled."""
    try:
        return _run_limiter.get()
    except LookupError:
        limiter = trio.CapacityLimiter(_MAX_THREADS)
        _run_limiter.set(limiter)
        return limiter


async def look_up(host: str) -> list[str]:
    """Return the IP addresses of a host name, in the order in which to try them.

    Raises:
      psycopg.OperationalError: if the name cannot be resolved.
    """
    try:
        found = await trio.to_thread.run_sync(
            partial(socket.getaddrinfo, host, None, type=socket.SOCK_STREAM),
            abandon_on_cancel=True,
            limiter=_limiter(),
        )
    except (OSError, UnicodeError) as exc:
        raise psycopg.OperationalError(f"failed to resolve host {host!r}: {exc}") from None
    return [str(info[4][0]) for info in found]
