"""Slot sets as candidates: `IdleSet`, and the `IdleCandidate` that stands for one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log2
from typing import Any, Generic, Protocol, TypeVar, final

from .._model.backend import Backend
from .affinity import multiplier
from .strategy import FEW


class IdleSet(Protocol):
    """A slot set, as far as this room is concerned."""

    #: Number of claims that the backend serves now.
    claimed: int
    #: Priority of the backend; a lower number comes first.
    priority: int
    #: Position in its tier, or -1 if it is in none. Written by the idle index only.
    place: int
    #: The candidate that stands for the set, or `None` until one is needed. Written here only.
    candidate: IdleCandidate[Any] | None

    @property
    def backend(self) -> Backend:
        """The backend."""

    @property
    def balancing_weight(self) -> float:
        """The weight for the choice, greater than zero; less than the backend's at first."""

    @property
    def idle(self) -> int:
        """Number of idle slots."""


S = TypeVar("S", bound=IdleSet)


@final
class IdleCandidate(Generic[S]):
    """The `Candidate` that stands for one slot set."""

    __slots__ = ("log_weight", "memo", "multiplier", "slot_set")

    def __init__(self, slot_set: S) -> None:
        self.slot_set: S = slot_set
        #: The balancer's own state.
        self.memo: Any = None
        #: Stable hash of the backend's name, for affinity.
        self.multiplier: float = multiplier(slot_set.backend.name)
        self.note_weight()

    def note_weight(self) -> None:
        """Adopt a weight that has changed."""
        #: The binary logarithm of the weight, for `PeakEwma`.
        self.log_weight: float = log2(self.slot_set.balancing_weight)

    @property
    def backend(self) -> Backend:
        return self.slot_set.backend

    @property
    def load(self) -> int:
        return self.slot_set.claimed

    @property
    def spares(self) -> int:
        return self.slot_set.idle

    @property
    def weight(self) -> float:
        return self.slot_set.balancing_weight

    def __repr__(self) -> str:
        return f"<candidate {self.backend.name!r}: load={self.load}, spares={self.spares}>"


def candidate_of(slot_set: S) -> IdleCandidate[S]:
    """Return the candidate that stands for `slot_set`, made at the first call."""
    candidate = slot_set.candidate
    if candidate is None:
        slot_set.candidate = candidate = IdleCandidate(slot_set)
    return candidate


def sample(tier: Sequence[S], draw: Callable[[], float]) -> Sequence[S]:
    """Return all of a few sets, or `FEW` of many at the cost of two random numbers.

    Start and step are random, so each set is in the sample with the same probability.
    """
    size = len(tier)
    if size <= FEW:
        return tier
    step = 1 + int(draw() * ((size - 1) // (FEW - 1)))
    start = int(draw() * size)
    stop = start + FEW * step
    if stop - step < size:
        return tier[start:stop:step]
    # The sample goes on at the beginning of the tier.
    return [tier[i % size] for i in range(start, stop, step)]


def without(tier: Sequence[S], avoid: Sequence[Backend], draw: Callable[[], float]) -> Sequence[S]:
    """Return the sets of a tier whose backends are not in `avoid`, or a sample of them.

    The result is empty if all are avoided. Of a large tier it is a sample of at most `FEW`,
    so that the cost does not depend on the size.
    """
    # Names are compared first, because a name's hash is cached and a backend's is not.
    names = {backend.name for backend in avoid}
    large = len(tier) > 2 * (len(names) + FEW)
    while True:
        rest = [
            slot_set
            for slot_set in (sample(tier, draw) if large else tier)
            if slot_set.backend.name not in names or slot_set.backend not in avoid
        ]
        # More than half of a large tier is not avoided, so that this ends soon.
        if rest or not large:
            return rest
