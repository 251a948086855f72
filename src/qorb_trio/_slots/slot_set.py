"""`SlotSet`: all the slots of one backend, and what is known of it.

The one writer of its slots' states. Everything in here is synchronous: it decides, and
starts a task for what needs I/O (see ``_worker.py``).
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Any, Generic, TypeVar, final

import trio

from .._balancing.candidates import IdleCandidate
from .._health.failure_detector import SLOW_DIAL, SLOW_FACTOR, TrackRecord
from .._model.backend import Backend, effective_weight
from .._model.stats import BackendStats
from .._util import forget_frames
from .state import (
    AT_REST,
    CHECKING,
    CLAIMED,
    CLOSED,
    CLOSING,
    CONNECTED,
    CONNECTING,
    NEXT,
    UNCLAIMED,
    IllegalTransitionError,
    Slot,
    State,
)

if TYPE_CHECKING:
    from .._claims.dispatcher import Core

logger = logging.getLogger("qorb_trio.backend")

C = TypeVar("C")


def _traceback(exc: Exception) -> Exception | None:
    """For the log: whose mistake it was, it tells; a server that is down has none to tell."""
    return exc if logger.isEnabledFor(logging.DEBUG) else None


@final
class SlotSet(Generic[C]):
    """The slots of one backend; what the planner and the balancer look at."""

    __slots__ = (
        "_core",
        "active",
        "backend",
        "candidate",
        "checker",
        "claimed",
        "connected",
        "dials",
        "effective_weight",
        "gives_way",
        "hung",
        "limit",
        "place",
        "priority",
        "rank",
        "record",
        "share",
        "slots",
        "spares",
        "total_claims",
        "wanted",
    )

    def __init__(self, core: Core[C], backend: Backend, rank: int) -> None:
        self._core: Core[C] = core
        self.record: TrackRecord = TrackRecord(core.policy.set_config, core.rng)
        #: False as soon as the backend has left or the pool ends: no more I/O but closing.
        self.active: bool = True
        #: How many slots have an established connection, and how many of these are lent.
        #: Those that are CONNECTING or UNCLAIMED are counted by `dials` and `spares`.
        self.connected: int = 0
        self.claimed: int = 0
        #: All slots that are not CLOSED.
        self.slots: dict[Slot[C], None] = {}  # no set: its order would be by chance
        #: The UNCLAIMED ones, longest idle first.
        self.spares: deque[Slot[C]] = deque()
        #: The CONNECTING ones, oldest first.
        self.dials: dict[Slot[C], None] = {}
        #: Ends the task that orders health checks, where there is one.
        self.checker: trio.CancelScope | None = None
        #: Whether a dial takes suspiciously long, as of the last plan.
        self.hung: bool = False
        #: Whether a connection that comes back may be closed, to make room for another
        #: backend (see `Core.lacks_spare`).
        self.gives_way: bool = False
        self.limit: int = core.policy.set_config.max_count
        self.rank: int = rank
        self.place: int = -1
        self.candidate: IdleCandidate[Any] | None = None
        self.wanted: int = 0
        self.total_claims: int = 0
        self.describe(backend)

    def describe(self, backend: Backend) -> None:
        """Take over the priority and the weight of an equal backend."""
        self.backend: Backend = backend
        self.priority: int = backend.priority
        self.effective_weight: float = effective_weight(backend.weight)
        self.share: float = self.effective_weight

    # What the planner and the balancer ask.

    @property
    def load(self) -> int:
        return self.claimed

    @property
    def unclaimed(self) -> int:
        return len(self.spares)

    @property
    def idle(self) -> int:
        return len(self.spares)

    @property
    def connecting(self) -> int:
        return len(self.dials)

    @property
    def closing(self) -> int:
        return len(self.slots) - len(self.dials) - self.connected

    @property
    def failing(self) -> bool:
        return self.hung or self.record.failing

    @property
    def on_probation(self) -> bool:
        return self.record.on_probation

    @property
    def turn(self) -> tuple[float, float]:
        # Whoever hangs lets all others go first that wait for their turn; of those who
        # hang, the one goes first whose dial is the oldest, and so the next to end.
        if not self.hung:
            return self.record.retry_at, 0
        return float("inf"), next(iter(self.dials)).since

    def stats(self, now: float) -> BackendStats:
        return BackendStats(
            backend=self.backend,
            online=self.connected > 0,
            connecting=self.connecting,
            unclaimed=self.unclaimed,
            checking=self.connected - self.unclaimed - self.claimed,
            claimed=self.claimed,
            closing=self.closing,
            wanted=self.wanted,
            total_claims=self.total_claims,
            failures=self.record.failures(now),
            last_error=self.record.last_error,
        )

    # The one place where a slot changes its state.

    def move(self, slot: Slot[C], new: State) -> None:
        """Change a slot's state, the counts, and tell of it, all at once."""
        old = slot.state
        if new not in NEXT[old]:
            raise IllegalTransitionError(f"{slot!r} cannot become {new.label}")
        core = self._core
        slot.state = new
        if new is CLAIMED:
            self.claimed += 1
            core.claimed += 1
        elif old is CLAIMED:
            self.claimed -= 1
            core.claimed -= 1
        if old not in AT_REST or new not in AT_REST:
            self._recount(slot, old, new)
        if core.watch is not None:
            core.watch.fire(
                "slot_state_change", core.name, slot.id, self.backend, old.label, new.label
            )

    def _recount(self, slot: Slot[C], old: State, new: State) -> None:
        """What a transition changes besides the number of claims; most change no more."""
        core = self._core
        core.checking += (new is CHECKING) - (old is CHECKING)
        change = (new in CONNECTED) - (old in CONNECTED)
        self.connected += change
        core.connected += change
        if old is CONNECTING:
            del self.dials[slot]
        if new is CLOSED:
            del self.slots[slot]
            core.slots -= 1

    # From dial to spare.

    def open(self) -> None:
        """Begin to connect another slot."""
        core = self._core
        slot: Slot[C] = Slot(core.next_id(), self)
        self.slots[slot] = None
        self.dials[slot] = None
        core.slots += 1
        core.start(core.worker.dial, slot)

    def welcome(self, slot: Slot[C]) -> None:
        """A dial has succeeded. The slot may have been given up meanwhile."""
        core = self._core
        now = trio.current_time()
        core.connect_time = max(now - slot.since, core.connect_time * 0.9)
        slot.since = now
        core.fire("connect_done", slot.id, self.backend)
        if not self.active or slot.state is CLOSING:
            self.close(slot)
            return
        if core.hooks.tells_broken and self.found_broken(slot):
            return
        first = self.connected == 0
        core.offer(slot)
        if first:
            logger.info("pool %s: backend %s is online", core.name, self.backend.name)
            core.fire("slot_set_online", self.backend)
        core.slot_connected(self, news=first or self.failing)

    def abort_dials(self, count: int) -> None:
        """Give up `count` dials, the youngest first."""
        for slot in list(self.dials)[-count:]:
            self.abort(slot)

    def abort(self, slot: Slot[C]) -> None:
        """Give up a dial. The slot is CLOSING until its task has ended."""
        self.move(slot, CLOSING)
        if slot.scope is not None:
            slot.scope.cancel()
        if self.hung:
            # It will not tell by itself, so this is what is known of the backend.
            self.record.gave_up(slot.epoch, trio.current_time())

    def look(self, now: float) -> None:
        """See how things stand, for a plan that is about to be made."""
        self.hung = now >= self.slow_at(now)
        while self.hung and now >= self.hopeless_at(now):
            self.abort(next(iter(self.dials)))
            self.hung = now >= self.slow_at(now)

    def slow_at(self, now: float) -> float:
        """When the oldest dial will have taken so long that it seems to hang."""
        patience = max(SLOW_DIAL, SLOW_FACTOR * self._core.connect_time)
        return self._begun(now) + self.record.patience(patience)

    def hopeless_at(self, now: float) -> float:
        """When a dial that may last for ever will be given up and begun anew.

        With an endless ``connect_timeout``, a single lost packet would otherwise keep a
        backend from being found again.
        """
        config = self._core.policy.set_config
        if config.connect_timeout < float("inf"):
            return float("inf")
        return max(self.slow_at(now), self._begun(now) + config.max_connection_backoff)

    def look_again_at(self, now: float) -> float:
        """When `look` may see something else than it last saw."""
        return self.hopeless_at(now) if self.hung else self.slow_at(now)

    def _begun(self, now: float) -> float:
        """When the oldest dial began, or will begin when its back-off has passed."""
        oldest = next(iter(self.dials), None)
        if oldest is None:
            return float("inf")
        return min(oldest.since, max(now, self.record.retry_at))

    # Spares.

    def shelve(self, slot: Slot[C]) -> None:
        """A connection is free, and nobody waits for one."""
        core = self._core
        if not self.spares:
            core.shelf.add(self)
        self.spares.append(slot)
        if slot.state is CLAIMED and core.watch is None:
            # As `move`, for each claim: its check and its call are 2 % of the claim's cost.
            slot.state = UNCLAIMED
            self.claimed -= 1
            core.claimed -= 1
        else:
            self.move(slot, UNCLAIMED)

    def claim_spare(self) -> Slot[C]:
        """Take the spare that was used last: it is the likeliest to be alive."""
        core = self._core
        slot = self.spares.pop()
        if not self.spares:
            core.shelf.remove(self)
        if core.watch is None:  # as in `shelve`; a spare is UNCLAIMED
            slot.state = CLAIMED
            self.claimed += 1
            core.claimed += 1
        else:
            self.move(slot, CLAIMED)
        return slot

    def oldest_spare(self) -> Slot[C]:
        """Take the spare that has been idle for longest off the shelf."""
        slot = self.spares.popleft()
        if not self.spares:
            self._core.shelf.remove(self)
        return slot

    def check(self, slot: Slot[C]) -> None:
        """Have a spare checked; the one that has been idle for longest costs least."""
        self.spares.remove(slot)
        if not self.spares:
            self._core.shelf.remove(self)
        self.examine(slot)

    def recycle(self, slot: Slot[C]) -> None:
        """Have a returned connection cleaned."""
        slot.returned = True
        self.examine(slot)

    def examine(self, slot: Slot[C]) -> None:
        self.move(slot, CHECKING)
        self._core.start(self._core.worker.tend, slot)

    # What connections turn out to be worth.

    def failed(self, slot: Slot[C], exc: Exception) -> None:
        """A connection of this backend has failed: note it."""
        core = self._core
        logger.warning(
            "pool %s: backend %s: %r", core.name, self.backend.name, exc, exc_info=_traceback(exc)
        )
        if self.record.failed(exc, slot.epoch, trio.current_time()):
            self.rank = core.next_rank()  # for when it is back
            core.request_plan()

    def proved(self, slot: Slot[C]) -> None:
        """A connection has served a claim, passed a check, or lasted."""
        if self.record.proved(slot.epoch):
            self._core.request_plan()

    def found_broken(self, slot: Slot[C]) -> bool:
        """Ask ``is_broken``; a broken connection is closed.

        Whatever the user's code raises, the slot is not lost.
        """
        try:
            fault = self._core.hooks.fault(slot.connection)
        except BaseException:
            self.close(slot)
            raise
        if fault is not None:
            # First what must follow, then who must hear of it.
            self.close(slot)
            self.failed(slot, fault)
            forget_frames(fault)
        return fault is not None

    def should_recycle(self, slot: Slot[C], exc: BaseException | None) -> bool:
        """Ask ``should_recycle`` of a connection whose claim has ended by `exc`."""
        try:
            return self._core.hooks.should_recycle(slot.connection, exc)
        except Exception as failure:  # noqa: BLE001 - the user's code
            self.noted(slot, failure)
            forget_frames(failure)
            return False
        except BaseException:
            self.close(slot)
            raise

    def noted(self, slot: Slot[C], exc: Exception) -> None:
        """The connector has failed in a way that says nothing about the backend."""
        logger.warning("pool %s: %r: %r", self._core.name, slot, exc, exc_info=_traceback(exc))
        self.record.noted(exc, trio.current_time())

    # The end.

    def close(self, slot: Slot[C]) -> None:
        """Close a slot's connection, in a task of its own where that takes I/O.

        The slot must not be on the shelf.
        """
        core = self._core
        was_connected = slot.state not in {CONNECTING, CLOSING}
        if slot.state is not CLOSING:
            self.move(slot, CLOSING)
        assert slot.connection is not None
        if core.hooks.closes(slot.connection):
            core.start_closing(slot)
        else:
            self.closed(slot)
        if was_connected:
            self._maybe_offline()
            core.request_plan()

    def close_spares(self, count: int) -> None:
        """Close `count` spares, longest idle first."""
        for _ in range(count):
            self.close(self.oldest_spare())

    def closed(self, slot: Slot[C]) -> None:
        """A slot has nothing open any more."""
        core = self._core
        if slot.connection is not None:
            core.held.discard(id(slot.connection))
            slot.connection = None
        self.move(slot, CLOSED)
        core.slot_closed(self)

    def deactivate(self) -> None:
        """The backend has left, or the pool ends: nothing here is lent any more."""
        if not self.active:
            return
        self.active = False
        if self.checker is not None:
            self.checker.cancel()
        if self.spares:
            self._core.shelf.remove(self)

    def clear(self) -> None:
        """After `deactivate`: close all that is not claimed."""
        while self.spares:
            self.close(self.spares.popleft())
        for slot in list(self.slots):
            if slot.state is CONNECTING:
                self.abort(slot)
            elif slot.state is CHECKING and slot.scope is not None:
                slot.scope.cancel()

    def close_claims(self) -> None:
        """Close what claimants still hold. Their claims end with this."""
        for slot in list(self.slots):
            if slot.state is CLAIMED:
                self._core.holding.discard(slot.holder)
                slot.holder = None
                self.close(slot)

    def _maybe_offline(self) -> None:
        core = self._core
        if self.connected == 0:
            logger.info("pool %s: backend %s is offline", core.name, self.backend.name)
            core.fire("slot_set_offline", self.backend)
