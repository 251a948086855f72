"""Resolvers find the backends of a service.

`FixedResolver` has a list, `DnsResolver` asks DNS, and `resolver_for` chooses between them.
`MappedResolver` and `ProbedResolver` change what another resolver finds. Each is imported when
it is first used, and dnspython when a `DnsResolver` is made.
"""

import typing as _typing

from .._on_demand import on_demand as _names_on_demand

if _typing.TYPE_CHECKING:
    from ._dns.config import DnsResolverConfig as DnsResolverConfig
    from ._dns.resolver import DnsResolver as DnsResolver
    from ._dns.snapshot import (
        DnsSnapshot as DnsSnapshot,
        NameserverSnapshot as NameserverSnapshot,
        NameSnapshot as NameSnapshot,
    )
    from ._fixed import FixedResolver as FixedResolver
    from ._for import resolver_for as resolver_for
    from ._mapped import MappedResolver as MappedResolver, subset as subset
    from ._probed import (
        ProbedBackend as ProbedBackend,
        ProbedResolver as ProbedResolver,
        ProbedSnapshot as ProbedSnapshot,
    )
else:
    __getattr__, __dir__, __all__ = _names_on_demand(
        __name__,
        {
            "._dns.config": "DnsResolverConfig",
            "._dns.resolver": "DnsResolver",
            "._dns.snapshot": "DnsSnapshot NameserverSnapshot NameSnapshot",
            "._fixed": "FixedResolver",
            "._for": "resolver_for",
            "._mapped": "MappedResolver subset",
            "._probed": "ProbedBackend ProbedResolver ProbedSnapshot",
        },
    )
