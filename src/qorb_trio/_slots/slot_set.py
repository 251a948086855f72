"""`SlotSet`: all slots of one backend, and what is known of that. `Slot`: one of them.

Everything in here is synchronous. The I/O on its connections is done in `_connections`, by the
tasks of the slot set's own nursery.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar, final

import attrs
import trio

from .._health.ejection import COUNTS_NOTHING, Tally
from .._model.backend import Backend, effective_weight
from .slot_states import SlotStates
from .slot_tasks import SlotTasks, Work
from .state import CONNECTING, NOT_YET, State

if TYPE_CHECKING:
    from .._balancing.candidates import IdleCandidate
    from .._balancing.idle_index import IdleIndex
    from .._events.emitter import Emitter
    from .._health.detector import FailureDetector
    from .._health.ejection import Ejector
    from .._health.failure_log import FailureLog
    from .expiry import Expiry
    from .timer_queue import TimerEntry, TimerQueue
    from .totals import Totals

C = TypeVar("C")


@final
class Slot(Generic[C]):
    """A commitment to hold one connection to one backend, from its dial to its close.

    A record. Each of its fields has one writer, which docs/design.md names.
    """

    __slots__ = (
        "claimed_at",
        "connection",
        "created_at",
        "expiry",
        "health_generation",
        "holder",
        "id",
        "idle_since",
        "label",
        "slot_set",
        "state",
    )

    def __init__(self, slot_id: int, slot_set: SlotSet[C]) -> None:
        self.id: int = slot_id
        self.slot_set: SlotSet[C] = slot_set
        self.state: State = CONNECTING
        #: The object that ``connect`` returned; present in the connected states and in CLOSING.
        self.connection: C | Any = None
        #: The detector's `health_generation` in which the slot was dialled.
        self.health_generation: int = 0
        #: The task that made the claim, while the slot is CLAIMED.
        self.holder: trio.lowlevel.Task | None = None
        #: The label of the claim that holds the slot, or held it last. Where connections that
        #: come back are looked at, the name of the task if the last claim had no label.
        self.label: str | None = None
        #: When the connection was established.
        self.created_at: float = NOT_YET
        #: When the connection was last used or checked. Kept up to date only where the
        #: connector can check idle connections, or idle ones expire.
        self.idle_since: float = NOT_YET
        #: When the connection was last checked out.
        self.claimed_at: float = NOT_YET
        #: The dates by which the connection is retired, where anything limits its life.
        self.expiry: Expiry | None = None

    def __repr__(self) -> str:
        return f"<slot {self.id} of {self.slot_set.backend.name}: {self.state.label}>"

    @property
    def connecting_since(self) -> float:
        """The time at which the dial that is under way began; `NOT_YET` if there is none."""
        return self.slot_set.dials.get(self, NOT_YET)

    @property
    def is_due(self) -> bool:
        """True if the connection should be replaced because of its age or use."""
        return self.expiry is not None and self.expiry.due is not None

    def renew_generation(self, generation: int) -> None:
        """Note that the dial, or the connection, has seen all failures so far."""
        self.health_generation = generation

    def attach(self, connection: C) -> None:
        """Keep what ``connect`` returned."""
        self.connection = connection

    def mark_connected(self, now: float) -> None:
        """Date a connection that has been established."""
        self.created_at = self.idle_since = now

    def mark_idle(self, now: float) -> None:
        """Date the last use or check of a connection."""
        self.idle_since = now

    def detach(self) -> None:
        """Forget a connection that is closed."""
        self.connection = None

    def begin_io(self, deadline: float = NOT_YET) -> trio.CancelScope:
        """Return a new scope for I/O on this slot, by which others can interrupt it."""
        scope = trio.CancelScope(deadline=deadline)
        self.slot_set.tasks.keep_scope(self, scope)
        return scope

    def end_io(self) -> None:
        """Forget the scope: no I/O is under way."""
        self.slot_set.tasks.drop_scope(self)

    def interrupt(self) -> None:
        """Cancel the I/O that is under way, if any is."""
        scope = self.slot_set.tasks.scope_of(self)
        if scope is not None:
            scope.cancel()


@final
@attrs.define(eq=False, repr=False)
class Shared(Generic[C]):
    """The parts of a pool that all its slot sets call."""

    totals: Totals
    timers: TimerQueue
    idle_index: IdleIndex[SlotSet[C]]
    events: Emitter
    next_slot_id: Callable[[], int]
    #: Starts the task of a slot set, for I/O. The lifecycle's.
    begin: Callable[[SlotSet[C]], None] = attrs.field(init=False)
    #: Forgets a slot set whose last slot has closed. The registry's.
    forget: Callable[[SlotSet[C]], None] = attrs.field(init=False)


@final
class SlotSet(SlotStates[Slot[C]], Generic[C]):
    """The slots of one backend, as the planner and the balancer see them."""

    __slots__ = (
        "_shared",
        "_weight_factor",
        "balancing_weight",
        "candidate",
        "check_at",
        "detector",
        "effective_weight",
        "ejector",
        "failed_claims",
        "failure_log",
        "is_hung",
        "is_reclaimable",
        "limit",
        "max_connecting",
        "needs_trial",
        "place",
        "priority",
        "probe",
        "rotation_key",
        "stale",
        "tally",
        "tasks",
        "timer_entry",
        "total_claims",
        "wanted",
        "was_online",
    )

    def __init__(
        self, backend: Backend, detector: FailureDetector, rotation_key: float, shared: Shared[C]
    ) -> None:
        super().__init__(shared.totals, shared.idle_index, shared.events)
        self._shared: Shared[C] = shared
        #: What is known of the backend's reliability.
        self.detector: FailureDetector = detector
        #: The connection of a failing backend that has to prove itself.
        self.probe: Slot[C] | None = None
        #: Idle connections that the peer has closed.
        self.stale: int = 0
        #: True if the backend has had a connection. The outcomes'.
        self.was_online: bool = False
        #: What was logged of the present outage. The outcomes'.
        self.failure_log: FailureLog | None = None
        #: The verdicts on the claims; `None` if ejection is off. The ejections'.
        self.ejector: Ejector | None = None
        #: The count of good claims: the ejector's, or one that nobody reads. The ejections'.
        self.tally: Tally = COUNTS_NOTHING
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
        self.tasks: SlotTasks[Slot[C]] = SlotTasks()
        #: When something is due on this set next. The timer queue's.
        self.timer_entry: TimerEntry | None = None
        #: When the next health check is due. The checker's.
        self.check_at: float = NOT_YET
        #: The part of the weight that the backend has for the balancer.
        self._weight_factor: float = 1.0
        self._describe(backend)

    def __repr__(self) -> str:
        return f"<slot set of {self.backend.name}>"

    def update(self, backend: Backend) -> None:
        """Adopt the priority, the weight and the target of an equal backend."""
        # The idle index keeps what follows from the weights until a set comes or goes.
        if self.idle_slots:
            self._idle_listener.remove(self)
        self._idle_index.forget(self)
        self._describe(backend)
        if self.idle_slots:
            self._idle_listener.add(self)

    def _describe(self, backend: Backend) -> None:
        self.backend: Backend = backend
        self.priority: int = backend.priority
        #: The weight by which connections are spread, and that by which claims are.
        self.effective_weight: float = effective_weight(backend.weight)
        self.balancing_weight: float = self.effective_weight * self._weight_factor
        if self.candidate is not None:
            self.candidate.note_weight()

    def scale_weight(self, factor: float) -> None:
        """Let the backend have only a part of its weight for the balancer."""
        self._weight_factor = factor
        self.update(self.backend)

    # Read by the planner and the balancer.

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
        if not self.is_hung or not self.dials:
            return self.detector.retry_at, 0
        return NOT_YET, next(iter(self.dials.values()))

    # Slots and counts.

    def order_dials(self, count: int) -> None:
        """Add `count` slots. Their dials begin by `take_orders`."""
        new = [Slot(self._shared.next_slot_id(), self) for _ in range(count)]
        self.add_dials(new)
        self.tasks.put_off(new)

    def begin_dial(self, slot: Slot[C], now: float) -> None:
        """Note when a dial begins, and which failures it cannot have seen."""
        slot.renew_generation(self.detector.health_generation)
        self.date_dial(slot, now)

    def take_orders(self, now: float) -> Sequence[Slot[C]]:
        """Return the slots whose dials can begin.

        During a back-off, none can. To keep a task for each would be a waste. So this
        set is due when it ends.
        """
        if self.detector.is_failing and self.detector.retry_at > now:
            self._schedule_retry()
            return ()
        return self.tasks.take_orders()

    def _schedule_retry(self) -> None:
        if self.tasks.has_waiting:
            self._shared.timers.add(self, self.detector.retry_at)

    def schedule(self, at: float) -> None:
        """Have what is due then begun at the time `at`."""
        self._shared.timers.add(self, at)

    def start_io(self, work: Work[Slot[C]], slot: Slot[C]) -> None:
        """Start I/O on a slot, in a task of this set."""
        if self.tasks.start(work, slot):
            self._shared.begin(self)

    def _end(self) -> None:
        self._shared.forget(self)

    def begin_probe(self, slot: Slot[C]) -> None:
        """Make a new connection the one that has to prove that a failing backend works.

        That it connected is news of now, whatever failed since the dial began.
        """
        slot.renew_generation(self.detector.health_generation)
        self.probe = slot

    def count_stale(self) -> None:
        """Count an idle connection that the peer has closed."""
        self.stale += 1

    def count_failed_claim(self) -> None:
        """Count a claim that ended badly."""
        self.failed_claims += 1

    def reschedule_back_off(self) -> None:
        """Let dials that wait for their back-off go by the present `retry_at`."""
        for slot, began in self.dials.items():
            scope = self.tasks.scope_of(slot)
            if began == NOT_YET and scope is not None:
                scope.deadline = self.detector.retry_at
        self._schedule_retry()

    def end_probe(self, slot: Slot[C]) -> bool:
        """Return True if `slot` was the probe; it is none any more."""
        was_probe = self.probe is slot
        if was_probe:
            self.probe = None
        return was_probe
