"""The order of the backends by weighted chance, and the turns in it.

A pool with more slots than backends uses all of them. One with fewer slots uses those with
the smallest keys, and a turn at each rebalance replaces the first of them by the next.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Final, final

import attrs

from .._phases import Phases, finish, slices
from .apportion import is_featherweight
from .plan import Plan, V

#: Number of backends whose place is remembered. A backend that is forgotten and returns
#: draws a new place, which is as fair as the old one.
MAX_REMEMBERED: Final = 16_384

#: Number of turns of a backend whose steps are exponential.
EXPONENTIAL_TURNS: Final = 3

_MASK: Final = 2**64 - 1


@attrs.frozen(eq=False, repr=False)
class _Place:
    """The place of one backend: its key is ``origin + wait / weight``."""

    origin: float
    wait: float
    turns: int
    is_postponed: bool = False


@final
class RotationOrder:
    """The keys of the backends of one pool.

    The first key of a backend is an exponential number of mean 1 / weight, drawn from
    the seed of the pool and the name of the backend, so the same seed gives the same key
    in every process. To take backends in the order of such keys is weighted sampling
    without replacement (Efraimidis and Spirakis 2006).

    After each turn the key grows by a step of mean 1 / weight, so in the long run the
    turns are proportional to the weights. The first `EXPONENTIAL_TURNS` steps of a backend
    are exponential, as its first key is. Otherwise the second turn could not follow the first
    one soon. Most heavy backends have their first turn early, and would then get too few turns
    until they come round again. Measured with weights 1:2:4 and 16 slots for 120 backends:
    the share of the light ones is up to 10 % above the fair one in the first four hours.
    Without exponential steps it is up to 23 % above and 26 % below the fair one.

    Later steps are uniform between a half and one and a half of the mean. Exponential ones
    make a heavy backend follow itself too often, in the long run too. Measured with weights
    1:2 and 4 slots for 10 backends over four hours: the light ones hold 33.7 ± 1.0 % of the
    connections, and with exponential steps alone 36.4 ± 2.9 %.

    A newcomer's key starts from the key whose turn ended last. Otherwise, a backend that
    arrives late would have to catch up on all turns that it has missed.
    """

    def __init__(self, seed: int) -> None:
        self._seed = _mix(seed & _MASK)
        #: The largest key whose turn has ended: virtual time, as in fair queueing.
        self._now = 0.0
        # A plain dict would search for its first item past all those deleted before it.
        self._places: OrderedDict[str, _Place] = OrderedDict()

    def key(self, name: str, weight: float) -> float:
        """Return the key of a backend. One that returns has the key with which it left."""
        place = self._places.get(name)
        if place is None:
            place = _Place(self._now, self._step(name, 0), 0)
            self._remember(name, place)
        return place.origin + place.wait / weight

    def preview(self, name: str, weight: float) -> float:
        """Return what `key` would return, without remembering the place of a newcomer.

        For the thousands of backends that a pool knows, but does not use.
        """
        if name in self._places:
            return self.key(name, weight)
        return self._now + self._step(name, 0) / weight

    def remember(self, name: str, weight: float, key: float) -> None:
        """Remember the place of a newcomer, whose key `preview` has returned."""
        if name not in self._places:
            wait = self._step(name, 0)
            self._remember(name, _Place(max(0.0, key - wait / weight), wait, 0))

    def end_turn(self, name: str, weight: float) -> float:
        """Return the new key of a backend that has had its turn."""
        self._now = max(self._now, self.key(name, weight))
        return self._move(name, weight, self._now)

    def postpone(self, name: str, weight: float, behind: float) -> float:
        """Return the key of a backend that has failed, which is larger than `behind`.

        With the largest key among the backends that hold connections as `behind`, a
        backend that comes back takes no slot from a backend that works. One that goes on
        failing keeps its key as long as that is still behind, so that an outage of many
        probes costs it no more than one turn.
        """
        key = self.key(name, weight)
        if self._places[name].is_postponed and key > behind:
            return key
        return self._move(name, weight, max(self._now, behind, key), is_postponed=True)

    def _move(
        self, name: str, weight: float, origin: float, *, is_postponed: bool = False
    ) -> float:
        turns = self._places.pop(name).turns + 1
        is_even = is_postponed or turns > EXPONENTIAL_TURNS
        wait = 0.5 + self._chance(name, turns) if is_even else self._step(name, turns)
        place = _Place(origin, wait, turns, is_postponed)
        self._remember(name, place)
        return place.origin + place.wait / weight

    def _remember(self, name: str, place: _Place) -> None:
        """Store a place as the latest; forget the one that has not changed for longest."""
        self._places[name] = place
        if len(self._places) > MAX_REMEMBERED:
            self._places.popitem(last=False)

    def _step(self, name: str, number: int) -> float:
        """Return exponential step `number` of a backend, for a weight of 1."""
        return -math.log(self._chance(name, number))

    def _chance(self, name: str, number: int) -> float:
        """Return the number between 0 and 1 from which step `number` of a backend follows."""
        digest = blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        bits = _mix(_mix(self._seed ^ int.from_bytes(digest, "big")) + number)
        return ((bits >> 11) + 0.5) * 2.0**-53  # neither 0 nor 1


def _mix(bits: int) -> int:
    """Return the 64 bits that SplitMix64 makes of 64 bits (Steele, Lea and Flood 2014)."""
    bits = (bits + 0x9E3779B97F4A7C15) & _MASK
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & _MASK
    return bits ^ (bits >> 31)


def next_rotation(views: Sequence[V], plan: Plan[V]) -> tuple[V, V] | None:
    """Return which backend should end its turn, and which one is next, if any.

    The first is the one that came first of those that hold a spare. The next one comes
    first of the usable ones of the same priority that have nothing. The caller gives the
    first a new key. The spare moves only if the key of the next is smaller than that.
    """
    return finish(rotation_in_phases(views, plan))


def rotation_in_phases(views: Sequence[V], plan: Plan[V]) -> Phases[tuple[V, V] | None]:
    """Find the next rotation as `next_rotation` does, with pauses."""
    needy: dict[int, list[V]] = {}
    for part in slices(views):
        for view in part:
            if not plan.wanted[view] and _is_unused(view):
                needy.setdefault(view.priority, []).append(view)
        yield
    if not needy:
        return None
    holders: list[V] = []
    for part in slices(views):
        spare = [v for v in part if plan.wanted[v] and v.idle and v.priority in needy]
        holders += [v for v in spare if not v.is_ejected]
        yield
    donor = min(holders, key=_key, default=None)
    if donor is None:
        return None
    yield
    heaviest = max(v.effective_weight for v in views if v.priority == donor.priority)
    yield
    recipients = [
        view
        for view in needy[donor.priority]
        if not is_featherweight(view.effective_weight, heaviest)
    ]
    recipient = min(recipients, key=_key, default=None)
    return None if recipient is None else (donor, recipient)


def _key(view: V) -> float:
    return view.rotation_key


def _is_unused(view: V) -> bool:
    """Return True if a usable backend has no connection and no dial."""
    return not (view.is_failing or view.is_ejected or view.connected or view.connecting)


def last_holder_key(views: Iterable[V], priority: int) -> float:
    """Return the largest key among the backends of one priority that hold connections."""
    keys = (v.rotation_key for v in views if v.priority == priority and v.connected)
    return max(keys, default=0.0)


def last_holder_keys(views: Sequence[V]) -> Phases[dict[int, float]]:
    """Return the largest key among the backends that hold connections, for each priority."""
    keys: dict[int, float] = {}
    for part in slices(views):
        for view in part:
            if view.connected:
                keys[view.priority] = max(view.rotation_key, keys.get(view.priority, 0.0))
        yield
    return keys
