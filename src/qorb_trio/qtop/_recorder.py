"""`Recorder`: an instrument for what `stats()` does not have, waits and recent events."""

from __future__ import annotations

from collections import deque
from typing import Final, final

import attrs
import trio

from .. import Backend, is_abandonment
from .._util import safe_str
from ..abc import Instrument
from ._waits import WaitTimes

#: The number of recent events that are remembered.
RECENT: Final = 100
#: The maximum length of the text about an exception.
_LONGEST: Final = 200


def describe(exc: BaseException) -> str:
    """Return one line about an exception."""
    kind = type(exc).__name__
    # Only the beginning of a text is worth the time to take its line breaks out.
    text = " ".join(safe_str(exc)[: 2 * _LONGEST].split())
    return f"{kind}: {text}"[:_LONGEST] if text else kind


@final
@attrs.frozen
class Event:
    """An event in words. To keep the exception itself would keep too much alive."""

    number: int
    time: float
    kind: str
    backend: str | None
    detail: str


@final
class Recorder(Instrument):
    """Records how long claims wait, and what goes wrong. There is one for each pool.

    It may be added to a pool that is at work already. Claims and checks that began before are
    ignored.
    """

    def __init__(self) -> None:
        self.waits: WaitTimes = WaitTimes(trio.current_time())
        self.events: deque[Event] = deque(maxlen=RECENT)
        self._noted: int = 0
        #: By claim under way: the time at which it began, and the backend that it was given.
        self._asked: dict[int, float] = {}
        self._given: dict[int, str] = {}
        #: By slot under check: its backend.
        self._checked: dict[int, str] = {}

    def _note(
        self, kind: str, backend: str | None = None, reason: BaseException | None = None
    ) -> None:
        if is_abandonment(reason):
            return  # nothing went wrong
        self._add(kind, backend, "" if reason is None else describe(reason))

    def _add(self, kind: str, backend: str | None, detail: str = "") -> None:
        self._noted += 1
        self.events.append(Event(self._noted, trio.current_time(), kind, backend, detail))

    # Waits.

    def claim_start(self, pool: str, claim_id: int) -> None:
        """Note the time."""
        self._asked[claim_id] = trio.current_time()

    def handle_claimed(self, pool: str, claim_id: int, slot_id: int, backend: Backend) -> None:
        """Note the backend."""
        if claim_id in self._asked:
            self._given[claim_id] = backend.name

    def claim_done(self, pool: str, claim_id: int, slot_id: int) -> None:
        """Count the wait."""
        asked = self._asked.pop(claim_id, None)
        backend = self._given.pop(claim_id, None)
        if asked is None or backend is None:
            return
        now = trio.current_time()
        self.waits.add(backend, now - asked, now)

    def claim_failed(self, pool: str, claim_id: int, reason: BaseException) -> None:
        """Forget it."""
        self._asked.pop(claim_id, None)
        self._note("claim_failed", self._given.pop(claim_id, None), reason)

    # Failures.

    def claim_acquire_failed(
        self, pool: str, claim_id: int, slot_id: int, reason: BaseException
    ) -> None:
        """Note it."""
        self._note("claim_acquire_failed", self._given.get(claim_id), reason)

    def connect_failed(
        self, pool: str, slot_id: int, backend: Backend, reason: BaseException
    ) -> None:
        """Note it."""
        self._note("connect_failed", backend.name, reason)

    def health_check_start(self, pool: str, slot_id: int, backend: Backend) -> None:
        """Note the backend, because the end of the check does not tell it."""
        self._checked[slot_id] = backend.name

    def health_check_done(self, pool: str, slot_id: int) -> None:
        """Forget it."""
        self._checked.pop(slot_id, None)

    def health_check_failed(self, pool: str, slot_id: int, reason: BaseException) -> None:
        """Note it."""
        self._note("health_check_failed", self._checked.pop(slot_id, None), reason)

    def recycle_start(self, pool: str, slot_id: int, backend: Backend) -> None:
        """Note the backend, because the end of the check does not tell it."""
        self._checked[slot_id] = backend.name

    def recycle_done(self, pool: str, slot_id: int) -> None:
        """Forget it."""
        self._checked.pop(slot_id, None)

    def recycle_failed(self, pool: str, slot_id: int, reason: BaseException) -> None:
        """Note it."""
        self._note("recycle_failed", self._checked.pop(slot_id, None), reason)

    def connection_broken(
        self, pool: str, slot_id: int, backend: Backend, reason: BaseException
    ) -> None:
        """Note it."""
        self._note("connection_broken", backend.name, reason)

    def claim_cut(self, pool: str, slot_id: int, backend: Backend) -> None:
        """Note it."""
        self._add("claim_cut", backend.name)

    # Backends.

    def backend_ejected(self, pool: str, backend: Backend, reason: str, seconds: float) -> None:
        """Note it."""
        self._add("backend_ejected", backend.name, f"for {seconds:.3g} s: {reason}"[:_LONGEST])

    def backend_restored(self, pool: str, backend: Backend) -> None:
        """Note it."""
        self._add("backend_restored", backend.name)

    def slot_set_online(self, pool: str, backend: Backend) -> None:
        """Note it."""
        self._add("slot_set_online", backend.name)

    def slot_set_offline(self, pool: str, backend: Backend) -> None:
        """Note it."""
        self._add("slot_set_offline", backend.name)

    def backend_added(self, pool: str, backend: Backend) -> None:
        """Note it."""
        self._add("backend_added", backend.name)

    def backend_removed(self, pool: str, backend: Backend) -> None:
        """Note it."""
        self._add("backend_removed", backend.name)
