"""Which backend serves the next claim. Pure, and constant-time."""

from __future__ import annotations

import random
from bisect import insort
from typing import Generic, Protocol, TypeVar, final

#: What a weight of 0 counts as. RFC 2782 asks for "a very small chance", and its own
#: algorithm gives weight 0 against a total of n the chance 1 / (n + 1).
ZERO_WEIGHT = 0.5


#: So many sets are all compared; of more, only two.
FEW = 8


def share(weight: int) -> float:
    """A weight as a factor that can be divided by."""
    return weight or ZERO_WEIGHT


class Candidate(Protocol):
    """What the balancer must know of a slot set."""

    @property
    def load(self) -> int:
        """How many claims it serves now."""

    #: `share` of its weight.
    share: float
    #: The priority under which it is shelved.
    priority: int
    #: Where it stands in its tier; the shelf's to write.
    place: int


S = TypeVar("S", bound=Candidate)


@final
class Shelf(Generic[S]):
    """The slot sets that have a spare, in one array per priority.

    `add` and `remove` move at most one other set, so nothing here depends on how many
    there are.
    """

    __slots__ = ("_priorities", "_random", "_tiers", "best")

    def __init__(self, rng: random.Random) -> None:
        self._random = rng.random
        self._tiers: dict[int, list[S]] = {}
        self._priorities: list[int] = []  # those whose tier is not empty, in order
        #: The tier of the best priority that has any. To be read only, and then at once.
        self.best: list[S] = []

    def add(self, item: S) -> None:
        """`item` has a spare now."""
        tier = self._tiers.setdefault(item.priority, [])
        if not tier:
            insort(self._priorities, item.priority)
            self.best = self._tiers[self._priorities[0]]
        item.place = len(tier)
        tier.append(item)

    def remove(self, item: S) -> None:
        """`item` has no spare any more."""
        tier = self._tiers[item.priority]
        last = tier.pop()
        if last is not item:
            tier[item.place] = last
            last.place = item.place
        elif not tier:
            del self._tiers[item.priority]
            self._priorities.remove(item.priority)
            self.best = self._tiers[self._priorities[0]] if self._priorities else []

    def choose(self) -> S:
        """The least loaded set of the best priority. There must be one.

        That is the one that is furthest below its fair part of all claims, by weight;
        where that leaves a choice, and while all are idle, the weights decide by
        chance. Of many sets only two, picked at random, are compared, so that the cost
        stays constant; that this suffices to keep the load even was shown by
        Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing" (1996).
        """
        tier = self.best
        size = len(tier)
        if size == 1:
            return tier[0]
        if size > FEW:
            i = int(self._random() * size)
            j = int(self._random() * (size - 1))
            one, other = tier[i], tier[j if j < i else j + 1]
            if one.share == other.share:  # of two alike, chance has chosen already
                return one if one.load <= other.load else other
            tier = [one, other]
        total = sum([item.load for item in tier])
        if total:
            fair = (total + 1) / sum([item.share for item in tier])
            lacks = [fair * item.share - item.load for item in tier]
            most = max(lacks)
            tier = [item for item, lack in zip(tier, lacks, strict=True) if lack == most]
        point = self._random() * sum([item.share for item in tier])
        for item in tier[:-1]:
            point -= item.share
            if point < 0:
                return item
        return tier[-1]
