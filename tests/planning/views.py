"""What the planner looks at, made up: one view at a time, and random ones."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import attrs
from hypothesis import strategies as st

from qorb_trio._planning.planner import Demand


@attrs.define(kw_only=True)
class View:
    """One backend as the planner sees it. The planner must not change it."""

    unclaimed: int = 0
    checking: int = 0
    claimed: int = 0
    connecting: int = 0
    closing: int = 0
    limit: int = 16
    failing: bool = False
    hung: bool = False
    on_probation: bool = False
    turn: tuple[float, float] = (-math.inf, 0)
    priority: int = 0
    share: float = 1
    rank: int = 1

    @property
    def connected(self) -> int:
        """Spares, checked and claimed ones."""
        return self.unclaimed + self.checking + self.claimed

    @property
    def slots(self) -> int:
        """All that counts against the limit."""
        return self.connected + self.connecting + self.closing


def ranked(views: Sequence[View]) -> list[View]:
    """The same views, ranked by their order, from 1 on: rank 0 is a guest's."""
    return [attrs.evolve(view, rank=rank) for rank, view in enumerate(views, 1)]


#: Powers of two and their sums, so that sums of them do not depend on the order.
SOME_SHARES = [0.5, 1.0, 2.0, 3.0, 8.0]
SHARES = st.sampled_from(SOME_SHARES)


def random_view(rng: random.Random) -> View:
    """A view that can be: within its limit, and with a dial where one hangs."""
    unclaimed, checking, claimed, connecting, closing = (
        rng.choice([0, 0, 1, 2, 3]) for _ in range(5)
    )
    view = View(
        unclaimed=unclaimed,
        checking=checking,
        claimed=claimed,
        connecting=connecting,
        closing=closing,
        failing=rng.random() < 0.5,
        priority=rng.choice([0, 0, 0, 0, 1, 2]),
        share=rng.choice(SOME_SHARES),
    )
    view.limit = view.slots + rng.randrange(6)
    if view.failing and view.connecting and rng.random() < 0.5:
        view.hung = True
    elif view.failing and view.connected and rng.random() < 0.5:
        view.on_probation = True
    return view


def random_views(rng: random.Random, *, least: int = 0) -> list[View]:
    """Views with unique ranks and turns, in no particular order."""
    views = [random_view(rng) for _ in range(rng.randint(least, 6))]
    ranks = rng.sample(range(1, len(views) + 1), len(views))
    turns = rng.sample(range(len(views)), len(views))
    for view, rank, turn in zip(views, ranks, turns, strict=True):
        view.rank = rank
        view.turn = (math.inf, turn) if view.hung else (turn, 0)
    return views


def situations(
    *, least: int = 0, overfull: bool = False
) -> st.SearchStrategy[tuple[list[View], Demand]]:
    """Views and a demand; all that there is fits under the cap unless `overfull`.

    Made from a seed: to draw each of a hundred numbers takes longer than a plan does.
    """

    def make(seed: int) -> tuple[list[View], Demand]:
        rng = random.Random(seed)
        views = random_views(rng, least=least)
        departed = rng.randrange(4)
        used = sum(view.slots for view in views) + departed
        demand = Demand(
            max_slots=max(1, rng.randrange(used + 4) if overfull else used + rng.randrange(9)),
            departed=departed,
            waiting=rng.randrange(7),
            spares=rng.randrange(21),
            at_least=rng.choice([0, 0, 4, 12]),
        )
        return views, demand

    return st.integers(0, 2**32).map(make)


def crowds() -> st.SearchStrategy[tuple[list[View], Demand]]:
    """Views that just about fill the cap, a dead one among them; few dials are under way."""

    def make(seed: int) -> tuple[list[View], Demand]:
        rng = random.Random(seed)
        views = random_views(rng, least=2)
        for view in views:
            view.closing = rng.random() < 0.05
            view.connecting = rng.random() < 0.1
            view.hung = False
            view.on_probation &= view.failing and rng.random() < 0.1
        dead = View(failing=True, turn=(-1, 0), rank=len(views) + 1)
        dead.priority = min(view.priority for view in views)
        views.append(dead)
        used = sum(view.slots for view in views)
        max_slots = max(1, used + rng.choice([0, 0, 0, 0, 1, -1]))
        return views, Demand(max_slots=max_slots, spares=max_slots + rng.randrange(9))

    return st.integers(0, 2**32).map(make)
