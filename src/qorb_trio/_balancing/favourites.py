"""`Favourites`: the sets of one tier that claims with options prefer, found once for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Generic, TypeVar, final

from .._model.backend import Backend
from .affinity import Key, Rendezvous
from .candidates import IdleSet, candidate_of

S = TypeVar("S", bound=IdleSet)

#: The number of keys of one type, and of avoided backends, that are kept. They are all forgotten
#: when it is reached.
MOST_KEPT: Final = 1024


@final
class Favourites(Generic[S]):
    """The sets of one tier that keys prefer, for as long as neither it nor a weight changes."""

    __slots__ = ("_rendezvous", "_rests", "_tier", "avoided", "kept", "rest")

    def __init__(self, tier: Sequence[S]) -> None:
        self._tier: Sequence[S] = tier
        self._rendezvous: Rendezvous | None = None
        #: What was found, by the type of the key, since Python can warn where a str is compared
        #: with bytes. Read-only.
        self.kept: dict[type[Key], dict[Key, S]] = {str: {}, bytes: {}, int: {}}
        #: The backend that was avoided last, and the sets that are left without it. Read-only.
        self.avoided: Backend | None = None
        self.rest: Sequence[S] = tier
        #: The same for all that were avoided, by the name of the backend.
        self._rests: dict[str, tuple[Backend, Sequence[S]]] = {}

    def find(self, key: Key) -> S:
        """Return the set that a key prefers; see `Rendezvous`."""
        rendezvous = self._rendezvous
        if rendezvous is None:
            multipliers = [(it.candidate or candidate_of(it)).multiplier for it in self._tier]
            weights = [it.balancing_weight for it in self._tier]
            self._rendezvous = rendezvous = Rendezvous(multipliers, weights)
        kept = self.kept[type(key)]
        if len(kept) >= MOST_KEPT:
            kept.clear()
        kept[key] = found = self._tier[rendezvous.find(key)]
        return found

    def recall(self, avoided: Backend) -> bool:
        """Find the sets that are left without a backend; return True if they were kept."""
        found = self._rests.get(avoided.name)
        # Another backend may have that name.
        if found is None or found[0] is not avoided:
            return False
        self.avoided, self.rest = found
        return True

    def keep_rest(self, avoided: Backend, rest: Sequence[S]) -> None:
        """Keep the sets that are left without a backend."""
        if len(self._rests) >= MOST_KEPT:
            self._rests.clear()
        self._rests[avoided.name] = (avoided, rest)
