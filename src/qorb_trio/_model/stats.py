"""`PoolStats` and `BackendStats`: frozen snapshots of a pool."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, final

import attrs

from .._util import safe_repr, safe_str
from .backend import Backend


@final
@attrs.frozen(kw_only=True)
class BackendStats:
    """The state of one backend in a pool, at one instant.

    A copy of it is the object itself. Pickling replaces a `last_error` that cannot be pickled
    by an exception with the same text, which names its type.
    """

    backend: Backend
    """The backend."""

    online: bool
    """True if a connection to it is established."""

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
    """The number of slots that the pool would like to have here."""

    total_claims: int
    """Claims granted on this backend so far."""

    failed_claims: int = 0
    """Claims on this backend so far that ended badly: as `Claim.report` or
    `Connector.is_failure` said."""

    failures: int
    """Failures of connections to it within the last minute."""

    stale: int = 0
    """Idle connections so far that the backend had closed, as servers do. These are no
    failures."""

    retiring: int = 0
    """Connected slots that are due to be replaced, because of their age, their idleness, the
    number of their uses, or `Pool.recycle`."""

    ejected_until: float | None = None
    """The time, Trio's, after which the next claim tries an ejected backend; `None` if the
    backend is not ejected. A claim in that very instant may be served elsewhere, because a task
    offers the trial then. See `Ejection`."""

    last_error: Exception | None
    """The latest failure of a connection to it; `None` when the backend works again and the
    failure is more than a minute ago."""

    def __copy__(self) -> BackendStats:
        return self

    def __deepcopy__(self, memo: object) -> BackendStats:
        return self

    def __reduce__(self) -> tuple[object, ...]:
        fields = attrs.asdict(self, recurse=False)
        if not _is_picklable(self.last_error):
            fields["last_error"] = _stand_in(self.last_error)
        return _rebuild, (BackendStats, fields)


def _is_picklable(value: object) -> bool:
    """Return True if `value` survives a round trip: many exceptions fail on the way back."""
    import pickle  # noqa: PLC0415 - statistics are rarely pickled, and this takes a millisecond

    try:
        pickle.loads(pickle.dumps(value))  # noqa: S301 - made in this line
    except Exception:  # noqa: BLE001 - any code of the user's may run
        return False
    return True


class UnpicklableError(Exception):
    """Stands, in pickled statistics, for an exception that cannot be pickled.

    Its arguments are the name of that exception's type and its text.
    """

    def __str__(self) -> str:
        return ": ".join(str(argument) for argument in self.args if argument)


def _stand_in(exc: Exception | None) -> UnpicklableError:
    kind = type(exc)
    return UnpicklableError(f"{kind.__module__}.{kind.__qualname__}", safe_str(exc))


def _read_only(backends: Mapping[str, BackendStats]) -> Mapping[str, BackendStats]:
    return MappingProxyType(dict(backends))


@final
@attrs.frozen(kw_only=True)
class PoolStats:
    """A snapshot of a pool. It does not change; ask for another.

    A copy of it is the object itself. Pickling replaces a `resolution` that cannot be pickled
    by its repr.
    """

    name: str
    """The name of the pool."""

    claims: int
    """Claims granted so far."""

    waiting: int
    """Claimants that are parked until a connection comes."""

    shed: int = 0
    """Claims so far that `Policy.max_waiting` or `Policy.queue_target` refused."""

    slots: int
    """All slots, those that are closing and those of departed backends included."""

    departed: int
    """Slots of backends that have left the resolver's set, or are no longer active: claims that
    are still held there, and connections being closed."""

    backends: Mapping[str, BackendStats] = attrs.field(converter=_read_only)
    """By name, the backends that the pool uses or probes, in the resolver's order."""

    known: int = attrs.field()
    """The number of backends that the resolver last named. With thousands of them, a pool uses
    a few."""

    resolution: object = None
    """The state of the resolver (`Resolver.snapshot`): of a `DnsResolver`, a
    `~qorb_trio.resolvers.DnsSnapshot`."""

    @known.default
    def _count_backends(self) -> int:
        return len(self.backends)

    def __copy__(self) -> PoolStats:
        return self

    def __deepcopy__(self, memo: object) -> PoolStats:
        return self

    def __reduce__(self) -> tuple[object, ...]:
        # A read-only view of a dict cannot be pickled, and errors carry statistics.
        fields = attrs.asdict(self, recurse=False) | {"backends": dict(self.backends)}
        if not _is_picklable(self.resolution):
            fields["resolution"] = safe_repr(self.resolution)
        return _rebuild, (PoolStats, fields)


def _rebuild(kind: Callable[..., object], fields: dict[str, Any]) -> object:
    return kind(**fields)
