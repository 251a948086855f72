"""Connectors for plain streams; a protocol's own connector can be built on each.

They set up what a pool needs of any connection: it is open, it is quick, and it is known
at once when the peer has hung up or said something that nobody asked for.
"""

from __future__ import annotations

from ._tcp import TcpConnector
from ._tls import TlsConnector
from ._unix import UnixConnector

__all__ = ["TcpConnector", "TlsConnector", "UnixConnector"]

for _public in (TcpConnector, TlsConnector, UnixConnector):
    _public.__module__ = "qorb_trio"  # where users import them from
