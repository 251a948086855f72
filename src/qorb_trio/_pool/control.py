"""`Control`: what a program may change of a pool while it runs."""

from __future__ import annotations

from typing import Generic, TypeVar, final

import attrs
import trio

from .._claims.dispatcher import Dispatcher
from .._connections.ejections import Ejections
from .._connections.maintenance import Maintenance
from .._connections.retirement import Retirement
from .._model.policy import Policy
from .._model.settings import Settings
from .._slots.readiness import Readiness
from .._slots.registry import Registry
from .._slots.totals import Totals
from .leak_detector import LeakDetector
from .plan_requests import PlanRequests
from .rebalancer import Rebalancer

C = TypeVar("C")


@final
@attrs.define(eq=False, repr=False)
class Control(Generic[C]):
    """Recycles the connections of one pool, replaces its policy, and waits for it to be ready."""

    _settings: Settings
    _totals: Totals
    _registry: Registry[C]
    _readiness: Readiness
    _maintenance: Maintenance[C]
    _retirement: Retirement[C]
    _ejections: Ejections[C]
    _dispatcher: Dispatcher[C]
    _rebalancer: Rebalancer[C]
    _leak_detector: LeakDetector[C]
    _requests: PlanRequests

    def recycle(self, over: float) -> None:
        """Have all connections replaced whose dial began before now, spread over `over` seconds."""
        for slot_set in self._registry.active.values():
            self._retirement.recycle(list(slot_set.slots), over)

    def reconfigure(self, policy: Policy) -> None:
        """Let everything go by another policy from now on."""
        self._settings.adopt(policy)
        for slot_set in self._registry.active.values():
            slot_set.detector.adopt(policy.set_config)
            self._retirement.reconfigure(list(slot_set.slots))
            self._maintenance.reschedule(slot_set)
        self._ejections.adopt_policy()
        self._dispatcher.adopt_policy()
        self._rebalancer.restart_interval()
        self._leak_detector.restart()
        self._requests.request()
        self._readiness.changed()  # for a wait_ready that waits for more than may be now

    def _check_reachable(self, slots: int) -> None:
        """Raise `ValueError` if the policy in force allows fewer slots than that."""
        most = self._settings.policy.max_slots
        if slots > most:
            raise ValueError(f"slots must be at most max_slots ({most}), not {slots}")

    async def wait_connected(self, slots: int) -> None:
        """Have that many slots connected. Return when they are, or when the pool ends.

        Raises:
          ValueError: the policy allows fewer slots, from the beginning or by now.
        """
        self._check_reachable(slots)
        await trio.lowlevel.checkpoint()
        self._readiness.request(slots)
        self._requests.request()
        try:
            await self._readiness.wait_until(lambda: self._is_ready(slots))
        finally:
            self._readiness.withdraw(slots)

    def _is_ready(self, slots: int) -> bool:
        if self._dispatcher.is_closed:
            return True
        self._check_reachable(slots)
        # Slots that are connected to backends which have left do not count.
        draining = sum([slot_set.connected for slot_set in self._registry.draining])
        return self._totals.connected - draining >= slots
