"""Resolvers: where the backends of a service come from.

`FixedResolver` is told, `DnsResolver` asks, `resolver_for` picks one of the two for
what a user wrote. dnspython is imported when a `DnsResolver` is made, not before.
"""

from __future__ import annotations

from ._dns.config import DnsResolverConfig
from ._dns.resolver import DnsResolver
from ._dns.snapshot import DnsSnapshot, NameserverSnapshot, NameSnapshot
from ._fixed import FixedResolver
from ._for import resolver_for

__all__ = [
    "DnsResolver",
    "DnsResolverConfig",
    "DnsSnapshot",
    "FixedResolver",
    "NameSnapshot",
    "NameserverSnapshot",
    "resolver_for",
]

DnsResolver.__module__ = "qorb_trio"
DnsResolverConfig.__module__ = "qorb_trio"
FixedResolver.__module__ = "qorb_trio"
resolver_for.__module__ = "qorb_trio"
DnsSnapshot.__module__ = __name__
NameSnapshot.__module__ = __name__
NameserverSnapshot.__module__ = __name__
