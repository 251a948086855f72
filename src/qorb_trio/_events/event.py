"""`PoolEvent`, the record of one event, and the table of all events.

An instrument learns of single moments: a claim starts, a claim is done. `EVENT_SPECS` says
which arguments each event has, and which spans of time it begins and ends. The correlator
(`_events/correlator.py`) uses the table to fill in a record.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final, final

import attrs
import trio

from .._model.backend import Backend
from .._util import printable, safe_str


def is_abandonment(error: BaseException | None) -> bool:
    """Return True if an event's error tells that the work was abandoned, not that it failed.

    Claims that are cancelled, and dials and checks that the pool gives up because it does
    not need them any more, end with an error too. Monitoring should not count those as
    failures.

    Args:
      error: the ``reason`` of an `Instrument` method, or the ``error`` of a `PoolEvent`.

    Returns:
      True for a `trio.Cancelled`, and for the pool's own `ConnectionAbortedError`, which has
      no ``errno``. A `ConnectionAbortedError` of the operating system is a failure. False
      for `None`.
    """
    if isinstance(error, trio.Cancelled):
        return True
    return type(error) is ConnectionAbortedError and error.errno is None


@final
@attrs.frozen(kw_only=True)
class PoolEvent:
    """One event of a pool, with everything that is known about it.

    Made by an `EventInstrument`. An attribute is `None` if it does not apply to the event,
    or if it is unknown because the instrument was added after the beginning.
    """

    name: str
    """The name of the `Instrument` method that was called, for example ``"claim_done"``."""

    time: float
    """The time of the event on Trio's clock, in seconds."""

    pool: str
    """The name of the pool."""

    claim_id: int | None = None
    """The number of the claim, also for ``handle_returned`` and ``claim_cut``."""

    slot_id: int | None = None
    """The number of the slot."""

    backend: Backend | None = None
    """The backend, for every event that has a slot."""

    duration: float | None = None
    """Seconds since the beginning of the span that this event ends."""

    error: BaseException | None = None
    """The exception, for the events that tell of a failure."""

    old: str | None = None
    """The state that a slot leaves, for ``slot_state_change`` only."""

    new: str | None = None
    """The state that a slot enters, for ``slot_state_change`` only."""

    why: str | None = None
    """The reason of ``connection_retired``: ``"lifetime"``, ``"idle"``, ``"uses"`` or
    ``"recycle"``."""

    reason: str | None = None
    """The reason of ``backend_ejected``, in words."""

    seconds: float | None = None
    """The length of the ejection that ``backend_ejected`` announces, in seconds."""

    @property
    def is_abandoned(self) -> bool:
        """True if the work was cancelled or given up, rather than failed: `is_abandonment`."""
        return is_abandonment(self.error)

    def __str__(self) -> str:
        return " ".join([self.name, *(f"{name}={text}" for name, text in self._details())])

    def _details(self) -> Iterator[tuple[str, str]]:
        for name, value in self.as_dict().items():
            if name not in {"event", "time"}:
                text = f"{value:.6f}" if name in {"duration", "seconds"} else str(value)
                # `repr` escapes most of what is not printable, `printable` the rest.
                yield name, printable(repr(text) if " " in text else text)

    def as_dict(self) -> dict[str, str | int | float]:
        """Return what is known as plain values, for structured logs and for JSON.

        The keys are ``event``, ``time``, ``pool``, ``claim_id``, ``slot_id``, ``backend``
        (its name), ``duration``, ``error_type`` and ``error``, ``old`` and ``new``, ``why``,
        ``reason`` and ``seconds``. Those that do not apply are left out. The values are
        exact: only ``str()`` of the record escapes what is not printable.
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
            "error": None if self.error is None else safe_str(self.error),
            "old": self.old,
            "new": self.new,
            "why": self.why,
            "reason": self.reason,
            "seconds": self.seconds,
        }
        return {name: value for name, value in values.items() if value is not None}


@final
@attrs.frozen(eq=False, repr=False)
class EventSpec:
    """The arguments of one `Instrument` method, and the spans that the event delimits."""

    arguments: tuple[str, ...]
    """The arguments after the pool's name, as fields of `PoolEvent`."""
    begins: str | None = None
    """The span that begins with this event."""
    ends: str | None = None
    """The span that ends with this event. Its length is the duration."""
    within: str | None = None
    """A span that goes on. Its length so far is the duration."""
    forgets: str | None = None
    """A span that ends with this event without a duration."""


#: Every event. A span belongs to the first argument of the event, or to the pool.
EVENT_SPECS: Final[Mapping[str, EventSpec]] = MappingProxyType(
    {
        "claim_start": EventSpec(("claim_id",), begins="claim"),
        "claim_done": EventSpec(("claim_id", "slot_id"), ends="claim"),
        "claim_failed": EventSpec(("claim_id", "error"), ends="claim"),
        "claim_acquire_failed": EventSpec(("claim_id", "slot_id", "error"), within="hold"),
        "claim_cut": EventSpec(("slot_id", "backend"), within="hold"),
        "connect_start": EventSpec(("slot_id", "backend"), begins="connect"),
        "connect_done": EventSpec(("slot_id", "backend"), ends="connect"),
        "connect_failed": EventSpec(("slot_id", "backend", "error"), ends="connect"),
        "connection_stale": EventSpec(("slot_id", "backend", "error")),
        "connection_broken": EventSpec(("slot_id", "backend", "error")),
        "connection_retired": EventSpec(("slot_id", "backend", "why")),
        "handle_claimed": EventSpec(("claim_id", "slot_id", "backend"), begins="hold"),
        "handle_returned": EventSpec(("slot_id",), ends="hold"),
        "health_check_start": EventSpec(("slot_id", "backend"), begins="health_check"),
        "health_check_done": EventSpec(("slot_id",), ends="health_check"),
        "health_check_failed": EventSpec(("slot_id", "error"), ends="health_check"),
        "recycle_start": EventSpec(("slot_id", "backend"), begins="recycle"),
        "recycle_done": EventSpec(("slot_id",), ends="recycle"),
        "recycle_failed": EventSpec(("slot_id", "error"), ends="recycle"),
        "slot_set_online": EventSpec(("backend",), begins="online"),
        "slot_set_offline": EventSpec(("backend",), ends="online"),
        "slot_state_change": EventSpec(
            ("slot_id", "backend", "old", "new"), begins="state", ends="state"
        ),
        "rebalance_start": EventSpec((), begins="rebalance"),
        "rebalance_done": EventSpec((), ends="rebalance"),
        "backend_added": EventSpec(("backend",), forgets="ejected"),
        "backend_removed": EventSpec(("backend",), forgets="ejected"),
        "backend_ejected": EventSpec(
            ("backend", "reason", "seconds"), begins="ejected", within="ejected"
        ),
        "backend_restored": EventSpec(("backend",), ends="ejected"),
    }
)

#: The argument to which a span belongs. All other spans belong to a slot, and end with it.
SPAN_KEYS: Final[Mapping[str, str]] = MappingProxyType(
    {"claim": "claim_id", "online": "backend", "rebalance": "pool", "ejected": "backend"}
)


# Where users import them from.
PoolEvent.__module__ = "qorb_trio"
is_abandonment.__module__ = "qorb_trio"
