"""`Outcomes`: learns from each outcome of a connection.

Whatever a dial, a check, a set-up or a claim shows passes through here: the failure detector
of the backend records it, the log tells of it, and a plan is requested if it changes one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Generic, TypeVar, final

import attrs
import trio

from .._events.emitter import Emitter
from .._slots.slot import Slot
from .._slots.slot_set import SlotSet
from .._util import strip_traceback

logger = logging.getLogger("qorb_trio.backend")

C = TypeVar("C")


def _traceback(exc: Exception) -> Exception | None:
    """Return what the log shows the traceback of.

    A traceback tells whose mistake an exception was, which is for debugging. Of a server that
    is down it tells nothing.
    """
    return exc if logger.isEnabledFor(logging.DEBUG) else None


@final
@attrs.define(kw_only=True, eq=False)
class Outcomes(Generic[C]):
    """The outcomes of all connections of one pool."""

    _pool: str
    _events: Emitter
    _replan: Callable[[], None]
    #: Called with each slot set that shows new evidence of failing. The membership's.
    on_failing: Callable[[SlotSet[C]], None] = attrs.field(init=False)

    def connect_failed(self, slot: Slot[C], exc: Exception) -> None:
        """Record that a dial has failed."""
        slot.slot_set.detector.record_connect_error(exc, trio.current_time())
        self.failed(slot, exc)

    def failed(self, slot: Slot[C], exc: Exception) -> None:
        """Record a failure of a connection."""
        slot_set = slot.slot_set
        backend = slot_set.backend.name
        logger.warning(
            "pool %s: backend %s: %r", self._pool, backend, exc, exc_info=_traceback(exc)
        )
        now = trio.current_time()
        if slot_set.detector.record_failure(exc, slot.health_generation, now):
            self.on_failing(slot_set)
            self._replan()

    def error(self, slot: Slot[C], exc: Exception) -> None:
        """Record a failure of the connector that says nothing about the backend."""
        logger.warning("pool %s: %r: %r", self._pool, slot, exc, exc_info=_traceback(exc))
        slot.slot_set.detector.record_error(exc, trio.current_time())
        strip_traceback(exc)

    def succeeded(self, slot: Slot[C]) -> None:
        """Record that a connection has served a claim, passed a check, or lasted."""
        if slot.slot_set.detector.record_success(slot.health_generation):
            self._replan()

    def abandoned(self, slot: Slot[C]) -> None:
        """Record that a hung dial was given up: it will not tell by itself."""
        slot.slot_set.detector.record_abandoned(slot.health_generation, trio.current_time())

    def probe_lost(self, slot: Slot[C]) -> None:
        """Record that the probe of a failing backend is gone, and nothing was learned."""
        slot.slot_set.detector.end_half_open()
        self._replan()

    def online(self, slot_set: SlotSet[C]) -> None:
        """Tell that a backend has its first connection."""
        logger.info("pool %s: backend %s is online", self._pool, slot_set.backend.name)
        if (emit := self._events.slot_set_online) is not None:
            emit(slot_set.backend)

    def connection_lost(self, slot_set: SlotSet[C]) -> None:
        """Tell, if it is so, that a backend has lost its last connection."""
        if slot_set.connected == 0:
            logger.info("pool %s: backend %s is offline", self._pool, slot_set.backend.name)
            if (emit := self._events.slot_set_offline) is not None:
                emit(slot_set.backend)
        self._replan()
