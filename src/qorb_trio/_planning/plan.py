"""The input and the output of the planner: `View`, `Demand`, `Step` and `Plan`."""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar, final

import attrs


class Ordered(Protocol):
    """The attributes by which slots are divided among backends."""

    @property
    def effective_weight(self) -> float:
        """The weight as a factor greater than 0."""

    @property
    def rotation_key(self) -> float:
        """The place in the order by weighted chance; the smaller key comes first."""


class View(Ordered, Protocol):
    """One backend as the planner sees it. Views are hashed by identity."""

    @property
    def idle(self) -> int:
        """Number of spares, due ones included."""

    @property
    def connected(self) -> int:
        """Number of established connections: idle, checking and claimed ones."""

    @property
    def claimed(self) -> int:
        """Number of connections that claims hold."""

    @property
    def connecting(self) -> int:
        """Number of dials, those that wait for their back-off included."""

    @property
    def closing(self) -> int:
        """Number of connections and aborted dials that are being closed."""

    @property
    def retiring(self) -> int:
        """Number of connected ones that are due for replacement."""

    @property
    def retiring_idle(self) -> int:
        """Number of idle ones that are due for replacement."""

    @property
    def limit(self) -> int:
        """Maximum number of slots, closing ones included."""

    @property
    def max_connecting(self) -> float:
        """Maximum number of concurrent dials; `inf` means no limit."""

    @property
    def is_failing(self) -> bool:
        """True if the backend is known to fail or to hang, so that it is only probed."""

    @property
    def is_hung(self) -> bool:
        """True if the backend counts as failing only because a dial takes too long."""

    @property
    def is_half_open(self) -> bool:
        """True if a probe of the failing backend has connected, but proved nothing yet."""

    @property
    def is_ejected(self) -> bool:
        """True if the backend gets no claims because its claims kept failing."""

    @property
    def needs_trial(self) -> bool:
        """True if an ejected backend needs one new connection, for its trial claim."""

    @property
    def probe_order(self) -> tuple[float, float]:
        """The order in which failing backends are probed; the smallest comes first."""

    @property
    def priority(self) -> int:
        """The priority of RFC 2782; a lower number is better."""


O = TypeVar("O", bound=Ordered)  # noqa: E741 - as V is a View
V = TypeVar("V", bound=View)


@final
@attrs.frozen(kw_only=True, eq=False, repr=False)
class Demand:
    """The needs and the limits of the pool as a whole."""

    max_slots: int
    """The cap on all slots."""

    draining: int = 0
    """Number of slots of removed backends. They count against the cap."""

    waiting: int = 0
    """Number of parked claimants."""

    spares: int = 0
    """Number of connections that should be ready beyond those in use."""

    minimum: int = 0
    """Number of connections that there should be even if claims and spares need fewer."""

    retained: int = 0
    """Number of connections up to which none is surplus. Nothing is dialled for it."""


@final
@attrs.define  # frozen, it would take twice as long to make
class Step(Generic[V]):
    """One instruction for one slot set: open, abort or close `count` slots."""

    view: V
    count: int


@final
@attrs.define(kw_only=True)
class Plan(Generic[V]):
    """The wanted number of slots per backend, and the steps that can be taken now."""

    wanted: dict[V, int]
    """For each view, the number of slots that it should have, due ones not counted."""

    opens: list[Step[V]]
    """Dials to start."""

    aborts: list[Step[V]]
    """Dials to give up."""

    closes: list[Step[V]]
    """Idle connections to close; of each view, those that are due come first."""

    reclaimable: list[V]
    """Views that must close the first connection that is returned to one of them.

    Empty unless room is needed and no idle connection can make it.
    """

    demand: int
    """The demand before any cap, for `HighWatermark`."""

    size: int
    """Number of connections that there should be if every backend that should work did."""

    is_saturated: bool
    """True if more demand would change nothing."""

    is_settled: bool
    """True if the end of what is under way needs no further step."""

    has_backlog: bool
    """True if the next plan must be made as soon as a dial ends.

    Either `max_connecting` put dials off, or a due connection waits for its replacement, or
    ejected backends have more connections to give to others.
    """

    may_cover_more: bool = False
    """True if there may be room for a connection that covers a claimant who is yet to come,
    though the demand is met or saturated: backends fail, or dials are put off."""

    failing: int = 0
    """Number of backends that are known to fail, or are ejected."""
