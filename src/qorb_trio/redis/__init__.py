"""Connections to Redis (and Valkey) for a pool.

    pip install 'qorb-trio[redis]'

`RedisConnector` composes a connector for streams with the protocol of Redis. It is no typed
client: a command is a sequence of words, as in the documentation of Redis.
"""

from __future__ import annotations

try:
    import hiredis as _hiredis  # noqa: F401 - asked for here, so that the hint is given here
except ImportError as _error:
    raise ImportError("qorb_trio.redis needs hiredis: pip install 'qorb-trio[redis]'") from _error

from ._connection import RedisConnection
from ._connector import RedisConnector
from ._errors import RedisError
from ._session import Argument, Command

__all__ = ["Argument", "Command", "RedisConnection", "RedisConnector", "RedisError"]

for _public in (RedisConnection, RedisConnector, RedisError):
    _public.__module__ = __name__  # where users import them from
