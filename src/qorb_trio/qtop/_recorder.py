"""`Recorder`: the instrument that tells what `stats()` cannot, waits and recent events."""

from __future__ import annotations

from collections import deque
from typing import final

import attrs
import trio

from .. import Backend, is_abandonment
from ..abc import Instrument
from ._waits import WaitTimes

#: So many events are remembered.
RECENT = 100
#: What is told of an exception is no longer than this.
_LONGEST = 200
#: The key of a pool's own waits, which is no backend's name.
WHOLE_POOL = ""


def describe(exc: BaseException) -> str:
    """One line about an exception, whatever its own ``__str__`` does."""
    kind = type(exc).__name__
    try:
        text = " ".join(str(exc).split())
    except Exception:  # noqa: BLE001 - somebody else's code, and this is all that there is to say
        text = "(no text)"
    return f"{kind}: {text}"[:_LONGEST] if text else kind


@final
@attrs.frozen
class Event:
    """Something that happened, in words: the exception itself would keep alive too much."""

    number: int
    time: float
    kind: str
    backend: str | None
    detail: str


@final
class Recorder(Instrument):
    """Notes how long claims wait, and what goes wrong. There is one for each pool.

    It may come to a pool that is at work already: what has begun without it is ignored.
    """

    def __init__(self) -> None:
        self.waits: WaitTimes = WaitTimes(trio.current_time())
        self.events: deque[Event] = deque(maxlen=RECENT)
        self._noted: int = 0
        #: When each claim that is under way asked, and which backend it has been given.
        self._asked: dict[int, float] = {}
        self._given: dict[int, str] = {}
        #: The backends of the slots that are being checked.
        self._checked: dict[int, str] = {}

    def _note(
        self, kind: str, backend: str | None = None, reason: BaseException | None = None
    ) -> None:
        if is_abandonment(reason):
            return  # nothing went wrong
        detail = "" if reason is None else describe(reason)
        self._noted += 1
        self.events.append(Event(self._noted, trio.current_time(), kind, backend, detail))

    # How long claims wait.

    def claim_start(self, pool: str, claim_id: int) -> None:
        """Note when it began."""
        self._asked[claim_id] = trio.current_time()

    def handle_claimed(self, pool: str, claim_id: int, slot_id: int, backend: Backend) -> None:
        """Note where it leads."""
        if claim_id in self._asked:
            self._given[claim_id] = backend.name

    def claim_done(self, pool: str, claim_id: int, slot_id: int) -> None:
        """Count how long it took, for the backend and for the pool."""
        asked = self._asked.pop(claim_id, None)
        backend = self._given.pop(claim_id, None)
        if asked is None or backend is None:
            return
        now = trio.current_time()
        self.waits.add(backend, now - asked, now)
        self.waits.add(WHOLE_POOL, now - asked, now)

    def claim_failed(self, pool: str, claim_id: int, reason: BaseException) -> None:
        """Forget it."""
        self._asked.pop(claim_id, None)
        self._note("claim_failed", self._given.pop(claim_id, None), reason)

    # What goes wrong.

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
        """Note where it leads, since its end does not tell."""
        self._checked[slot_id] = backend.name

    def health_check_done(self, pool: str, slot_id: int) -> None:
        """Forget it."""
        self._checked.pop(slot_id, None)

    def health_check_failed(self, pool: str, slot_id: int, reason: BaseException) -> None:
        """Note it."""
        self._note("health_check_failed", self._checked.pop(slot_id, None), reason)

    def recycle_start(self, pool: str, slot_id: int, backend: Backend) -> None:
        """Note where it leads, since its end does not tell."""
        self._checked[slot_id] = backend.name

    def recycle_done(self, pool: str, slot_id: int) -> None:
        """Forget it."""
        self._checked.pop(slot_id, None)

    def recycle_failed(self, pool: str, slot_id: int, reason: BaseException) -> None:
        """Note it."""
        self._note("recycle_failed", self._checked.pop(slot_id, None), reason)

    # What comes and goes.

    def slot_set_online(self, pool: str, backend: Backend) -> None:
        """Note it."""
        self._note("slot_set_online", backend.name)

    def slot_set_offline(self, pool: str, backend: Backend) -> None:
        """Note it."""
        self._note("slot_set_offline", backend.name)

    def backend_added(self, pool: str, backend: Backend) -> None:
        """Note it."""
        self._note("backend_added", backend.name)

    def backend_removed(self, pool: str, backend: Backend) -> None:
        """Note it."""
        self._note("backend_removed", backend.name)
