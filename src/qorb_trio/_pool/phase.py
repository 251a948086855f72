"""The phases of a pool's life, as a table."""

from __future__ import annotations

import enum


class Phase(enum.Enum):
    """The stage of a pool's life. Once a pool has begun to end, it never goes back."""

    OPEN = enum.auto()
    """Claims are granted."""

    SUSPENDED = enum.auto()
    """No claim is granted until `Pool.resume`; claimants wait."""

    DRAINING = enum.auto()
    """No claim is granted any more; those that are held may go on for a while."""

    CLOSING = enum.auto()
    """All connections are being closed, also those that are held."""

    CLOSED = enum.auto()
    """Every task of the pool has ended."""


#: From each phase, the phases that may follow.
NEXT_PHASE: dict[Phase, frozenset[Phase]] = {
    Phase.OPEN: frozenset({Phase.SUSPENDED, Phase.DRAINING, Phase.CLOSING}),
    Phase.SUSPENDED: frozenset({Phase.OPEN, Phase.DRAINING, Phase.CLOSING}),
    Phase.DRAINING: frozenset({Phase.CLOSING}),
    Phase.CLOSING: frozenset({Phase.CLOSED}),
    Phase.CLOSED: frozenset(),
}
