"""`SlotSet`: all slots of one backend, their states and their counts.

The one writer of its slots' states. Everything in here is synchronous; the I/O on its
connections is done in `_connections`, by the tasks of the slot set's own nursery.
"""

from __future__ import annotations

import contextvars
import functools
import math
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar, final

import attrs
import trio

from .._model.backend import Backend, effective_weight
from .cancellation import is_cancellation
from .slot import NOT_YET, Slot
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
    from .._health.failure_log import FailureLog
    from .totals import Totals

C = TypeVar("C")


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
        "_context",
        "_events",
        "_idle_index",
        "_next_slot_id",
        "_nursery",
        "_on_crash",
        "_orders",
        "_totals",
        "backend",
        "candidate",
        "claimed",
        "connected",
        "detector",
        "dials",
        "drained",
        "effective_weight",
        "failure_log",
        "idle_slots",
        "is_active",
        "is_ejected",
        "is_hung",
        "is_reclaimable",
        "limit",
        "max_connecting",
        "orders",
        "place",
        "priority",
        "probe",
        "retiring",
        "retiring_idle",
        "rotation_key",
        "scope",
        "slots",
        "stale",
        "total_claims",
        "wanted",
    )

    def __init__(
        self, backend: Backend, detector: FailureDetector, rotation_key: float, shared: Shared[C]
    ) -> None:
        self._totals: Totals = shared.totals
        self._idle_index: IdleIndex[SlotSet[C]] = shared.idle_index
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
        #: Connections that are due for replacement, and those of them that are idle.
        self.retiring: int = 0
        self.retiring_idle: int = 0
        #: Idle connections that the peer has closed.
        self.stale: int = 0
        #: What was logged of the present outage. The outcomes'.
        self.failure_log: FailureLog | None = None
        #: True while the backend gets no claims, because its claims kept failing.
        self.is_ejected: bool = False
        #: Claims granted on this backend.
        self.total_claims: int = 0
        # The index's: the place in its tier, and the candidate that stands for this set.
        self.place: int = -1
        self.candidate: IdleCandidate[Any] | None = None
        # The rebalancer's, as of its last plan.
        self.is_hung: bool = False
        self.is_reclaimable: bool = False
        self.limit: int = 0
        self.max_connecting: float = math.inf
        self.wanted: int = 0
        self.rotation_key: float = rotation_key
        # The task's of this slot set.
        self._nursery: trio.Nursery | None = None
        self._on_crash: Callable[[BaseException], None]
        self._context: contextvars.Context | None = None
        #: Encloses all I/O of this set but closing; cancelled when the backend leaves.
        self.scope: trio.CancelScope = trio.CancelScope()
        #: Set when the last slot has closed after `deactivate`.
        self.drained: trio.Event = trio.Event()
        self._orders: trio.MemorySendChannel[list[Slot[C]]]
        #: New slots to be dialled, for the task of this slot set to receive.
        self.orders: trio.MemoryReceiveChannel[list[Slot[C]]]
        self._orders, self.orders = trio.open_memory_channel[list[Slot[C]]](math.inf)
        self._describe(backend)

    def __repr__(self) -> str:
        return f"<slot set of {self.backend.name}>"

    def update(self, backend: Backend) -> None:
        """Adopt the priority, the weight and the target of an equal backend."""
        if self.idle_slots:
            self._idle_index.remove(self)
        self._describe(backend)
        if self.idle_slots:
            self._idle_index.add(self)

    def _describe(self, backend: Backend) -> None:
        self.backend: Backend = backend
        self.priority: int = backend.priority
        self.effective_weight: float = effective_weight(backend.weight)

    # Read by the planner and the balancer.

    @property
    def load(self) -> int:
        return self.claimed

    @property
    def idle(self) -> int:
        return len(self.idle_slots)

    @property
    def connecting(self) -> int:
        return len(self.dials)

    @property
    def checking(self) -> int:
        return self.connected - len(self.idle_slots) - self.claimed

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
    def oldest_dial(self) -> Slot[C] | None:
        return next(iter(self.dials), None)

    @property
    def probe_order(self) -> tuple[float, float]:
        # A hung backend is probed after all others that are due. Among hung ones, the one with
        # the oldest dial comes first, because its dial is the next to end.
        oldest = self.oldest_dial
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
        self._orders.send_nowait(new)

    def wake(self) -> None:
        """Have the task of this slot set look again at what is due."""
        self._orders.send_nowait([])

    def begin_dial(self, slot: Slot[C], now: float) -> None:
        """Date a dial, and note which failures it cannot have seen."""
        slot.health_generation = self.detector.health_generation
        slot.connecting_since = now

    def attach(self, slot: Slot[C], connection: C) -> None:
        """Keep what ``connect`` returned."""
        slot.connection = connection

    def mark_connected(self, slot: Slot[C], now: float, *, probe: bool) -> None:
        """Date a connection that has been established.

        `probe`: the backend was failing, so this connection is the one to prove it works. That
        it connected is news of now, whatever failed since the dial began.
        """
        slot.connecting_since = NOT_YET
        slot.created_at = slot.idle_since = now
        if probe:
            slot.health_generation = self.detector.health_generation
            self.probe = slot

    def mark_idle(self, slot: Slot[C], now: float) -> None:
        """Date the last use or check of a connection."""
        slot.idle_since = now

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

    def detach(self, slot: Slot[C]) -> None:
        """Forget a connection that is closed."""
        slot.connection = None

    # Idle slots.

    def push_idle(self, slot: Slot[C]) -> None:
        """Make a connection a spare."""
        if not self.idle_slots:
            self._idle_index.add(self)
        self.idle_slots.append(slot)
        if slot.state is CLAIMED and self._events.slot_state_change is None:
            # Fast path: `transition` for CLAIMED to UNCLAIMED, without its call.
            slot.state = UNCLAIMED
            self.claimed -= 1
            self._totals.claimed -= 1
        else:
            self.transition(slot, UNCLAIMED)

    def pop_idle(self) -> Slot[C]:
        """Check out the spare that was used last, which is the likeliest to be alive."""
        slot = self.idle_slots.pop()
        if not self.idle_slots:
            self._idle_index.remove(self)
        if self._events.slot_state_change is None:
            # Fast path: `transition` for UNCLAIMED to CLAIMED, without its call.
            slot.state = CLAIMED
            self.claimed += 1
            self._totals.claimed += 1
        else:
            self.transition(slot, CLAIMED)
        return slot

    def pop_oldest_idle(self) -> Slot[C]:
        """Take the spare that has been idle for longest out of the idle ones."""
        slot = self.idle_slots.popleft()
        if not self.idle_slots and self.is_active:
            self._idle_index.remove(self)
        return slot

    def remove_idle(self, slot: Slot[C]) -> None:
        """Take one spare out of the idle ones; the longest idle one costs least."""
        self.idle_slots.remove(slot)
        if not self.idle_slots:
            self._idle_index.remove(self)

    # The rebalancer's view, and its plan.

    def set_hung(self, is_hung: bool) -> None:
        """Note whether a dial takes suspiciously long, as of now."""
        self.is_hung = is_hung

    def set_limits(self, limit: int, max_connecting: float) -> None:
        """Set the maximum number of slots, closing ones included, and of concurrent dials."""
        self.limit = limit
        self.max_connecting = max_connecting

    def set_rotation_key(self, key: float) -> None:
        """Set the place in the order in which backends get slots."""
        self.rotation_key = key

    def adopt_plan(self, wanted: int, *, reclaimable: bool) -> None:
        """Adopt what the last plan says of this backend.

        `reclaimable`: the next connection that comes back may be closed to make room.
        """
        self.wanted = wanted
        self.is_reclaimable = reclaimable

    # Tasks, and the end.

    def open(self, nursery: trio.Nursery, on_crash: Callable[[BaseException], None]) -> None:
        """Set the nursery in which the I/O of this set runs: its task has begun.

        `on_crash` is called at once when a task in it crashes: the nursery itself ends only
        when all claims on this backend have ended.
        """
        self._nursery = nursery
        self._on_crash = on_crash
        self._context = contextvars.copy_context()

    def start(self, work: Callable[[Slot[C]], Awaitable[None]], slot: Slot[C]) -> None:
        """Start a task for I/O on a slot.

        It runs in the context variables of this set's task, never in a claimant's.
        """
        assert self._nursery is not None
        assert self._context is not None
        start_soon = self._nursery.start_soon
        self._context.run(functools.partial(start_soon, self._guard, work, slot, name=work))

    @trio.lowlevel.enable_ki_protection
    async def _guard(self, work: Callable[[Slot[C]], Awaitable[None]], slot: Slot[C]) -> None:
        try:
            await work(slot)
        except BaseException as exc:
            if not is_cancellation(exc):
                self._on_crash(exc)
            raise

    def deactivate(self) -> None:
        """Lend nothing from here any more: the backend has left, or the pool ends."""
        if not self.is_active:
            return
        self.is_active = False
        if self.idle_slots:
            self._idle_index.remove(self)
        if not self.slots:
            self.drained.set()
