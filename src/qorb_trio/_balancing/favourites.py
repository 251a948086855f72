"""`Affinity`: the slot sets that keys prefer, by priority."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar, final

from .._model.backend import Backend
from .affinity import Key, Rendezvous, draws, group_of
from .candidates import IdleSet, candidate_of

S = TypeVar("S", bound=IdleSet)


@final
class Favourites(Generic[S]):
    """The slot sets of one priority that keys prefer, whether they have an idle slot or not.

    In a busy pool the sets that have one change from claim to claim. The members do not: they
    are all that have had one since the first claim with a key. So what a group of keys prefers
    has to be found only once.
    """

    __slots__ = ("_members", "rendezvous")

    def __init__(self, members: Iterable[S]) -> None:
        # A dict, because the order of a set would be by chance.
        self._members: dict[S, None] = dict.fromkeys(members)
        #: The choice between the members; `None` if they have changed since. Read-only.
        self.rendezvous: Rendezvous[S] | None = None

    @property
    def is_empty(self) -> bool:
        return not self._members

    def add(self, slot_set: S) -> None:
        """Note that a set has an idle slot."""
        if slot_set not in self._members:
            self._members[slot_set] = None
            self.rendezvous = None

    def discard(self, slot_set: S) -> None:
        """Forget a set, if it is a member."""
        if slot_set in self._members:
            del self._members[slot_set]
            self.rendezvous = None

    def compare(self) -> Rendezvous[S]:
        """Return the choice between the members as they are now."""
        if self.rendezvous is None:
            members = tuple(self._members)
            self.rendezvous = Rendezvous(members, *_hashes_and_weights(members))
        return self.rendezvous

    def find_idle(self, key: Key, tier: Sequence[S], avoid: Sequence[Backend]) -> S:
        """Return the set of a tier that a key prefers among those that are not avoided.

        If all are avoided, it is the one that the key prefers among all. The members of a tier
        must be members here.
        """
        for slot_set in self.compare().order(key):
            if slot_set.place >= 0 and slot_set.backend not in avoid:
                return slot_set
        rest = [it for it in tier if it.backend not in avoid] if avoid else tier
        rest = rest or tier
        found = draws(group_of(key), *_hashes_and_weights(rest))
        return rest[found.index(max(found))]


def _hashes_and_weights(sets: Sequence[S]) -> tuple[list[float], list[float]]:
    hashes = [(it.candidate or candidate_of(it)).multiplier for it in sets]
    return hashes, [it.balancing_weight for it in sets]


@final
class Affinity(Generic[S]):
    """The slot sets that keys prefer, by priority."""

    __slots__ = ("_favourites",)

    def __init__(self) -> None:
        self._favourites: dict[int, Favourites[S]] = {}

    def of(self, tier: Sequence[S]) -> Favourites[S]:
        """Return what keys prefer among the sets of the priority of a tier."""
        priority = tier[0].priority
        found = self._favourites.get(priority)
        if found is None:
            found = self._favourites[priority] = Favourites(tier)
        return found

    def note(self, slot_set: S) -> None:
        """Note that a set has an idle slot."""
        favourites = self._favourites.get(slot_set.priority)
        if favourites is not None:
            favourites.add(slot_set)

    def forget(self, slot_set: S) -> None:
        """Forget a set that has left, or whose priority or weight will change."""
        favourites = self._favourites.get(slot_set.priority)
        if favourites is not None:
            favourites.discard(slot_set)
            if favourites.is_empty:
                del self._favourites[slot_set.priority]
