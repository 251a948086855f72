"""Slot sets without slots, and claims in simulated time."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from qorb_trio import Backend
from qorb_trio._balancing.candidates import IdleCandidate, candidate_of
from qorb_trio._balancing.guard import guard
from qorb_trio._balancing.guarded_balancer import GuardedBalancer
from qorb_trio._balancing.idle_index import IdleIndex
from qorb_trio._balancing.preference import NO_PREFERENCE, make_preference
from qorb_trio._balancing.strategy import Balancer
from qorb_trio._model.backend import effective_weight


class Item:
    """A slot set, as far as the idle index is concerned."""

    #: Number of times that the load of any item was read.
    asked = 0

    def __init__(
        self, name: int, *, load: int = 0, weight: int = 1, priority: int = 0, slots: int = 1000
    ) -> None:
        self.name = name
        self.backend = Backend(("10.0.0.1", 1 + name), name=f"b{name}")
        self.balancing_weight: float = effective_weight(weight)
        self.priority = priority
        self.place = -1
        self.candidate: IdleCandidate[Any] | None = None
        self.claims = load
        self.slots = slots

    @property
    def claimed(self) -> int:
        """Number of claims."""
        Item.asked += 1
        return self.claims

    @claimed.setter
    def claimed(self, claims: int) -> None:
        self.claims = claims

    @property
    def idle(self) -> int:
        """Number of idle slots."""
        return self.slots - self.claims


def an_index(*items: Item, seed: int = 1) -> IdleIndex[Item]:
    """An index with the default rule that has these sets."""
    index: IdleIndex[Item] = IdleIndex(random.Random(seed))
    for item in items:
        index.add(item)
    return index


def chosen(index: IdleIndex[Item], times: int) -> Counter[int]:
    """Count how often each set is chosen."""
    return Counter(index.choose().name for _ in range(times))


def choose_for(index: IdleIndex[Item], key: Any = None, avoid: Iterable[Backend] = ()) -> Any:
    """Choose for a claim with these options, by the way that the dispatcher takes."""
    preference = make_preference(key, avoid)
    if not index.best:
        return index.choose_for(preference or NO_PREFERENCE)
    if len(index.best) == 1:
        return index.best[0]
    return index.choose() if preference is None else index.prefer(preference)


class Simulation:
    """Claims on some backends in simulated time, through an index and a balancer."""

    def __init__(self, balancer: Balancer, items: list[Item], *, seed: int) -> None:
        self.now = 0.0
        self.rng = random.Random(seed)
        self.balancer: GuardedBalancer[Item] | None = guard(balancer, self.rng, lambda: self.now)
        self.index: IdleIndex[Item] = IdleIndex(self.rng, self.balancer)
        #: The claims that began, by the name of the set.
        self.claims: Counter[int] = Counter()
        self._held: list[tuple[float, int, Item, float, bool]] = []
        self._number = 0
        for item in items:
            self.index.add(item)

    def claim(
        self,
        seconds: Callable[[Item], float],
        *,
        failed: Callable[[Item], bool] = lambda _: False,
    ) -> Item:
        """Begin a claim that will be held for `seconds`; return the set that serves it."""
        item = self.index.choose()
        item.claims += 1
        if not item.idle:
            self.index.remove(item)
        self.claims[item.name] += 1
        self._number += 1
        length = seconds(item)
        end = self.now + length
        heapq.heappush(self._held, (end, self._number, item, length, failed(item)))
        return item

    def sleep_until(self, time: float) -> None:
        """Let time pass; end the claims whose time is over, in order."""
        while self._held and self._held[0][0] <= time:
            self.now, _, item, length, failed = heapq.heappop(self._held)
            item.claims -= 1
            if item.place < 0:
                self.index.add(item)
            if self.balancer is not None and self.balancer.observe is not None:
                self.balancer.observe(candidate_of(item), length, failed, self.now)
        self.now = time
