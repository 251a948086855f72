"""Connectors for plain streams, and for clients that bring their own connections.

A protocol's own connector can be built on each. They set up what a pool needs of any
connection: it is open, it is quick, and the pool learns at once when the peer has closed it or
sent something that nobody asked for. Each is imported when it is first used.
"""

import typing as _typing

from .._on_demand import on_demand as _names_on_demand

if _typing.TYPE_CHECKING:
    from ._context import ContextConnector as ContextConnector
    from ._tcp import TcpConnector as TcpConnector
    from ._thread import ThreadConnection as ThreadConnection, ThreadConnector as ThreadConnector
    from ._tls import TlsConnector as TlsConnector
    from ._unix import UnixConnector as UnixConnector
else:
    __getattr__, __dir__, __all__ = _names_on_demand(
        __name__,
        {
            "._context": "ContextConnector",
            "._tcp": "TcpConnector",
            "._thread": "ThreadConnection ThreadConnector",
            "._tls": "TlsConnector",
            "._unix": "UnixConnector",
        },
    )
