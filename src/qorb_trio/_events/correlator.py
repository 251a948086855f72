"""`Correlator`: the memory between the events of a pool.

It remembers when spans began and to which backend a slot leads, for as long as they last,
and so adds the backend and the duration to each event. It imports no trio: its caller passes
the time of each event.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, TypeAlias, final

import attrs

from .._model.backend import Backend
from .event import EVENT_SPECS, SPAN_KEYS, EventSpec, PoolEvent

_Fields: TypeAlias = "dict[str, Any]"


@final
@attrs.define(eq=False, repr=False)
class _SlotMemory:
    """The facts about one slot that are kept until it is closed."""

    backend: Backend | None = None
    claim_id: int | None = None
    begun: dict[Hashable, float] = attrs.field(factory=dict)


@final
class Correlator:
    """Turns calls of an instrument's methods into `PoolEvent` records.

    Its memory is bounded by what is going on: a claim is forgotten when it is done or has
    failed, a slot when it is closed, a backend when it is offline and not ejected.
    """

    def __init__(self) -> None:
        self._slots: dict[tuple[str, int], _SlotMemory] = {}
        self._begun: dict[Hashable, float] = {}

    def __len__(self) -> int:
        """Return the number of claims, slots, backends and plans that are remembered."""
        return len(self._slots) + len(self._begun)

    def record(self, name: str, time: float, pool: str, *args: object) -> PoolEvent:
        """Return the record of an event. Call it for every event, in order."""
        spec = EVENT_SPECS[name]
        fields: _Fields = dict(zip(spec.arguments, args, strict=True), pool=pool)
        slot = self._recall_slot(spec, fields)
        duration = self._measure(spec, fields, slot, time)
        if duration is not None:
            fields["duration"] = duration
        if (begins := spec.begins) is not None:
            self._begin(begins, fields, slot, time)
        if slot is not None:
            if spec.ends == "hold":
                slot.claim_id = None
            if fields.get("new") == "closed":
                del self._slots[pool, fields["slot_id"]]
        return PoolEvent(name=name, time=time, **fields)

    def _recall_slot(self, spec: EventSpec, fields: _Fields) -> _SlotMemory | None:
        """Add the backend and the claim of the event's slot; return the slot, if there is one."""
        slot_id = fields.get("slot_id")
        if slot_id is None:
            return None
        key = fields["pool"], slot_id
        slot = self._slots.get(key)
        if slot is None:
            slot = _SlotMemory()
            if spec.begins is not None:
                # Other events may come after the slot was closed, which ends its memory.
                self._slots[key] = slot
        slot.backend = fields.setdefault("backend", slot.backend)
        if spec.begins == "hold":
            slot.claim_id = fields["claim_id"]
        fields.setdefault("claim_id", slot.claim_id)
        return slot

    def _measure(
        self, spec: EventSpec, fields: _Fields, slot: _SlotMemory | None, time: float
    ) -> float | None:
        """Return the event's duration, if its span is known, and forget spans that end."""
        if (forgets := spec.forgets) is not None:
            self._find(forgets, fields, slot, forget=True)
        if (span := spec.ends or spec.within) is None:
            return None
        since = self._find(span, fields, slot, forget=spec.ends is not None)
        return None if since is None else time - since

    def _begin(self, span: str, fields: _Fields, slot: _SlotMemory | None, time: float) -> None:
        begun, key = self._place(span, fields, slot)
        # A backend that is ejected again before it is restored stays ejected since the first.
        begun.setdefault(key, time)
        if span == "connect":
            # No event tells that a slot was opened: this is its first event.
            begun.setdefault("state", time)

    def _find(
        self, span: str, fields: _Fields, slot: _SlotMemory | None, *, forget: bool
    ) -> float | None:
        """Return the time at which a span began, if that event was recorded."""
        begun, key = self._place(span, fields, slot)
        return begun.pop(key, None) if forget else begun.get(key)

    def _place(
        self, span: str, fields: Mapping[str, Any], slot: _SlotMemory | None
    ) -> tuple[dict[Hashable, float], Hashable]:
        """Return the table in which a span is kept, and its key there."""
        if (owner := SPAN_KEYS.get(span)) is not None:
            return self._begun, (fields["pool"], span, fields[owner])
        assert slot is not None
        return slot.begun, span
