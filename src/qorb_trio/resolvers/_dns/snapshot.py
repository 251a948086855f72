"""What `DnsResolver.snapshot` returns: values for people and for monitoring."""

from __future__ import annotations

from typing import Literal, TypeAlias, final

import attrs

from ..._model.backend import Backend

#: See `NameSnapshot.state`.
NameState: TypeAlias = Literal["unknown", "good", "empty", "unconfirmed", "failing"]


@final
@attrs.frozen
class NameSnapshot:
    """What is known of one name and record type. Times are `trio.current_time`'s."""

    name: str
    """The name: lower case, A-labels, no final dot."""

    rdtype: str
    """"SRV", "A" or "AAAA"."""

    state: NameState
    """"unknown": not answered yet. "good": the records are those of the last answer.
    "empty": there are none. "unconfirmed": the last answer was that there are none, which
    is yet to be confirmed. "failing": the last lookup failed; the records are older."""

    records: tuple[str, ...]
    """The records in use, as text: addresses, or "priority weight port target"."""

    ttl: float | None
    """The seconds for which the last answer asked to be kept; `None` where it did not
    tell, and before the first."""

    next_query: float | None
    """When the name is asked for again; `None` while it is being asked for."""

    last_answer: float | None
    """When a server last gave an answer, be it records or that there are none."""

    stale: float
    """For how many seconds lookups have failed since the last answer; 0 if they do not."""

    server: str | None
    """The nameserver that gave the last answer."""

    last_error: str | None
    """Why the last lookup failed; `None` once one has succeeded."""

    failures: int
    """How many lookups in a row have failed."""


@final
@attrs.frozen
class NameserverSnapshot:
    """One nameserver, as the resolver sees it."""

    address: str
    """``host:port`` or ``[v6]:port``."""

    dynamic: bool
    """Whether ``resolver_service`` named it; else it was given, or is the system's."""

    demoted_until: float | None
    """It failed or was slow where another answered: until then it is asked last."""

    last_error: str | None
    """How it failed last; `None` once it has answered."""


@final
@attrs.frozen
class DnsSnapshot:
    """Everything that a `DnsResolver` knows at one moment."""

    service: str
    """The name that is resolved."""

    time: float
    """When the snapshot was taken, by `trio.current_time`."""

    backends: tuple[Backend, ...] | None
    """The set that was sent last; `None` before the first."""

    names: tuple[NameSnapshot, ...]
    """Every name and record type that is tracked, the service's own first."""

    nameservers: tuple[NameserverSnapshot, ...]
    """The nameservers, in the order in which they would be asked."""

    @property
    def trouble(self) -> str | None:
        """Why there is no backend, in one line; `None` where there is one.

        It is about the first name that is not in order. A `NoBackendsError` says it.
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
