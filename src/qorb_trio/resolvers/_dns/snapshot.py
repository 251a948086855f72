"""The values that `DnsResolver.snapshot` returns, for people and for monitoring."""

from __future__ import annotations

from typing import Literal, TypeAlias, final

import attrs

from ..._model.backend import Backend

#: See `NameSnapshot.state`.
NameState: TypeAlias = Literal["unknown", "good", "empty", "unconfirmed", "failing"]


@final
@attrs.frozen
class NameSnapshot:
    """The state of one name and record type. Times are those of `trio.current_time`."""

    name: str
    """The name: lower case, A-labels, no final dot."""

    rdtype: str
    """"SRV", "A" or "AAAA"."""

    state: NameState
    """"unknown": not answered yet. "good": the records are those of the last answer.
    "empty": there are none. "unconfirmed": the last answer was that there are none, and
    nothing has confirmed it yet. "failing": the last lookup failed; the records are older."""

    records: tuple[str, ...]
    """The records in use, as text: addresses, or "priority weight port target"."""

    ttl: float | None
    """The TTL of the last answer, in seconds; `None` if it had none, and before the first."""

    next_query: float | None
    """The time of the next query; `None` while the name is being asked for."""

    last_answer: float | None
    """The time of the last answer of a server: records, or that there are none."""

    stale: float
    """The seconds since the last answer, if lookups have failed since; otherwise 0."""

    server: str | None
    """The nameserver, or the file, that gave the last answer."""

    last_error: str | None
    """The reason why the last lookup failed; `None` once one has succeeded."""

    failures: int
    """The number of lookups in a row that have failed."""


@final
@attrs.frozen
class NameserverSnapshot:
    """One nameserver, as the resolver sees it."""

    address: str
    """``host:port`` or ``[v6]:port``."""

    dynamic: bool
    """True if ``resolver_service`` named it; otherwise it was given, or is the system's."""

    demoted_until: float | None
    """The time until which it is asked last, because it failed or was slow where another
    answered; `None` if it is not."""

    last_error: str | None
    """The reason of its last failure; `None` once it has answered."""


@final
@attrs.frozen
class DnsSnapshot:
    """Everything that a `DnsResolver` knows at one moment."""

    service: str
    """The name that is resolved."""

    time: float
    """The time of the snapshot, by `trio.current_time`."""

    backends: tuple[Backend, ...] | None
    """The set that was sent last; `None` before the first."""

    names: tuple[NameSnapshot, ...]
    """Every name and record type that is tracked, the service's own first."""

    nameservers: tuple[NameserverSnapshot, ...]
    """The nameservers, in the order in which they would be asked."""

    @property
    def trouble(self) -> str | None:
        """The reason why there is no backend, in one line; `None` if there is one.

        It is about the first name that is not in order. A `NoBackendsError` includes it.
        """
        if self.backends:
            return None
        for name in self.names:
            what = f"{name.name} {name.rdtype}"
            if name.last_error is not None:
                return f"{what}: {name.last_error}"
            if name.state == "unknown":
                return f"{what}: not answered yet"
            if name.state in {"empty", "unconfirmed"}:
                return f"{what}: no such records"
        return None


# Where users import them from.
NameSnapshot.__module__ = "qorb_trio.resolvers"
NameserverSnapshot.__module__ = "qorb_trio.resolvers"
DnsSnapshot.__module__ = "qorb_trio.resolvers"
