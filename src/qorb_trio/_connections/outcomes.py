"""`Outcomes`: learns from each outcome of a connection.

Whatever a dial, a check, a set-up or a claim shows passes through here: the failure detector
of the backend records it, the log tells of it, and a plan is requested if it changes one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, Generic, TypeVar, final

import attrs
import trio

from .._events.emitter import Emitter
from .._health.failure_log import FailureLog, LogLine
from .._model.errors import IneligibleBackendError, MisusedConnectionError, StaleConnectionError
from .._planning.targets import Targets
from .._slots.registry import Registry
from .._slots.slot_set import Slot, SlotSet
from .._slots.state import NOT_YET
from .._util import error_text, log_safely, printable, strip_traceback

logger = logging.getLogger("qorb_trio.backend")

C = TypeVar("C")

#: A connection that the peer closes before it has served a claim, and before it is this many
#: seconds old, is a failure: a server that accepts and closes must not be dialled in a loop.
MIN_LASTING: Final = 0.1

#: If ``is_broken`` gives one of these reasons, the peer has closed an idle connection. A bare
#: ``return True`` gives one too.
_CLOSED_WHILE_IDLE: Final = (ConnectionError, trio.BrokenResourceError)


@final
@attrs.define(eq=False, repr=False)
class Outcomes(Generic[C]):
    """The outcomes of all connections of one pool."""

    _pool: str
    _events: Emitter
    _registry: Registry[C]
    _targets: Targets
    _replan: Callable[[], None]
    #: Called with each slot set that shows new evidence of failing. The membership's.
    on_failing: Callable[[SlotSet[C]], None] = attrs.field(init=False)
    #: Called when a backend has lost its last connection. The ejections'.
    on_offline: Callable[[], None] = attrs.field(init=False)
    #: The number of slot sets that have a connection.
    _online: int = attrs.field(init=False, default=0)
    #: Called when a backend has its first connection. The wait queue's.
    on_online: Callable[[], None] = attrs.field(init=False)
    _has_warned_misuse: bool = attrs.field(init=False, default=False)

    # Failures.

    def connect_failed(self, slot: Slot[C], exc: Exception) -> None:
        """Record that a dial has failed."""
        if isinstance(exc, IneligibleBackendError):
            self._ineligible(slot, exc)
            return
        slot.slot_set.detector.record_connect_error(exc, trio.current_time())
        self.failed(slot, exc, "connect")

    def _ineligible(self, slot: Slot[C], exc: IneligibleBackendError) -> None:
        """Record that a backend works, but not for this pool now. That is no failure."""
        slot_set, now = slot.slot_set, trio.current_time()
        if slot_set.detector.record_ineligible(exc, slot.health_generation, now):
            self._replan()
        self._log(self._failure_log(slot_set).record_ineligible(exc, now))

    def failed(self, slot: Slot[C], exc: Exception, tried: str) -> None:
        """Record a failure of a connection. `tried` is what failed."""
        slot_set, now = slot.slot_set, trio.current_time()
        log_traceback(exc)
        if slot_set.detector.record_failure(exc, slot.health_generation, now):
            slot_set.detector.make_way(self._targets.failing, now)
            self.on_failing(slot_set)
            self._replan()
        retry_at = slot_set.detector.retry_at if slot_set.detector.is_failing else None
        log = self._failure_log(slot_set)
        self._log(log.record_failure(tried, exc, now, retry_at=retry_at))

    def found_broken(
        self, slot: Slot[C], reason: Exception, holder: trio.lowlevel.Task | None
    ) -> None:
        """Record what ``is_broken`` has found. `holder` has just given the connection back."""
        backend = slot.slot_set.backend
        if isinstance(reason, MisusedConnectionError):
            self._misused(slot, reason, holder)
        elif self._is_stale(slot, reason, holder):
            self._stale(slot, reason)
        else:
            if (emit := self._events.connection_broken) is not None:
                emit(slot.id, backend, reason)
            if isinstance(reason, IneligibleBackendError):
                self._ineligible(slot, reason)
            else:
                self.failed(slot, reason, "is_broken" if holder is None else "the last claim")
        strip_traceback(reason)

    def _is_stale(
        self, slot: Slot[C], reason: Exception, holder: trio.lowlevel.Task | None
    ) -> bool:
        """Return True if the peer closed an idle connection that had worked.

        A connector that says no more than that a connection is broken, or that it was reset,
        means this, if the connection was idle.
        """
        closed = StaleConnectionError if holder is not None else _CLOSED_WHILE_IDLE
        has_served = slot.claimed_at != NOT_YET
        has_lasted = trio.current_time() - slot.created_at >= MIN_LASTING
        is_failing = slot.slot_set.detector.is_failing
        return isinstance(reason, closed) and (has_served or has_lasted) and not is_failing

    def _stale(self, slot: Slot[C], reason: Exception) -> None:
        """Record that the peer closed an idle connection, which is normal life."""
        slot_set = slot.slot_set
        slot_set.count_stale()
        log_safely(
            logger,
            logging.DEBUG,
            "pool %s: backend %s has closed an idle connection: %s",
            printable(self._pool),
            printable(slot_set.backend.name),
            error_text(reason),
        )
        if (emit := self._events.connection_stale) is not None:
            emit(slot.id, slot_set.backend, reason)

    def _misused(self, slot: Slot[C], reason: Exception, holder: trio.lowlevel.Task | None) -> None:
        """Record that the program spoilt a connection, which counts against nobody."""
        level = logging.DEBUG if self._has_warned_misuse else logging.WARNING
        self._has_warned_misuse = True
        log_safely(
            logger,
            level,
            "pool %s: task %s gave back a connection to %s that cannot be lent again: %s",
            printable(self._pool),
            printable(slot.label or (holder.name if holder else "(unknown)")),
            printable(slot.slot_set.backend.name),
            error_text(reason),
        )
        if (emit := self._events.connection_broken) is not None:
            emit(slot.id, slot.slot_set.backend, reason)

    def error(self, slot: Slot[C], exc: Exception, tried: str) -> None:
        """Record a failure of the connector that says nothing about the backend."""
        log_traceback(exc)
        slot_set, now = slot.slot_set, trio.current_time()
        slot_set.detector.record_error(exc, now)
        self._log(self._failure_log(slot_set).record_error(tried, exc, now))

    def abandoned(self, slot: Slot[C]) -> None:
        """Record that a hung dial was given up: it will not tell by itself."""
        slot.slot_set.detector.record_abandoned(slot.health_generation, trio.current_time())

    def probe_lost(self, slot: Slot[C]) -> None:
        """Record that the probe of a failing backend is gone, and nothing was learned."""
        slot.slot_set.detector.end_half_open()
        self._replan()

    # Successes.

    def succeeded(self, slot: Slot[C]) -> None:
        """Record that a connection has served a claim, passed a check, or lasted."""
        slot_set = slot.slot_set
        if slot_set.detector.record_success(slot.health_generation):
            self._log(self._failure_log(slot_set).record_recovery(trio.current_time()))
            self._replan()

    def online(self, slot_set: SlotSet[C]) -> None:
        """Tell that a backend has its first connection."""
        self._online += 1
        self.on_online()
        self._say("pool %s: backend %s is online", slot_set, is_news=not slot_set.was_online)
        slot_set.was_online = True
        if (emit := self._events.slot_set_online) is not None:
            emit(slot_set.backend)

    def connection_lost(self, slot_set: SlotSet[C]) -> None:
        """Tell, if it is so, that a backend has lost its last connection."""
        if slot_set.connected == 0:
            self._online -= 1
            self._say("pool %s: backend %s is offline", slot_set)
            if (emit := self._events.slot_set_offline) is not None:
                emit(slot_set.backend)
            if self._online == 0 and slot_set.is_active:
                self._retry_others(slot_set)
            self.on_offline()
        self._replan()

    def _say(self, text: str, slot_set: SlotSet[C], *, is_news: bool = False) -> None:
        """Log that a backend has its first connection, or none any more.

        That is no news but for the first time, because the log tells of each outage and of
        its end anyway. A backend that closes idle connections comes and goes all day.
        """
        level = logging.INFO if is_news else logging.DEBUG
        if logger.isEnabledFor(level):
            pool, name = printable(self._pool), printable(slot_set.backend.name)
            log_safely(logger, level, text, pool, name)

    def _retry_others(self, lost: SlotSet[C]) -> None:
        """Retry backends at once, though they are in back-off: the last online one is lost."""
        now = trio.current_time()
        for slot_set in self._registry.active.values():
            if slot_set is not lost and slot_set.detector.retry_soon(now):
                slot_set.reschedule_back_off()

    # The log.

    def _failure_log(self, slot_set: SlotSet[C]) -> FailureLog:
        if slot_set.failure_log is None:
            slot_set.failure_log = FailureLog(self._pool, slot_set.backend.name)
        return slot_set.failure_log

    def _log(self, line: LogLine | None) -> None:
        if line is not None:
            log_safely(logger, line.level, line.message, *line.args)


def log_traceback(exc: Exception) -> None:
    """Log where an exception was raised, for debugging.

    It tells whose mistake the exception was. Of a server that is down it tells nothing, so it
    is not part of the warning. Later the exception has no traceback any more.
    """
    if logger.isEnabledFor(logging.DEBUG):
        log_safely(logger, logging.DEBUG, "raised here:", exc_info=exc)
