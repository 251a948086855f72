"""`SlotSet`: all slots of one backend, their states and their counts.

The one writer of its slots' states. Everything in here is synchronous; the I/O on its
connections is done in `_connections`, by the tasks of the slot set's own nursery.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, final

import attrs
import trio

from .._health.ejection import Tally
from .._model.backend import Backend, effective_weight
from .slot import NOT_YET, Slot
from .slot_tasks import SlotTasks
from .state import (
    AT_REST,
    CHECKING,
    CLAIMED,
    CLOSED,
    CONNECTED,
    CONNECTING,
    NEXT,
    UNCLAIMED,
    IllegalTransitionError,
    State,
)

if TYPE_CHECKING:
    from .._balancing.candidates import IdleCandidate
    from .._balancing.idle_index import IdleIndex
    from .._events.emitter import Emitter
    from .._health.detector import FailureDetector
    from .._health.ejection import Ejector
    from .._health.failure_log import FailureLog
    from .totals import Totals

C = TypeVar("C")


class IdleListener(Protocol):
    """Told which slot sets have an idle slot: the idle index, or the ejections."""

    def add(self, slot_set: SlotSet[Any], /) -> None:
        """Note that a slot set has got its first idle slot."""

    def remove(self, slot_set: SlotSet[Any], /) -> None:
        """Note that a slot set has no idle slot any more."""


@final
@attrs.frozen(eq=False)
class Shared(Generic[C]):
    """The parts of a pool that all its slot sets write to."""

    totals: Totals
    idle_index: IdleIndex[SlotSet[C]]
    events: Emitter
    next_slot_id: Callable[[], int]


@final
class SlotSet(Generic[C]):
    """The slots of one backend, as the planner and the balancer see them."""

    __slots__ = (
        "_events",
        "_idle_index",
        "_idle_listener",
        "_next_slot_id",
        "_totals",
        "_weight_factor",
        "backend",
        "balancing_weight",
        "candidate",
        "claimed",
        "connected",
        "detector",
        "dials",
        "drained",
        "effective_weight",
        "ejector",
        "failed_claims",
        "failure_log",
        "idle_slots",
        "is_active",
        "is_ejected",
        "is_hung",
        "is_reclaimable",
        "limit",
        "max_connecting",
        "needs_trial",
        "place",
        "priority",
        "probe",
        "retiring",
        "rotation_key",
        "slots",
        "stale",
        "tally",
        "tasks",
        "total_claims",
        "wanted",
        "was_online",
    )

    def __init__(
        self, backend: Backend, detector: FailureDetector, rotation_key: float, shared: Shared[C]
    ) -> None:
        self._totals: Totals = shared.totals
        self._idle_index: IdleListener = shared.idle_index
        #: Told of the idle slots: the index, except while the backend is ejected.
        self._idle_listener: IdleListener = shared.idle_index
        self._events: Emitter = shared.events
        self._next_slot_id: Callable[[], int] = shared.next_slot_id
        #: What is known of the backend's reliability.
        self.detector: FailureDetector = detector
        #: False as soon as the backend has left or the pool ends: no more I/O but closing.
        self.is_active: bool = True
        #: All slots that are not CLOSED. A dict, because the order of a set would be by chance.
        self.slots: dict[Slot[C], None] = {}
        #: The UNCLAIMED ones, longest idle first.
        self.idle_slots: deque[Slot[C]] = deque()
        #: The CONNECTING ones, oldest first.
        self.dials: dict[Slot[C], None] = {}
        #: The connection of a failing backend that has to prove itself.
        self.probe: Slot[C] | None = None
        #: The numbers of slots with an established connection, and of those checked out.
        self.connected: int = 0
        self.claimed: int = 0
        #: Connections that are due for replacement.
        self.retiring: int = 0
        #: Idle connections that the peer has closed.
        self.stale: int = 0
        #: True if the backend has had a connection. The outcomes'.
        self.was_online: bool = False
        #: What was logged of the present outage. The outcomes'.
        self.failure_log: FailureLog | None = None
        #: The verdicts on the claims; `None` if ejection is off. The ejections'.
        self.ejector: Ejector | None = None
        #: The count of good claims: the ejector's, or one that nobody reads. The ejections'.
        self.tally: Tally = Tally(clean_until=-math.inf)
        #: True while the backend gets no claims, because its claims kept failing.
        self.is_ejected: bool = False
        #: True if an ejected backend needs a new connection for its trial. The ejections'.
        self.needs_trial: bool = False
        #: Claims granted on this backend, and claims on it that ended badly.
        self.total_claims: int = 0
        self.failed_claims: int = 0
        # The index's: the place in its tier, and the candidate that stands for this set.
        self.place: int = -1
        self.candidate: IdleCandidate[Any] | None = None
        #: True while a dial takes suspiciously long. The dialer's.
        self.is_hung: bool = False
        # The rebalancer's, as of its last plan. Reclaimable: the next connection that comes
        # back may be closed, to make room for another backend.
        self.is_reclaimable: bool = False
        self.limit: int = 0
        self.max_connecting: float = math.inf
        self.wanted: int = 0
        #: The place in the order in which backends get slots. The membership's.
        self.rotation_key: float = rotation_key
        self.tasks: SlotTasks[C] = SlotTasks()
        #: Set when the last slot has closed after `deactivate`.
        self.drained: trio.Event = trio.Event()
        #: The part of the weight that the backend has for the balancer.
        self._weight_factor: float = 1.0
        self._describe(backend)

    def __repr__(self) -> str:
        return f"<slot set of {self.backend.name}>"

    def update(self, backend: Backend) -> None:
        """Adopt the priority, the weight and the target of an equal backend."""
        if self.idle_slots:
            self._idle_listener.remove(self)
        self._describe(backend)
        if self.idle_slots:
            self._idle_listener.add(self)

    def _describe(self, backend: Backend) -> None:
        self.backend: Backend = backend
        self.priority: int = backend.priority
        #: The weight by which connections are spread, and that by which claims are.
        self.effective_weight: float = effective_weight(backend.weight)
        self.balancing_weight: float = self.effective_weight * self._weight_factor

    def scale_weight(self, factor: float) -> None:
        """Let the backend have only a part of its weight for the balancer."""
        self._weight_factor = factor
        self.balancing_weight = self.effective_weight * factor

    # Read by the planner and the balancer.

    @property
    def idle(self) -> int:
        return len(self.idle_slots)

    @property
    def connecting(self) -> int:
        return len(self.dials)

    @property
    def retiring_idle(self) -> int:
        # Rarely any, so they are counted when the planner asks.
        return sum([slot.is_due for slot in self.idle_slots]) if self.retiring else 0

    @property
    def closing(self) -> int:
        return len(self.slots) - len(self.dials) - self.connected

    @property
    def is_failing(self) -> bool:
        return self.is_hung or self.detector.is_failing

    @property
    def is_half_open(self) -> bool:
        return self.detector.is_half_open

    @property
    def probe_order(self) -> tuple[float, float]:
        # A hung backend is probed after all others that are due. Among hung ones, the one with
        # the oldest dial comes first, because its dial is the next to end.
        oldest = next(iter(self.dials), None)
        if not self.is_hung or oldest is None:
            return self.detector.retry_at, 0
        return NOT_YET, oldest.connecting_since

    # Slots, their states and the counts.

    def transition(self, slot: Slot[C], new: State) -> None:
        """Change a slot's state and all counts, and tell the instruments, in one step."""
        old = slot.state
        if new not in NEXT[old]:
            raise IllegalTransitionError(f"{slot!r} cannot become {new.label}")
        slot.state = new
        if new is CLAIMED:
            self.claimed += 1
            self._totals.claimed += 1
        elif old is CLAIMED:
            self.claimed -= 1
            self._totals.claimed -= 1
        if old not in AT_REST or new not in AT_REST:
            self._recount(slot, old, new)
        if (emit := self._events.slot_state_change) is not None:
            emit(slot.id, self.backend, old.label, new.label)

    def _recount(self, slot: Slot[C], old: State, new: State) -> None:
        """Adjust the counts other than that of claims; most transitions need none of this."""
        totals = self._totals
        totals.checking += (new is CHECKING) - (old is CHECKING)
        change = (new in CONNECTED) - (old in CONNECTED)
        self.connected += change
        totals.connected += change
        if old is CONNECTING:
            del self.dials[slot]
        if change < 0 and slot.is_due:
            self.retiring -= 1
        if new is CLOSED:
            del self.slots[slot]
            totals.slots -= 1
            if not (self.slots or self.is_active):
                self.drained.set()

    def order_dials(self, count: int) -> None:
        """Add `count` slots, and order their dials from the task of this slot set."""
        new = [Slot(self._next_slot_id(), self) for _ in range(count)]
        for slot in new:
            self.slots[slot] = None
            self.dials[slot] = None
        self._totals.slots += count
        self.tasks.order_dials(new)

    def begin_probe(self, slot: Slot[C]) -> None:
        """Make a new connection the one that has to prove that a failing backend works.

        That it connected is news of now, whatever failed since the dial began.
        """
        slot.renew_generation(self.detector.health_generation)
        self.probe = slot

    def count_stale(self) -> None:
        """Count an idle connection that the peer has closed."""
        self.stale += 1

    def reschedule_back_off(self) -> None:
        """Let dials that wait for their back-off go by the present `retry_at`."""
        for slot in self.dials:
            if slot.connecting_since == NOT_YET and slot.scope is not None:
                slot.scope.deadline = self.detector.retry_at

    def end_probe(self, slot: Slot[C]) -> bool:
        """Return True if `slot` was the probe; it is none any more."""
        was_probe = self.probe is slot
        if was_probe:
            self.probe = None
        return was_probe

    # Idle slots.

    def push_idle(self, slot: Slot[C]) -> None:
        """Make a connection that was checked out a spare."""
        idle = self.idle_slots
        is_first = not idle
        idle.append(slot)
        if self._events.slot_state_change is None:
            # Fast path: `transition` for CLAIMED to UNCLAIMED, without its call.
            slot.state = UNCLAIMED
            self.claimed -= 1
            self._totals.claimed -= 1
        else:
            self.transition(slot, UNCLAIMED)
        if is_first:
            # Last, because a spare of an ejected backend may be lent by this, as a trial.
            self._idle_listener.add(self)

    def push_free(self, slot: Slot[C], *, lend_last: bool = False) -> None:
        """Make a connection that is free, in whatever state, a spare."""
        is_first = not self.idle_slots
        if lend_last:
            self.idle_slots.appendleft(slot)
        else:
            self.idle_slots.append(slot)
        self.transition(slot, UNCLAIMED)
        if is_first:
            self._idle_listener.add(self)

    def pop_idle(self) -> Slot[C]:
        """Check out the spare that was used last, which is the likeliest to be alive."""
        slot = self.idle_slots.pop()
        if not self.idle_slots:
            self._idle_listener.remove(self)
        if self._events.slot_state_change is None:
            # Fast path: `transition` for UNCLAIMED to CLAIMED, without its call.
            slot.state = CLAIMED
            self.claimed += 1
            self._totals.claimed += 1
        else:
            self.transition(slot, CLAIMED)
        return slot

    def count_retiring(self, slot: Slot[C]) -> None:
        """Count a connection that has become due; if it is idle, it is lent last from now on."""
        self.retiring += 1
        if slot.state is UNCLAIMED:
            self.idle_slots.remove(slot)
            self.idle_slots.appendleft(slot)

    def pop_oldest_idle(self) -> Slot[C]:
        """Take the spare that has been idle for longest out of the idle ones."""
        slot = self.idle_slots.popleft()
        if not self.idle_slots and self.is_active:
            self._idle_listener.remove(self)
        return slot

    def remove_idle(self, slot: Slot[C]) -> None:
        """Take one spare out of the idle ones; the longest idle one costs least."""
        self.idle_slots.remove(slot)
        if not self.idle_slots:
            self._idle_listener.remove(self)

    # Ejection, which costs claims nothing, because the spares just have another listener.

    def count_failed_claim(self) -> None:
        """Count a claim that ended badly."""
        self.failed_claims += 1

    def begin_ejection(self, listener: IdleListener) -> None:
        """Keep the spares out of the idle index, and tell `listener` of them instead."""
        if self.idle_slots:
            self._idle_index.remove(self)
        self._idle_listener = listener
        self.is_ejected = True

    def end_ejection(self) -> None:
        """Let the spares be lent again."""
        self.is_ejected = False
        self._idle_listener = self._idle_index
        if self.idle_slots:
            self._idle_index.add(self)

    # The end.

    def deactivate(self) -> None:
        """Lend nothing from here any more: the backend has left, or the pool ends."""
        if not self.is_active:
            return
        self.is_active = False
        if self.idle_slots:
            self._idle_listener.remove(self)
        if not self.slots:
            self.drained.set()
