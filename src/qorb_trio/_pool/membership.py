"""`Membership`: adopts the sets of backends that the resolver sends."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Collection, Iterable
from typing import Generic, TypeVar, final

import attrs
import trio

from .._connections.closer import Closer
from .._connections.ejections import Ejections
from .._events.emitter import Emitter
from .._health.detector import FailureDetector
from .._model.backend import Backend, effective_weight
from .._model.settings import Settings
from .._planning.rotation import RotationOrder, last_holder_key
from .._planning.targets import Targets
from .._slots.registry import Registry
from .._slots.slot_set import Shared, SlotSet
from .._util import log_safely, printable
from .plan_requests import PlanRequests

logger = logging.getLogger("qorb_trio.pool")

C = TypeVar("C")


#: Backends that are added, or slots that are opened or closed, in one go before all other tasks
#: have their turn. A slot takes some 20 µs, the first step of its dial included.
BATCH_SIZE = 50


class NotABackendError(TypeError, ValueError):
    """A set from a resolver that is no collection of backends.

    It has the wrong type. Like two backends of one name, it is also a value that no
    resolver may send. So this is both kinds of error.
    """


@final
@attrs.define(kw_only=True, eq=False)
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
    _targets: Targets
    _requests: PlanRequests
    _order: RotationOrder = attrs.field(init=False)
    #: Starts the task of a slot set. The lifecycle's.
    start: Callable[[SlotSet[C]], None] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._order = RotationOrder(self._rng.getrandbits(64))

    async def update(self, backends: Collection[Backend]) -> None:
        """Adopt the resolver's latest set. Nothing happens if nothing changed.

        The new set replaces the old one in one step. The work before and after that is done
        in batches. A checkpoint only if there is more than one batch.
        """
        if self._requests.is_closed:
            return  # it came in the very tick in which the pool began to end
        found = _by_name(self._pool, backends)
        active = self._registry.active
        leaving = [it for name, it in active.items() if it.backend != found.get(name)]
        gone = {slot_set.backend.name for slot_set in leaving}
        for name, slot_set in active.items():
            if name not in gone:
                self._update_weights(slot_set, found[name])
        coming = await self._make_sets(
            [backend for name, backend in found.items() if name in gone or name not in active]
        )
        if leaving or coming:
            with self._requests.paused():
                self._exchange(leaving, coming)
                await self._clear(leaving)

    async def _make_sets(self, backends: list[Backend]) -> list[SlotSet[C]]:
        slot_sets = []
        for backend in backends:
            slot_sets.append(self._make_set(backend))
            if len(slot_sets) % BATCH_SIZE == 0:
                await trio.lowlevel.checkpoint()
        return slot_sets

    def _make_set(self, backend: Backend) -> SlotSet[C]:
        detector = FailureDetector(self._settings.set_config, self._rng)
        key = self._order.key(backend.name, effective_weight(backend.weight))
        slot_set = SlotSet(backend, detector, key, self._shared)
        self._ejections.enroll(slot_set)
        return slot_set

    def end_turn(self, slot_set: SlotSet[C]) -> None:
        """Give a backend that has had its turn another place in the order of backends."""
        backend = slot_set.backend.name
        slot_set.rotation_key = self._order.end_turn(backend, slot_set.effective_weight)

    def demote(self, slot_set: SlotSet[C]) -> None:
        """Place a backend that has failed behind those that hold connections."""
        name, weight = slot_set.backend.name, slot_set.effective_weight
        last = last_holder_key(self._registry.active.values(), slot_set.priority)
        slot_set.rotation_key = self._order.postpone(name, weight, last)

    def _exchange(self, leaving: list[SlotSet[C]], coming: list[SlotSet[C]]) -> None:
        """Lend nothing old from here on; the new backends may be dialled."""
        if self._requests.is_closed:
            return  # the pool has begun to end while the new sets were made
        for slot_set in leaving:
            self._remove(slot_set)
        for slot_set in coming:
            self._add(slot_set)
        self._targets.request_rebalance()

    async def _clear(self, leaving: list[SlotSet[C]]) -> None:
        """Close the connections of sets that have left."""
        done = 0
        for slot_set in leaving:
            done += len(slot_set.slots)
            self._closer.clear(slot_set)
            if done >= BATCH_SIZE:
                done = 0
                await trio.lowlevel.checkpoint()

    def _log(self, message: str, backend: Backend) -> None:
        pool, name = printable(self._pool), printable(backend.name)
        log_safely(logger, logging.INFO, message, pool, name)

    def _add(self, slot_set: SlotSet[C]) -> None:
        backend = slot_set.backend
        self._log("pool %s: backend %s is added", backend)
        self._registry.add(slot_set)
        self.start(slot_set)
        if (emit := self._events.backend_added) is not None:
            emit(backend)

    def _remove(self, slot_set: SlotSet[C]) -> None:
        backend = slot_set.backend
        self._log("pool %s: backend %s is removed", backend)
        self._registry.drain(slot_set)
        slot_set.deactivate()
        self._ejections.forget(slot_set)
        if (emit := self._events.backend_removed) is not None:
            emit(backend)

    def _update_weights(self, slot_set: SlotSet[C], backend: Backend) -> None:
        """Adopt priority, weight and target. That is no change of the set: it closes nothing."""
        old = slot_set.backend
        if (backend.priority, backend.weight, backend.target) != (
            old.priority,
            old.weight,
            old.target,
        ):
            slot_set.update(backend)
            self._requests.request()


def _by_name(pool: str, backends: Collection[Backend]) -> dict[str, Backend]:
    if not isinstance(backends, Iterable):
        raise NotABackendError(
            f"pool {pool!r}: the resolver sent {backends!r}, which is no collection"
        )
    found: dict[str, Backend] = {}
    for backend in backends:
        if not isinstance(backend, Backend):
            raise NotABackendError(
                f"pool {pool!r}: the resolver sent {backend!r}, which is not a Backend"
            )
        known = found.setdefault(backend.name, backend)
        if known != backend:
            raise ValueError(
                f"pool {pool!r}: the resolver sent two backends named"
                f" {backend.name!r}: {known.address!r} and {backend.address!r}"
            )
    return found
