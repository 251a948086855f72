"""`FixedResolver`: a resolver of backends that never change."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TypeAlias, final

import trio

from .._model.backend import Address, Backend, is_socket_path, parse_host_port
from ..abc import Resolver

#: A backend as a user may give it.
BackendLike: TypeAlias = "Backend | tuple[str, int] | str"


class BareStringError(TypeError, ValueError):
    """A string where a collection of strings is expected.

    To a type checker a string *is* a collection of strings, so its value is wrong; to a
    person it is of the wrong type. So this is both a `ValueError` and a `TypeError`.
    """


def reject_bare_string(field: str, given: object) -> None:
    """Raise `BareStringError` for a string, which would be taken apart into characters."""
    if isinstance(given, str | bytes):
        raise BareStringError(f"{field} must be a collection, not {given!r}: write [{given!r}]")


def iterable(field: str, given: object) -> Iterable[object]:
    """Return `given` if it can be iterated over.

    Raises:
      TypeError: naming the field.
    """
    if not isinstance(given, Iterable):
        raise TypeError(f"{field} must be a collection, not {given!r}")
    return given


def _as_backend(given: object) -> Backend:
    if isinstance(given, Backend):
        return given
    if isinstance(given, str):
        return Backend(_parse(given))
    if isinstance(given, tuple):
        return Backend(given)
    raise TypeError(
        "addresses must be Backends, (host, port) pairs, 'host:port' strings or paths of Unix"
        f" sockets, not {given!r}"
    )


def _parse(text: str) -> Address:
    if "://" in text:
        raise ValueError(f"addresses: a URL, give host:port: {text!r}")
    if is_socket_path(text):
        return text
    try:
        host, port = parse_host_port(text)
    except ValueError as exc:
        raise ValueError(f"addresses: {exc}") from None
    if text.startswith("[") and ":" not in host:
        raise ValueError(f"addresses: brackets are for IPv6 addresses: {text!r}")
    return host, port


def _unique(backends: Iterable[Backend]) -> tuple[Backend, ...]:
    by_name: dict[str, Backend] = {}
    for backend in backends:
        known = by_name.setdefault(backend.name, backend)
        if known != backend:
            raise ValueError(
                f"addresses: two addresses under the name {backend.name!r}:"
                f" {known.address!r} and {backend.address!r}"
            )
    return tuple(by_name.values())


@final
class FixedResolver(Resolver):
    """A resolver whose backends never change. It sends them once and returns.

    Args:
      addresses: `Backend` objects, ``(host, port)`` pairs, ``"host:port"`` strings
        (``"[v6]:port"`` for IPv6), or paths of Unix sockets (``"/run/x.sock"``). Equal ones
        count once. May be empty: a pool with no backends.

    Raises:
      TypeError, ValueError: for anything that is not an address, for a bare string, and for
        two addresses under one name.
    """

    def __init__(self, addresses: Iterable[BackendLike]) -> None:
        reject_bare_string("addresses", addresses)
        if isinstance(addresses, tuple) and [type(it) for it in addresses] == [str, int]:
            raise ValueError(f"addresses must be a collection: write [{addresses!r}]")
        self._backends = _unique(map(_as_backend, iterable("addresses", addresses)))

    @property
    def backends(self) -> tuple[Backend, ...]:
        """The backends, in the order given."""
        return self._backends

    async def run(self, updates: trio.MemorySendChannel[Collection[Backend]]) -> None:
        """Send the backends once and return. A checkpoint; may be called again."""
        await updates.send(self._backends)

    def __repr__(self) -> str:
        return f"FixedResolver({list(self._backends)!r})"


FixedResolver.__module__ = "qorb_trio"  # where users import it from
