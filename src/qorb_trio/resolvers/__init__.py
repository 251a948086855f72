"""Resolvers find the backends of a service.

`FixedResolver` has a list, `DnsResolver` asks DNS, and `resolver_for` chooses between them.
`MappedResolver` and `ProbedResolver` change what another resolver finds. dnspython is imported
when a `DnsResolver` is made, and not before.
"""

from __future__ import annotations

from ._dns.config import DnsResolverConfig
from ._dns.resolver import DnsResolver
from ._dns.snapshot import DnsSnapshot, NameserverSnapshot, NameSnapshot
from ._fixed import FixedResolver
from ._for import resolver_for
from ._mapped import MappedResolver, subset
from ._probed import ProbedBackend, ProbedResolver, ProbedSnapshot

__all__ = [
    "DnsResolver",
    "DnsResolverConfig",
    "DnsSnapshot",
    "FixedResolver",
    "MappedResolver",
    "NameSnapshot",
    "NameserverSnapshot",
    "ProbedBackend",
    "ProbedResolver",
    "ProbedSnapshot",
    "resolver_for",
    "subset",
]

DnsResolver.__module__ = "qorb_trio"
DnsResolverConfig.__module__ = "qorb_trio"
FixedResolver.__module__ = "qorb_trio"
MappedResolver.__module__ = "qorb_trio"
ProbedResolver.__module__ = "qorb_trio"
resolver_for.__module__ = "qorb_trio"
subset.__module__ = "qorb_trio"
DnsSnapshot.__module__ = __name__
NameSnapshot.__module__ = __name__
NameserverSnapshot.__module__ = __name__
ProbedBackend.__module__ = __name__
ProbedSnapshot.__module__ = __name__
