"""Connectors for plain streams, and for clients that bring their own connections.

A protocol's own connector can be built on each. They set up what a pool needs of any
connection: it is open, it is quick, and the pool learns at once when the peer has closed it or
sent something that nobody asked for.
"""

from __future__ import annotations

from ._context import ContextConnector
from ._tcp import TcpConnector
from ._thread import ThreadConnection, ThreadConnector
from ._tls import TlsConnector
from ._unix import UnixConnector

__all__ = [
    "ContextConnector",
    "TcpConnector",
    "ThreadConnection",
    "ThreadConnector",
    "TlsConnector",
    "UnixConnector",
]

for _public in (
    ContextConnector,
    TcpConnector,
    ThreadConnection,
    ThreadConnector,
    TlsConnector,
    UnixConnector,
):
    _public.__module__ = "qorb_trio"  # where users import them from
