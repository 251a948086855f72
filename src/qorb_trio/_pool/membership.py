"""`Membership`: adopts the sets that the resolver sends, and activates backends of them.

Of a few backends, all are active: each has a slot set. Of thousands, the planner's task has
`ActiveSet` choose some before each plan. `KnownBackends` holds the others.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence, Sized
from typing import Generic, TypeVar, final

import attrs
import trio

from .._connections.closer import Closer
from .._connections.ejections import Ejections
from .._connections.maintenance import Maintenance
from .._events.emitter import Emitter
from .._health.detector import FailureDetector
from .._model.backend import Backend, effective_weight
from .._model.settings import Settings
from .._phases import Phases
from .._planning.active_set import ActiveSet
from .._planning.known import KnownBackends
from .._planning.newcomers import Newcomers
from .._planning.next_set import TwinBackendsError
from .._planning.rotation import RotationOrder, last_holder_key, last_holder_keys
from .._planning.selection import ALL_ACTIVE, Change
from .._planning.targets import Targets
from .._slots.registry import Registry
from .._slots.slot_set import Shared, SlotSet
from .._util import log_safely, printable
from .plan_requests import PlanRequests

logger = logging.getLogger("qorb_trio.pool")

C = TypeVar("C")

#: Backends that are added, or slots that are opened or closed, in one go before all other tasks
#: have their turn. A slot takes some 100 µs with all steps of its dial, and those of several
#: batches fall into the same pass of the loop.
BATCH_SIZE = 20

#: Of backends that leave together, this many slots are closed before the first plan for those
#: that come. It needs the room, and claims wait for it; to close thousands takes 50 ms.
CLOSED_FIRST = 100

#: The others are closed in batches of this size: to close a slot takes less than half as long
#: as to dial one.
LARGE_BATCH_SIZE = 50

#: Of a first set of more backends than this, some are used before all have been read. To read
#: a million takes several seconds.
LARGE_SET = 20_000

#: The number of those backends.
SAMPLE_SIZE = 1000

#: The largest part of ``rebalance_interval`` by which a turn makes the next one late.
MAX_TURN_DELAY = 0.1

#: Up to this number of active backends, a failure looks at all of them.
FEW_ACTIVE = 200


class NotABackendError(TypeError, ValueError):
    """A set from a resolver that is no collection of backends.

    It has the wrong type. Like two backends of one name, it is also a value that no
    resolver may send. So this is both kinds of error.
    """


@final
@attrs.define(eq=False, repr=False)
class Membership(Generic[C]):
    """The backends of one pool, as the resolver names them."""

    _pool: str
    _settings: Settings
    _events: Emitter
    _rng: random.Random
    _shared: Shared[C]
    _registry: Registry[C]
    _closer: Closer[C]
    _ejections: Ejections[C]
    _maintenance: Maintenance[C]
    _targets: Targets
    _requests: PlanRequests
    _order: RotationOrder = attrs.field(init=False)
    #: All backends, active or not.
    known: KnownBackends = attrs.field(init=False)
    _active_set: ActiveSet[SlotSet[C]] = attrs.field(init=False)
    #: The largest keys of holders as of the last plan, by priority, where many are active.
    _last_keys: dict[int, float] = attrs.field(init=False, factory=dict)
    _newcomers: Newcomers[SlotSet[C]] = attrs.field(init=False, factory=Newcomers)
    #: True while chosen backends are being activated.
    _is_choosing: bool = attrs.field(init=False, default=False)
    #: Returns how many connections the next plan will want. The rebalancer's.
    count_wanted: Callable[[], int] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._order = RotationOrder(self._rng.getrandbits(64))
        self.known = KnownBackends(self._order)
        self._active_set = ActiveSet(self.known)

    # A new set, in the pool's main task.

    async def update(self, backends: Collection[Backend]) -> None:
        """Adopt the resolver's latest set. Nothing happens if nothing changed.

        The new set replaces the old one in one step. The work before and after that is done
        in batches. A checkpoint only if there is more than one batch.
        """
        if self._requests.is_closed:
            return  # it came in the very tick in which the pool began to end
        if not len(self.known) and (sample := self._sample(backends)):
            await self._read(sample)
            await self._adopt()
        await self._read(backends)
        await self._adopt()
        for _ in self.known.tidy():
            await trio.lowlevel.checkpoint()

    def _sample(self, backends: object) -> list[object]:
        """Return backends with which to begin while the rest of a large first set is read.

        They are chosen by chance. The first ones of the set would be the same for all clients.
        """
        if not isinstance(backends, Sequence) or len(backends) <= LARGE_SET:
            return []
        places = sorted(self._rng.sample(range(len(backends)), SAMPLE_SIZE))
        return [backends[place] for place in places]

    async def _adopt(self) -> None:
        """Let the set that was read take the place of the one before."""
        if self._requests.is_closed:
            return  # the pool has begun to end while the set was read
        replacement = self.known.replace()
        for backend in replacement.changed:
            self._update_weights(backend)
        coming: list[Backend] = []
        if len(self.known) <= ALL_ACTIVE:
            coming = self.known.activate_all()
        if replacement.removed or coming or self.known.has_inactive:
            with self._requests.paused():
                leaving = await self._exchange(replacement.removed, coming)
                await self.choose_active()
                rest = await self._clear(leaving, BATCH_SIZE, CLOSED_FIRST)
            if rest:
                with self._requests.paused():
                    await self._clear(rest, LARGE_BATCH_SIZE)

    async def _read(self, backends: object) -> None:
        size = len(backends) if isinstance(backends, Sized) else 0
        try:
            for _ in self.known.read(self._checked(backends), size):
                await trio.lowlevel.checkpoint()
        except TwinBackendsError as exc:
            raise ValueError(f"pool {self._pool!r}: the resolver sent {exc}") from None

    def _checked(self, backends: object) -> Iterator[Backend]:
        if not isinstance(backends, Iterable):
            raise NotABackendError(
                f"pool {self._pool!r}: the resolver sent {backends!r}, which is no collection"
            )
        for backend in backends:
            if not isinstance(backend, Backend):
                raise NotABackendError(
                    f"pool {self._pool!r}: the resolver sent {backend!r}, which is not a Backend"
                )
            yield backend

    async def _exchange(
        self, removed: Sequence[Backend], coming: Sequence[Backend]
    ) -> list[SlotSet[C]]:
        """Lend nothing old from here on; the new backends may be dialled.

        In one step, unless hundreds of backends are removed. Return the sets that have left.
        """
        leaving: list[SlotSet[C]] = []
        for count, backend in enumerate(removed, 1):
            slot_set = self._registry.active.get(backend.name)
            if slot_set is not None and slot_set.backend == backend:
                leaving.append(slot_set)
                self._remove(slot_set, "pool %s: backend %s is removed")
            if count % FEW_ACTIVE == 0:
                await trio.lowlevel.checkpoint()
        self._hold_back([self._add(backend) for backend in coming])
        if leaving or coming:
            self._targets.request_rebalance()
        return leaving

    def _hold_back(self, newcomers: Sequence[SlotSet[C]]) -> None:
        """Let at most one of the newcomers take the place of another backend now."""
        if len(newcomers) > 1:
            held = self._newcomers.hold_back(newcomers, [*self._registry.active.values()])
            for slot_set, key in held:
                slot_set.rotation_key = key

    def admit_newcomer(self) -> bool:
        """Let the next backend that was held back take its place; return True if there is one."""
        admitted = self._newcomers.admit()
        if admitted is None:
            return False
        slot_set, key = admitted
        slot_set.rotation_key = key
        return True

    async def _clear(
        self, leaving: Sequence[SlotSet[C]], batch_size: int, most: float = math.inf
    ) -> Sequence[SlotSet[C]]:
        """Close the connections of sets that have left, about `most`. Return the other sets."""
        done = batch = 0
        for count, slot_set in enumerate(leaving, 1):
            batch += len(slot_set.slots)
            self._closer.clear(slot_set)
            if batch >= batch_size:
                done, batch = done + batch, 0
                await trio.lowlevel.checkpoint()
            if done >= most:
                return leaving[count:]
        return []

    def _update_weights(self, backend: Backend) -> None:
        """Adopt priority, weight and target. That is no change of the set: it closes nothing."""
        slot_set = self._registry.active.get(backend.name)
        if slot_set is not None:
            slot_set.update(backend)
            self._requests.request()

    # The active backends.

    async def choose_active(self, *, is_turn: bool = False) -> None:
        """Activate and deactivate backends, if more are known than are active.

        For a new set, and before each plan. No checkpoint unless many are activated.
        """
        # The planner's task may come while the main task is in a pause here, or vice versa.
        if not self.known.has_inactive or self._is_choosing or self._requests.is_closed:
            return
        self._is_choosing = True
        try:
            change = self._choose(is_turn=is_turn)
            await self._apply(change)
            while change.is_partial and not self._requests.is_closed:
                change = self._active_set.proceed()
                await self._apply(change)
        finally:
            self._is_choosing = False

    def _choose(self, *, is_turn: bool) -> Change[SlotSet[C]]:
        views = [it for it in self._registry.active.values() if self.known.is_active(it.backend)]
        wanted, max_slots = self.count_wanted(), self._settings.policy.max_slots
        if is_turn:
            return self._active_set.turn(views, wanted, max_slots)
        return self._active_set.update(views, wanted, max_slots, trio.current_time())

    async def _apply(self, change: Change[SlotSet[C]]) -> None:
        for slot_set in change.deactivate:
            self._remove(slot_set, "pool %s: backend %s is not used any more for now")
            self._closer.clear(slot_set)
        for count, backend in enumerate(change.activate, 1):
            # In a pause, another set may have come.
            current = self.known.active_backend(backend.name)
            if current is not None and current == backend:
                self._add(current, change.first_delay)
            if count % BATCH_SIZE == 0:
                await trio.lowlevel.cancel_shielded_checkpoint()
                if self._requests.is_closed:
                    return

    def end_turn(self, slot_set: SlotSet[C]) -> float:
        """Give a backend that has had its turn another place in the order of backends.

        Return the part of the interval by which the next turn is late, so that the turns of
        many clients that started together drift apart.
        """
        backend = slot_set.backend.name
        self._newcomers.forget(slot_set)
        slot_set.rotation_key = self._order.end_turn(backend, slot_set.effective_weight)
        return self._rng.uniform(0.0, MAX_TURN_DELAY)

    def remember_holders(self, views: Sequence[SlotSet[C]]) -> Phases[None]:
        """Note, where many backends are active, which of the present holders are last."""
        if len(views) > FEW_ACTIVE:
            self._last_keys = yield from last_holder_keys(views)

    def demote(self, slot_set: SlotSet[C]) -> None:
        """Place a backend that has failed behind those that hold connections."""
        name, weight = slot_set.backend.name, slot_set.effective_weight
        active = self._registry.active
        if len(active) > FEW_ACTIVE:
            last = self._last_keys.get(slot_set.priority, 0.0)
        else:
            last = last_holder_key(active.values(), slot_set.priority)
        self._newcomers.forget(slot_set)
        slot_set.rotation_key = self._order.postpone(name, weight, last)

    # One slot set.

    def _add(self, backend: Backend, first_delay: float = 0.0) -> SlotSet[C]:
        """Activate a backend: make its slot set."""
        detector = FailureDetector(self._settings.set_config, self._rng, first_delay)
        key = self._order.key(backend.name, effective_weight(backend.weight))
        slot_set = SlotSet(backend, detector, key, self._shared)
        self._ejections.enroll(slot_set)
        self._log("pool %s: backend %s is added", backend)
        self._registry.add(slot_set)
        if (emit := self._events.backend_added) is not None:
            emit(backend)
        return slot_set

    def _remove(self, slot_set: SlotSet[C], message: str) -> None:
        backend = slot_set.backend
        self._log(message, backend)
        self._newcomers.forget(slot_set)
        self._registry.drain(slot_set)
        slot_set.deactivate()
        self._ejections.forget(slot_set)
        self._maintenance.forget(slot_set)
        if (emit := self._events.backend_removed) is not None:
            emit(backend)

    def _log(self, message: str, backend: Backend) -> None:
        if not logger.isEnabledFor(logging.INFO):
            return
        pool, name = printable(self._pool), printable(backend.name)
        log_safely(logger, logging.INFO, message, pool, name)
