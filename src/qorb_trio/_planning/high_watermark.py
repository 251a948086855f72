"""`HighWatermark`: the demand that a rebalance must not shrink the pool below."""

from __future__ import annotations

from typing import final


@final
class HighWatermark:
    """The highest demand since the last rebalance began.

    Surplus is what exceeds it. If it were what exceeds the present demand, a load with
    pauses would lose its connections in each pause that a rebalance happens to fall in.
    """

    def __init__(self) -> None:
        self._current = 0
        self._previous = 0

    def record(self, demand: int) -> None:
        """Take note of the demand of a plan."""
        self._current = max(self._current, demand)

    def begin_rebalance(self) -> None:
        """Begin a new period with the next plan."""
        self._previous = self._current
        self._current = 0

    @property
    def retained(self) -> int:
        """The number of connections that the rebalance under way must retain.

        It includes the demand since that rebalance began, because otherwise surplus
        would be closed in step with the claims that end meanwhile.
        """
        return max(self._previous, self._current)
