"""PostgreSQL: psycopg connections that run natively on Trio, as the connections of a pool.

    pip install 'qorb-trio[postgres]'

`PostgresConnector` is the connector, `PostgresConnection` what it yields. This package is
provisional: details may change before version 1.
"""

from __future__ import annotations

try:
    import psycopg as _psycopg
except ImportError as _error:
    raise ImportError(
        "qorb_trio.postgres needs psycopg: pip install 'qorb-trio[postgres]'"
    ) from _error

from ._connection import PostgresConnection as PostgresConnection
from ._connector import PostgresConnector as PostgresConnector

__all__ = ["PostgresConnection", "PostgresConnector"]

PostgresConnection.__module__ = PostgresConnector.__module__ = __name__
del _psycopg
