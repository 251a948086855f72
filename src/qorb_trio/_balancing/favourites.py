"""`Favourites`: the sets of one tier that keys prefer, found once for each key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Generic, TypeVar, final

from .affinity import Key, preferred
from .candidates import IdleSet, candidate_of

S = TypeVar("S", bound=IdleSet)

#: The number of keys of one type that are kept. They are all forgotten when it is reached.
MOST_KEPT: Final = 1024


@final
class Favourites(Generic[S]):
    """The sets of one tier that keys prefer, for as long as neither it nor a weight changes."""

    __slots__ = ("_seeds", "_tier", "_weights", "kept")

    def __init__(self, tier: Sequence[S]) -> None:
        self._tier: Sequence[S] = tier
        self._seeds: list[int] = [(it.candidate or candidate_of(it)).seed for it in tier]
        self._weights: list[float] = [it.balancing_weight for it in tier]
        #: What was found, by the type of the key, since Python can warn where a str is compared
        #: with bytes. Read-only.
        self.kept: dict[type[Key], dict[Key, S]] = {str: {}, bytes: {}, int: {}}

    def find(self, key: Key) -> S:
        """Return the set that a key prefers; see `preferred`."""
        kept = self.kept[type(key)]
        if len(kept) >= MOST_KEPT:
            kept.clear()
        kept[key] = found = self._tier[preferred(self._seeds, self._weights, key)]
        return found
