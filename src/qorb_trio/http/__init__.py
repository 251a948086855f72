"""HTTP/1.1 connections for a pool, and a transport for httpx that uses them.

    pip install 'qorb-trio[http]'

`HttpConnector` composes a connector for streams with the protocol. `PoolTransport` gives
``httpx.AsyncClient``, or ``httpx2.AsyncClient``, the pool's service discovery, weights, health
checks and balancing.
"""

from __future__ import annotations

try:
    import h11 as _h11  # noqa: F401 - asked for here, so that the hint is given here
except ImportError as _error:
    raise ImportError("qorb_trio.http needs h11: pip install 'qorb-trio[http]'") from _error

from ._connection import HttpConnection, HttpResponse
from ._connector import HttpConnector
from ._transport import PoolTransport

__all__ = ["HttpConnection", "HttpConnector", "HttpResponse", "PoolTransport"]

for _public in (HttpConnection, HttpConnector, HttpResponse, PoolTransport):
    _public.__module__ = __name__  # where users import them from
