"""`PoolStats` and `BackendStats`: frozen snapshots of a pool."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, final

import attrs

from .backend import Backend


@final
@attrs.frozen(kw_only=True)
class BackendStats:
    """What the pool has at one backend, at one instant."""

    backend: Backend
    """The backend."""

    online: bool
    """Whether any connection to it is established."""

    connecting: int
    """Slots being dialled, or waiting to be dialled again after a failure."""

    unclaimed: int
    """Spares: connected slots that nobody has claimed."""

    checking: int
    """Slots whose connection is being checked or recycled."""

    claimed: int
    """Slots whose connection is lent out."""

    closing: int
    """Slots whose connection is being closed."""

    wanted: int
    """How many slots the pool would like to have here."""

    total_claims: int
    """Claims granted on this backend so far."""

    failures: int
    """Failures of connections to it within the last minute."""

    last_error: Exception | None
    """The latest failure of a connection to it."""


def _read_only(backends: Mapping[str, BackendStats]) -> Mapping[str, BackendStats]:
    return MappingProxyType(dict(backends))


@final
@attrs.frozen(kw_only=True)
class PoolStats:
    """A snapshot of a pool. It does not change; ask for another."""

    name: str
    """The name of the pool."""

    claims: int
    """Claims granted so far."""

    waiting: int
    """Claimants that are parked until a connection comes."""

    slots: int
    """All slots, those that are closing and those of departed backends included."""

    departed: int
    """Slots of backends that have left the resolver's set: claims that are still
    held there, and connections being closed."""

    backends: Mapping[str, BackendStats] = attrs.field(converter=_read_only)
    """By name, the backends that the resolver last named."""

    resolution: object = None
    """What the resolver tells of itself (`Resolver.snapshot`): of a `DnsResolver`, a
    `~qorb_trio.resolvers.DnsSnapshot`."""

    def __reduce__(self) -> tuple[object, ...]:
        # A read-only view of a dict cannot be pickled, and errors carry statistics.
        fields = attrs.asdict(self, recurse=False) | {"backends": dict(self.backends)}
        return _rebuild, (fields,)


def _rebuild(fields: dict[str, Any]) -> PoolStats:
    return PoolStats(**fields)
