"""`OpenConnections`: the identities of all connections that are open."""

from __future__ import annotations

from typing import final


@final
class OpenConnections:
    """The connections that one pool holds, so that no object is held twice."""

    __slots__ = ("_ids",)

    def __init__(self) -> None:
        self._ids: set[int] = set()

    def add(self, connection: object) -> None:
        """Register what ``connect`` returned.

        Raises:
          TypeError: it is `None`.
          RuntimeError: the pool holds that object already.
        """
        if connection is None:
            raise TypeError("connect() returned None instead of a connection")
        if id(connection) in self._ids:
            raise RuntimeError(
                f"connect() returned an object that the pool already holds: {connection!r}"
            )
        self._ids.add(id(connection))

    def remove(self, connection: object) -> None:
        """Forget a connection that is closed."""
        self._ids.discard(id(connection))
