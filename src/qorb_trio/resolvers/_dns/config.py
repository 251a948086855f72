"""`DnsResolverConfig`: the intervals and limits of the DNS resolver."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, final

import attrs

from ... import _validation as _check
from .._fixed import iterable, reject_bare_string


def _seconds(
    *, zero: bool = False, endless: bool = True
) -> Callable[[Any, attrs.Attribute[float], float], None]:
    def validate(_: object, field: attrs.Attribute[float], value: float) -> None:
        _check.seconds(field.name, value, zero=zero, endless=endless)

    return validate


def _count(least: int, most: int | None = None) -> Callable[[Any, attrs.Attribute[int], int], None]:
    def validate(_: object, field: attrs.Attribute[int], value: int) -> None:
        _check.count(field.name, value, least=least)
        if most is not None and value > most:
            raise ValueError(f"{field.name} must be at most {most}, not {value!r}")

    return validate


def _boolean(_: object, field: attrs.Attribute[bool], value: object) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{field.name} must be a bool, not {value!r}")


def _service_or_none(_: object, field: attrs.Attribute[str | None], value: object) -> None:
    if value is None:
        return
    # dnspython takes 0.1 s to import, which only its users should pay.
    from .names import checked_name  # noqa: PLC0415

    checked_name(field.name, value)


def _on_empty(_: object, field: attrs.Attribute[str], value: object) -> None:
    if value not in ("drop", "keep"):
        raise ValueError(f"{field.name} must be 'drop' or 'keep', not {value!r}")


def _as_families(value: Iterable[str]) -> tuple[str, ...]:
    reject_bare_string("families", value)
    return tuple(str(family) for family in iterable("families", value))


def _families(_: object, field: attrs.Attribute[tuple[str, ...]], value: tuple[str, ...]) -> None:
    if not value or set(value) - {"A", "AAAA"} or len(set(value)) != len(value):
        raise ValueError(f"{field.name} must be 'A', 'AAAA' or both, not {value!r}")


@final
@attrs.frozen
class DnsResolverConfig:
    """The intervals and limits of a `DnsResolver`, and the names that it asks for.

    All durations are in seconds. The defaults of the first six are qorb's. Derive a
    variant with `attrs.evolve`.

    Raises:
      TypeError, ValueError: naming the field that is wrong.
    """

    resolver_service: str | None = attrs.field(default=None, validator=_service_or_none)
    """An SRV name that lists further nameservers, each on the port that its SRV record
    gives. They are asked before the bootstrap ones. `None`: there are no others."""

    max_dns_concurrency: int = attrs.field(default=5, validator=_count(1))
    """The maximum number of lookups at once. A lookup that is hedged asks two servers."""

    query_interval: float = attrs.field(default=60.0, validator=_seconds())
    """The maximum time between two queries of the service's own name, whatever its TTL."""

    query_retry_if_no_records_found: float = attrs.field(
        default=10.0, validator=_seconds(endless=False)
    )
    """The maximum delay before a failed lookup is tried again, and the delay after "no
    such records" if the answer gives no TTL."""

    query_timeout: float = attrs.field(default=10.0, validator=_seconds())
    """The time limit of one exchange with one server, TCP included. Waiting for a free
    socket, or for `max_dns_concurrency`, does not count."""

    hardcoded_ttl: float | None = attrs.field(
        default=None, validator=attrs.validators.optional(_seconds(zero=True))
    )
    """Used instead of the TTL of every record; `max_refresh` does not lower it. `None`: the
    TTLs are those of the records."""

    default_port: int | None = attrs.field(
        default=None, validator=attrs.validators.optional(_count(1, 65535))
    )
    """A name without SRV records is looked up as a host, and its addresses are backends
    on this port. `None`: only SRV records make backends."""

    families: tuple[str, ...] = attrs.field(
        default=("A", "AAAA"), converter=_as_families, validator=_families
    )
    """The families of addresses to look up: "A" for IPv4, "AAAA" for IPv6."""

    max_stale: float = attrs.field(default=86400.0, validator=_seconds(zero=True))
    """The time for which backends are kept after the last good answer, while DNS fails."""

    on_empty: Literal["drop", "keep"] = attrs.field(default="drop", validator=_on_empty)
    """The effect of a confirmed answer "no backends": "drop" removes the known backends, "keep"
    keeps them up to `max_stale`."""

    min_refresh: float = attrs.field(default=1.0, validator=_seconds(endless=False))
    """The minimum time between two queries of one name, whatever its TTL; also the delay
    before a removal is confirmed and before the first retry."""

    max_refresh: float = attrs.field(default=300.0, validator=_seconds())
    """The maximum time between two queries of one name, whatever its TTL."""

    hedge_delay: float = attrs.field(default=0.15, validator=_seconds(zero=True))
    """The time after which the next nameserver is asked too, if one has not answered."""

    edns_payload: int = attrs.field(default=1232, validator=_count(512, 65535))
    """The largest UDP answer to ask for, in bytes (RFC 6891). 1232 fits any network
    unfragmented, as agreed on DNS Flag Day 2020."""

    search: bool = attrs.field(default=False, validator=_boolean)
    """True if a service without a final dot is tried with the search list of
    ``/etc/resolv.conf``, as programs that use the C library do. With the system's nameservers,
    a name without any dot always is."""

    def __attrs_post_init__(self) -> None:
        if self.min_refresh > self.max_refresh:
            raise ValueError(
                f"min_refresh ({self.min_refresh!r}) must not be greater"
                f" than max_refresh ({self.max_refresh!r})"
            )


DnsResolverConfig.__module__ = "qorb_trio"  # where users import it from
