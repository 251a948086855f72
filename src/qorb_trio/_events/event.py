"""What instruments are told, as records: `PoolEvent`, and the table of all events.

An instrument hears of single moments: a claim starts, a claim is done. `Correlator` is the
memory between them. It remembers when things began and to which backend a slot leads, for
as long as they last, and so adds the backend and the duration to each event. It imports no
trio: whoever tells it of an event tells it the time too.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final, final

import attrs

from .._model.backend import Backend


@final
@attrs.frozen(kw_only=True)
class PoolEvent:
    """One event of a pool, with all that is known about it.

    Made by an `EventInstrument`. What does not apply to an event, or is not known because
    the instrument was added after the beginning, is `None`.
    """

    name: str
    """The name of the method of `Instrument` that was called: ``"claim_done"``."""

    time: float
    """When, in Trio's time."""

    pool: str
    """The name of the pool."""

    claim_id: int | None = None
    """The number of the claim, of ``handle_returned`` too."""

    slot_id: int | None = None
    """The number of the slot."""

    backend: Backend | None = None
    """The backend, of every event that has a slot."""

    duration: float | None = None
    """Seconds since what this event ends has begun."""

    error: BaseException | None = None
    """Why it failed, of the events that tell of a failure."""

    old: str | None = None
    """The state that a slot leaves; of ``slot_state_change`` only."""

    new: str | None = None
    """The state that it enters."""

    def __str__(self) -> str:
        return " ".join([self.name, *(f"{name}={text}" for name, text in self._details())])

    def _details(self) -> Iterator[tuple[str, str]]:
        for name, value in self.as_dict().items():
            if name not in {"event", "time"}:
                text = f"{value:.6f}" if name == "duration" else str(value)
                yield name, repr(text) if " " in text else text

    def as_dict(self) -> dict[str, str | int | float]:
        """What is known, as plain values: for structured logs, for JSON.

        The keys are ``event``, ``time``, ``pool``, ``claim_id``, ``slot_id``, ``backend``
        (its name), ``duration``, ``error_type`` and ``error``, ``old`` and ``new``; those
        that do not apply are left out.
        """
        values: dict[str, Any] = {
            "event": self.name,
            "time": self.time,
            "pool": self.pool,
            "claim_id": self.claim_id,
            "slot_id": self.slot_id,
            "backend": None if self.backend is None else self.backend.name,
            "duration": self.duration,
            "error_type": None if self.error is None else type(self.error).__name__,
            "error": None if self.error is None else str(self.error),
            "old": self.old,
            "new": self.new,
        }
        return {name: value for name, value in values.items() if value is not None}


@final
@attrs.frozen
class Kind:
    """What one method of `Instrument` tells, and what it says of the time between events."""

    arguments: tuple[str, ...]
    """Those after the pool's name, as fields of `PoolEvent`."""
    begins: str | None = None
    """The span that begins with this event."""
    ends: str | None = None
    """The span that ends with this event; its length is the duration."""
    within: str | None = None
    """A span that goes on; its length so far is the duration."""


#: Every event. A span belongs to the first argument of the event, or to the pool.
KINDS: Final[Mapping[str, Kind]] = MappingProxyType(
    {
        "claim_start": Kind(("claim_id",), begins="claim"),
        "claim_done": Kind(("claim_id", "slot_id"), ends="claim"),
        "claim_failed": Kind(("claim_id", "error"), ends="claim"),
        "claim_acquire_failed": Kind(("claim_id", "slot_id", "error"), within="hold"),
        "connect_start": Kind(("slot_id", "backend"), begins="connect"),
        "connect_done": Kind(("slot_id", "backend"), ends="connect"),
        "connect_failed": Kind(("slot_id", "backend", "error"), ends="connect"),
        "handle_claimed": Kind(("claim_id", "slot_id", "backend"), begins="hold"),
        "handle_returned": Kind(("slot_id",), ends="hold"),
        "health_check_start": Kind(("slot_id", "backend"), begins="health_check"),
        "health_check_done": Kind(("slot_id",), ends="health_check"),
        "health_check_failed": Kind(("slot_id", "error"), ends="health_check"),
        "recycle_start": Kind(("slot_id", "backend"), begins="recycle"),
        "recycle_done": Kind(("slot_id",), ends="recycle"),
        "recycle_failed": Kind(("slot_id", "error"), ends="recycle"),
        "slot_set_online": Kind(("backend",), begins="online"),
        "slot_set_offline": Kind(("backend",), ends="online"),
        "slot_state_change": Kind(
            ("slot_id", "backend", "old", "new"), begins="state", ends="state"
        ),
        "rebalance_start": Kind((), begins="rebalance"),
        "rebalance_done": Kind((), ends="rebalance"),
        "backend_added": Kind(("backend",)),
        "backend_removed": Kind(("backend",)),
    }
)

#: What spans belong to: all others belong to a slot, and end with it at the latest.
OWNERS: Final[Mapping[str, str]] = MappingProxyType(
    {"claim": "claim_id", "online": "backend", "rebalance": "pool"}
)


@final
@attrs.define
class _Slot:
    """What is remembered of a slot until it is closed."""

    backend: Backend | None = None
    claim_id: int | None = None
    begun: dict[str, float] = attrs.field(factory=dict)


@final
class Correlator:
    """Turns calls of an instrument's methods into `PoolEvent` records.

    What it remembers is bounded by what is going on: a claim is forgotten when it is done
    or has failed, a slot when it is closed, a backend when it is offline.
    """

    def __init__(self) -> None:
        self._slots: dict[tuple[str, int], _Slot] = {}
        self._begun: dict[tuple[str, str, Hashable], float] = {}

    def __len__(self) -> int:
        """How much is remembered now: claims, slots, backends and plans."""
        return len(self._slots) + len(self._begun)

    def record(self, name: str, time: float, pool: str, *args: object) -> PoolEvent:
        """An event, with what is known of it. To be called for every event, in order."""
        kind = KINDS[name]
        fields: dict[str, Any] = dict(zip(kind.arguments, args, strict=True))
        fields["pool"] = pool
        slot: _Slot | None = None
        if (slot_id := fields.get("slot_id")) is not None:
            slot = self._slots.get((pool, slot_id))
            if slot is None:
                slot = self._slots[pool, slot_id] = _Slot()
            slot.backend = fields.setdefault("backend", slot.backend)
            if kind.begins == "hold":
                slot.claim_id = fields["claim_id"]
            fields.setdefault("claim_id", slot.claim_id)
        if (ends := kind.ends) is not None:
            fields["duration"] = self._since(ends, fields, slot, time, forget=True)
        elif (within := kind.within) is not None:
            fields["duration"] = self._since(within, fields, slot, time, forget=False)
        if (begins := kind.begins) is not None:
            self._begin(begins, fields, slot, time)
        if slot is not None:
            if ends == "hold":
                slot.claim_id = None
            if fields.get("new") == "closed":
                del self._slots[pool, fields["slot_id"]]
        return PoolEvent(name=name, time=time, **fields)

    def _begin(self, span: str, fields: Mapping[str, Any], slot: _Slot | None, time: float) -> None:
        if (owner := OWNERS.get(span)) is not None:
            self._begun[fields["pool"], span, fields[owner]] = time
            return
        assert slot is not None
        slot.begun[span] = time
        if span == "connect":
            # No event tells that a slot was opened: this is the first that is heard of it.
            slot.begun.setdefault("state", time)

    def _since(
        self, span: str, fields: Mapping[str, Any], slot: _Slot | None, time: float, *, forget: bool
    ) -> float | None:
        """How long ago a span began, if that was heard."""
        begun: dict[Any, float] = self._begun
        key: Hashable = span
        if (owner := OWNERS.get(span)) is not None:
            key = fields["pool"], span, fields[owner]
        else:
            assert slot is not None
            begun = slot.begun
        since = begun.pop(key, None) if forget else begun.get(key)
        return None if since is None else time - since
