"""`Loans`: statements 3, 5 and 8 at each loan and each close, from the pool's own events."""

from __future__ import annotations

import math

import trio

from qorb_trio import Backend, BackendStats, Instrument, PoolStats

from .statements import NineStatements


class Loans(Instrument):
    """Statements 3 and 8 at each loan and each close, from the pool's own events.

    Only connectors with hooks are watched. Without an instrument the pool takes a shorter
    path, which the simulation must cover too.
    """

    def __init__(self, *, calm: bool, choosy: bool = False) -> None:
        self.calm = calm
        #: True if the choice of a backend depends on more than the load.
        self.choosy = choosy
        self.watch: NineStatements | None = None

    def slot_state_change(
        self, pool: str, slot_id: int, backend: Backend, old: str, new: str
    ) -> None:
        """A spare is taken, or closed."""
        if old != "unclaimed" or self.watch is None or self.watch.pool is None:
            return
        stats = self.watch.pool.stats()
        if new == "claimed":
            self._judge_loan(stats, backend)
        elif new == "closing" and self.calm:
            self._judge_close(stats, backend)

    def _judge_loan(self, stats: PoolStats, backend: Backend) -> None:
        assert self.watch is not None
        chosen = stats.backends[backend.name]
        if chosen.ejected_until is not None:
            self._judge_trial(chosen)
            return
        load = chosen.claimed - 1
        for other in stats.backends.values():
            if other is chosen or not other.unclaimed:
                continue
            if other.ejected_until is not None or other.retiring:
                continue
            better = other.backend.priority < chosen.backend.priority or (
                other.backend.priority == chosen.backend.priority
                and not self.choosy
                and other.claimed < load
                and other.backend.weight >= chosen.backend.weight
            )
            if better:
                self.watch.ledger.violation(f"[8] lent from {chosen!r}, rather than {other!r}")

    def _judge_trial(self, chosen: BackendStats) -> None:
        assert self.watch is not None
        assert chosen.ejected_until is not None
        if trio.current_time() < chosen.ejected_until:
            self.watch.ledger.violation(f"[5] lent from an ejected backend: {chosen!r}")

    def _judge_close(self, stats: PoolStats, backend: Backend) -> None:
        assert self.watch is not None
        ledger, policy = self.watch.ledger, self.watch.policy
        if policy.rebalance_interval == math.inf and not self.watch.ending:
            ledger.violation(f"[3] a spare of {backend.name} is closed, and nothing has changed")
