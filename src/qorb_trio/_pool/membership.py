"""`Roster`: takes over the sets of backends that the resolver sends.

It is what adds to `Core.sets` and takes from them: backends come, go, and change their
weights here. What their connections do then is `SlotSet`'s.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from typing import Generic, TypeVar, final

import trio

from .._claims.dispatcher import SLICE, Core
from .._model.backend import Backend
from .._slots.slot_set import SlotSet

logger = logging.getLogger("qorb_trio.pool")

C = TypeVar("C")


class NotABackendError(TypeError, ValueError):
    """What a resolver sent is no collection of backends.

    The wrong kind of thing, and like two backends of one name, a set that no resolver may
    send. This is both.
    """


@final
class Roster(Generic[C]):
    """The backends of one pool, as the resolver tells of them."""

    def __init__(self, core: Core[C]) -> None:
        self._core: Core[C] = core

    async def update(self, backends: Collection[Backend]) -> None:
        """Take over the resolver's latest set. Nothing happens if nothing changed.

        The old set gives way to the new one in one step; what that takes before and after
        is done in slices. A checkpoint only if there is more than one slice.
        """
        core = self._core
        if core.closing:
            return  # it was heard in the very tick in which the pool began to end
        found = _by_name(core.name, backends)
        leaving = [home for name, home in core.sets.items() if home.backend != found.get(name)]
        gone = {home.backend.name for home in leaving}
        staying = {name: home for name, home in core.sets.items() if name not in gone}
        for name, home in staying.items():
            self._describe(home, found[name])
        coming: list[SlotSet[C]] = []
        for name, backend in found.items():
            if name not in staying:
                coming.append(self._make_set(backend))
                if len(coming) % SLICE == 0:
                    await trio.lowlevel.checkpoint()
        if not (leaving or coming):
            return
        core.exchanging = True
        try:
            self._exchange(leaving, coming)
            await self._clear(leaving)
        finally:
            core.exchanging = False
            core.request_plan()

    def _exchange(self, leaving: list[SlotSet[C]], coming: list[SlotSet[C]]) -> None:
        """From here on nothing old is lent, and the new ones may be dialled."""
        for home in leaving:
            self._depart(home)
        for home in coming:
            self._arrive(home)
        self._core.rebalance_due = True

    async def _clear(self, leaving: list[SlotSet[C]]) -> None:
        """Close what sets have that have left."""
        done = 0
        for home in leaving:
            done += len(home.slots)
            home.clear()
            if not home.slots:
                self._core.slot_closed(home)
            if done >= SLICE:
                done = 0
                await trio.lowlevel.checkpoint()

    def _make_set(self, backend: Backend) -> SlotSet[C]:
        core = self._core
        home: SlotSet[C] = SlotSet(core, backend, core.next_rank())
        if core.hooks.checks and core.policy.set_config.health_interval < float("inf"):
            home.checker = trio.CancelScope()
            core.start(core.worker.keep_checking, home)
        return home

    def _arrive(self, home: SlotSet[C]) -> None:
        core, name = self._core, home.backend.name
        logger.info("pool %s: backend %s appears", core.name, name)
        core.sets[name] = home
        core.fire("backend_added", home.backend)

    def _depart(self, home: SlotSet[C]) -> None:
        core, name = self._core, home.backend.name
        logger.info("pool %s: backend %s departs", core.name, name)
        del core.sets[name]
        core.departed[home] = None
        home.deactivate()
        core.fire("backend_removed", home.backend)

    def _describe(self, home: SlotSet[C], backend: Backend) -> None:
        """Take over priority and weight. That is no change of the set: it closes nothing."""
        if (backend.priority, backend.weight) == (home.priority, home.backend.weight):
            return
        core = self._core
        if home.spares:
            core.shelf.remove(home)
        home.describe(backend)
        if home.spares:
            core.shelf.add(home)
        core.request_plan()


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
