"""`IdleIndex`: the slot sets that have an idle slot, by priority.

Its cost does not depend on the number of slot sets, except where a claim has a key.
"""

from __future__ import annotations

import random
from bisect import insort
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar, final

from .._model.backend import Backend
from .candidates import IdleCandidate, IdleSet, without
from .favourites import Affinity, Favourites
from .least_loaded import least_loaded, least_of
from .preference import NO_PREFERENCE, Preference
from .remainders import Remainders
from .strategy import FEW

if TYPE_CHECKING:
    from .guarded_balancer import GuardedBalancer

S = TypeVar("S", bound=IdleSet)

#: Priority of a tier that is always empty and comes first. It keeps `best` empty while the
#: index is paused or an offer stands, so that the claim path has no more to ask.
BARRIER = -1


@final
class IdleIndex(Generic[S]):
    """The slot sets that have an idle slot, in one array per priority (a *tier*).

    `add` and `remove` move at most one other set. The dispatcher takes a set like this::

        while best := index.best:
            slot_set = best[0] if len(best) == 1 else index.choose()
            ...
        slot_set = index.take_offer()  # mostly None

    or, for a claim with a key or with backends to avoid, by `prefer` in place of `choose`, and by
    `choose_for` in place of `take_offer`. The balancer is a
    `GuardedBalancer`, or `None` for the rule of `LeastLoaded`, which is applied to the slot
    sets directly.
    """

    __slots__ = (
        "_affinity",
        "_balancer",
        "_draw",
        "_even",
        "_offers",
        "_paused",
        "_pick",
        "_priorities",
        "_remainders",
        "_shown",
        "_tiers",
        "best",
    )

    def __init__(self, rng: random.Random, balancer: GuardedBalancer[S] | None = None) -> None:
        self._balancer: GuardedBalancer[S] | None = balancer
        self._pick = None if balancer is None else balancer.pick
        self._draw = rng.random
        self._tiers: dict[int, list[S]] = {}
        #: The priorities of the tiers in `_tiers`, in order.
        self._priorities: list[int] = []
        #: The candidates of the best tier for the balancer, if it is small and unchanged.
        self._shown: tuple[IdleCandidate[S], ...] | None = None
        #: True if the default rule can leave out the weights, since the best tier is small and
        #: all are equal; `None` until that is asked of a tier.
        self._even: bool | None = None
        #: What is left of the best tier for claims that avoid a backend, if that is unchanged.
        self._remainders: Remainders[S] | None = None
        #: What keys prefer; `None` until a claim has a key.
        self._affinity: Affinity[S] | None = None
        self._offers: list[S] = []
        self._paused: bool = False
        #: The tier of the best priority that has any set, else an empty list. Read-only, and
        #: valid until the next change of the index.
        self.best: list[S] = []

    def add(self, slot_set: S) -> None:
        """Add a set that has got an idle slot."""
        priority = slot_set.priority
        tier = self._tiers.get(priority)
        if tier is None:
            tier = self._tiers[priority] = []
            insort(self._priorities, priority)
            self.best = self._tiers[self._priorities[0]]
        slot_set.place = len(tier)
        tier.append(slot_set)
        self._shown = self._remainders = self._even = None
        if self._affinity is not None:
            self._affinity.note(slot_set)

    def remove(self, slot_set: S) -> None:
        """Remove a set; do nothing if it is in no tier.

        The priority of a set must not change while it is in the index.
        """
        place = slot_set.place
        if place < 0:
            return
        slot_set.place = -1
        self._shown = self._remainders = self._even = None
        tier = self._tiers[slot_set.priority]
        last = tier.pop()
        if last is not slot_set:
            tier[place] = last
            last.place = place
        elif not tier:
            del self._tiers[slot_set.priority]
            self._priorities.remove(slot_set.priority)
            self.best = self._tiers[self._priorities[0]] if self._priorities else []

    def forget(self, slot_set: S) -> None:
        """Forget a set that has left, or whose priority or weight will change.

        It must not be in the index.
        """
        if self._affinity is not None:
            self._affinity.forget(slot_set)

    def tiers(self) -> Iterator[list[S]]:
        """Iterate over the tiers, best priority first, also while the index is paused."""
        return (self._tiers[priority] for priority in self._priorities if priority != BARRIER)

    # The choice.

    def choose(self) -> S:
        """Return the set of the best tier that serves the next claim. There must be several.

        Raises:
          BalancerError: if the user's balancer fails.
        """
        best = self.best
        if self._pick is not None:
            return self._pick(self._shown or self._show(best)).slot_set
        if self._even or (self._even is None and self._find_even()):
            return best[least_of([slot_set.claimed for slot_set in best], self._draw)]
        return self._choose_of_many(best) if len(best) > FEW else self._choose_among(best)

    def _find_even(self) -> bool:
        """Return True, and note it, if the default rule can leave out the weights."""
        weights = [slot_set.balancing_weight for slot_set in self.best[: FEW + 1]]
        self._even = even = weights.count(weights[0]) == len(weights) <= FEW
        return even

    def _choose_among(self, among: Sequence[S]) -> S:
        """Return the one of some sets that serves the next claim."""
        size = len(among)
        if size == 1:
            return among[0]
        if self._pick is not None:
            return self._pick(self._show(among)).slot_set
        if size > FEW:
            return self._choose_of_many(among)
        loads = [slot_set.claimed for slot_set in among]
        weights = [slot_set.balancing_weight for slot_set in among]
        return among[least_loaded(loads, weights, self._draw)]

    def _choose_of_many(self, among: Sequence[S]) -> S:
        """Return the better of two sets that are drawn by chance."""
        size = len(among)
        # One random number serves for both, since its later digits are as random as the first.
        point = self._draw() * size
        i = int(point)
        j = int((point - i) * (size - 1))
        one, other = among[i], among[j if j < i else j + 1]
        if one.balancing_weight != other.balancing_weight:
            return self._choose_among([one, other])
        # Chance has chosen already between two that are alike.
        return one if one.claimed <= other.claimed else other

    def _show(self, tier: Sequence[S]) -> tuple[IdleCandidate[S], ...]:
        """Return the candidates for the user's balancer from `tier`."""
        assert self._balancer is not None
        shown = self._balancer.show(tier)
        self._shown = shown if tier is self.best and len(tier) <= FEW else None
        return shown

    def prefer(self, preference: Preference) -> S:
        """Return the set of the best tier that a claim prefers. There must be several.

        Avoided backends are left out if there is any other. The key chooses among the rest, or
        the balancer does without one. The cost of `avoid` does not depend on the number of sets,
        and neither does that of a key that was seen before and whose favourite has an idle
        slot. That of another key is proportional to the number of sets; see `Rendezvous`.

        Raises:
          BalancerError: if the user's balancer fails.
        """
        best = self.best
        key, avoid = preference
        if not avoid:
            assert key is not None
            favourites = self._favourites_of(best)
            found = (favourites.rendezvous or favourites.compare()).find(key)
            return found if found.place >= 0 else favourites.find_idle(key, best, avoid)
        remainders = self._remainders
        if remainders is None:
            remainders = self._remainders = Remainders(best)
        if key is None and (avoid == remainders.avoided or remainders.recall(avoid)):
            # Fast path: the default rule, for one backend that was avoided before.
            rest = remainders.rest
            return rest[least_of([slot_set.claimed for slot_set in rest], self._draw)]
        return self._prefer_among(best, preference)

    def _favourites_of(self, tier: Sequence[S]) -> Favourites[S]:
        """Return what keys prefer among the sets of the priority of a tier."""
        if self._affinity is None:
            self._affinity = Affinity()
        return self._affinity.of(tier)

    def _prefer_among(self, tier: Sequence[S], preference: Preference) -> S:
        key, avoid = preference
        if key is not None:
            return self._favourites_of(tier).find_idle(key, tier, avoid)
        if not avoid:
            return self._choose_among(tier)
        rest = without(tier, avoid, self._draw) or tier
        if len(avoid) == 1 and self._pick is None and tier is self.best and self._find_even():
            assert self._remainders is not None
            self._remainders.keep_rest(avoid[0], rest)
        return self._choose_among(rest)

    def choose_for(self, preference: Preference = NO_PREFERENCE) -> S | None:
        """Return the set that a claim prefers, also while an offer stands.

        An offer comes first, as for other claims, then the best tier; see `prefer`. The result
        is `None` if nothing is idle, or while the index is paused.

        Raises:
          BalancerError: if the user's balancer fails.
        """
        if self._paused or not self._priorities:
            return None
        offer = self.take_offer(preference[1])
        if offer is not None:
            return offer
        tier = next(self.tiers(), ())
        return self._prefer_among(tier, preference) if tier else self.take_offer()

    # Pause and offers. Both put up the barrier, so that they cost nothing while unused.

    def pause(self) -> None:
        """Keep `best` empty until `resume`. Sets are added and removed as before."""
        self._paused = True
        self._set_barrier()

    def resume(self) -> None:
        """End a `pause`."""
        self._paused = False
        self._set_barrier()

    def offer_first(self, slot_set: S) -> None:
        """Offer a set that is in no tier to the next claim, before all priorities.

        `best` is empty while an offer stands. The offer ends when `take_offer` returns it,
        or by `withdraw`.
        """
        self._offers.append(slot_set)
        self._set_barrier()

    def withdraw(self, slot_set: S) -> None:
        """End the offer of a set; do nothing if it is not offered."""
        if slot_set in self._offers:
            self._offers.remove(slot_set)
            self._set_barrier()

    def take_offer(self, avoid: Sequence[Backend] = ()) -> S | None:
        """Return the first set that was offered, and end its offer.

        The result is `None` if there is none, if the backends of all are in `avoid`, and
        while the index is paused.
        """
        for slot_set in () if self._paused else self._offers:
            if slot_set.backend not in avoid:
                self.withdraw(slot_set)
                return slot_set
        return None

    def _set_barrier(self) -> None:
        wanted = self._paused or bool(self._offers)
        if wanted and BARRIER not in self._tiers:
            self._tiers[BARRIER] = self.best = []
            self._priorities.insert(0, BARRIER)
        elif not wanted and BARRIER in self._tiers:
            del self._tiers[BARRIER]
            self._priorities.remove(BARRIER)
            self.best = next(self.tiers(), [])
