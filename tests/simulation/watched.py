"""Connections with a descriptor each, so that the pool's idle watcher has something to watch."""

from __future__ import annotations

import socket

from qorb_trio import Backend

from ..harness import LedgerConnection, LedgerConnector, PlainLedgerConnector


class Wired(PlainLedgerConnector):
    """Connections that are socket pairs: the peer's end can hang up."""

    def __init__(self) -> None:
        super().__init__()
        self._wires: dict[LedgerConnection, tuple[socket.socket, socket.socket]] = {}

    async def connect(self, backend: Backend) -> LedgerConnection:
        """Connect, and lay a wire."""
        conn = await super().connect(backend)
        self._wires[conn] = socket.socketpair()
        return conn

    def fileno(self, conn: LedgerConnection) -> int | None:
        """Return the descriptor of this end."""
        return self._wires[conn][0].fileno()

    def hang_up(self, conn: LedgerConnection) -> None:
        """Close the peer's end."""
        self._wires[conn][1].close()

    async def disconnect(self, conn: LedgerConnection) -> None:
        """Close the page, and this end."""
        try:
            await super().disconnect(conn)
        finally:
            for end in self._wires.pop(conn, ()):
                end.close()

    def close_wires(self) -> None:
        """Close what a simulation that failed has left open."""
        for ends in self._wires.values():
            for end in ends:
                end.close()
        self._wires.clear()


class WiredLedgerConnector(Wired, LedgerConnector):
    """The same, with every hook overridden."""
