"""A connection pool for Trio: name a service, get a working connection.

Begin with `open_pool`.
"""

import logging as _logging
import typing as _typing

from . import connectors as connectors, resolvers as resolvers
from ._balancing.least_loaded import LeastLoaded as LeastLoaded
from ._balancing.strategy import Balancer as Balancer, Candidate as Candidate
from ._claims.claim import Claim as Claim
from ._claims.holders import Holder as Holder
from ._model.backend import Backend as Backend
from ._model.errors import (
    AllClaimsUsedError as AllClaimsUsedError,
    ClaimError as ClaimError,
    ClaimTimeoutError as ClaimTimeoutError,
    IneligibleBackendError as IneligibleBackendError,
    MisusedConnectionError as MisusedConnectionError,
    NoBackendsError as NoBackendsError,
    NoBackendsOnlineError as NoBackendsOnlineError,
    PoolOverloadedError as PoolOverloadedError,
    PoolTerminatedError as PoolTerminatedError,
    QorbError as QorbError,
    ResolveError as ResolveError,
    StaleConnectionError as StaleConnectionError,
)
from ._model.policy import Ejection as Ejection, Policy as Policy, SetConfig as SetConfig
from ._model.stats import BackendStats as BackendStats, PoolStats as PoolStats
from ._on_demand import on_demand as _names_on_demand
from ._pool.open_pool import open_pool as open_pool
from ._pool.pool import Pool as Pool
from .abc import Connector as Connector, Instrument as Instrument, Resolver as Resolver

# What users see in errors and in the documentation is where they import a name from.
for _name, _value in list(globals().items()):
    if not _name.startswith("_") and getattr(_value, "__module__", "").startswith("qorb_trio._"):
        _value.__module__ = __name__
del _name, _value

if _typing.TYPE_CHECKING:
    from ._balancing.peak_ewma import PeakEwma as PeakEwma
    from ._balancing.round_robin import RoundRobin as RoundRobin
    from ._events.audit_instrument import AuditInstrument as AuditInstrument
    from ._events.event import PoolEvent as PoolEvent, is_abandonment as is_abandonment
    from ._events.event_instrument import EventInstrument as EventInstrument
    from ._events.logging_instrument import LoggingInstrument as LoggingInstrument
    from ._version import __version__ as __version__
    from .connectors import (
        ContextConnector as ContextConnector,
        TcpConnector as TcpConnector,
        ThreadConnection as ThreadConnection,
        ThreadConnector as ThreadConnector,
        TlsConnector as TlsConnector,
        UnixConnector as UnixConnector,
    )
    from .resolvers import (
        DnsResolver as DnsResolver,
        DnsResolverConfig as DnsResolverConfig,
        FixedResolver as FixedResolver,
        MappedResolver as MappedResolver,
        ProbedResolver as ProbedResolver,
        resolver_for as resolver_for,
        subset as subset,
    )
else:
    __getattr__, __dir__, __all__ = _names_on_demand(
        __name__,
        {
            "._balancing.peak_ewma": "PeakEwma",
            "._balancing.round_robin": "RoundRobin",
            "._events.audit_instrument": "AuditInstrument",
            "._events.event": "PoolEvent is_abandonment",
            "._events.event_instrument": "EventInstrument",
            "._events.logging_instrument": "LoggingInstrument",
            "._version": "__version__",
            ".connectors": """
                ContextConnector TcpConnector ThreadConnection ThreadConnector TlsConnector
                UnixConnector
            """,
            ".resolvers": """
                DnsResolver DnsResolverConfig FixedResolver MappedResolver ProbedResolver
                resolver_for subset
            """,
        },
    )

# A library is silent unless the program configures logging.
_logging.getLogger(__name__).addHandler(_logging.NullHandler())
