"""A connection pool for Trio: name a service, get a working connection."""

from ._backend import Backend as Backend
from ._errors import (
    AllClaimsUsedError as AllClaimsUsedError,
    ClaimError as ClaimError,
    ClaimTimeoutError as ClaimTimeoutError,
    NoBackendsError as NoBackendsError,
    NoBackendsOnlineError as NoBackendsOnlineError,
    PoolTerminatedError as PoolTerminatedError,
    QorbError as QorbError,
    ResolveError as ResolveError,
)
from ._policy import Policy as Policy, SetConfig as SetConfig
from ._stats import BackendStats as BackendStats, PoolStats as PoolStats
from .abc import Connector as Connector, Instrument as Instrument, Resolver as Resolver
