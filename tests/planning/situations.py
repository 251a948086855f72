"""Made-up backends for the planner: one view at a time, and random situations."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence

import attrs
from hypothesis import strategies as st

from qorb_trio._planning.plan import Demand, Step


@attrs.define(kw_only=True, eq=False)
class View:
    """One backend as the planner sees it. The planner must not change it."""

    idle: int = 0
    checking: int = 0
    claimed: int = 0
    connecting: int = 0
    closing: int = 0
    retiring_idle: int = 0
    retiring_claimed: int = 0
    limit: int = 16
    max_connecting: float = math.inf
    is_failing: bool = False
    is_hung: bool = False
    is_half_open: bool = False
    is_ejected: bool = False
    needs_trial: bool = False
    probe_order: tuple[float, float] = (-math.inf, 0)
    priority: int = 0
    effective_weight: float = 1
    rotation_key: float = 1

    @property
    def connected(self) -> int:
        """Number of idle, checking and claimed connections."""
        return self.idle + self.checking + self.claimed

    @property
    def retiring(self) -> int:
        """Number of due connections."""
        return self.retiring_idle + self.retiring_claimed

    @property
    def slots(self) -> int:
        """Number of slots that count against the limit."""
        return self.connected + self.connecting + self.closing

    @property
    def may_grow(self) -> bool:
        """True if a slot may be opened, if only one."""
        return self.needs_trial or not self.is_ejected

    @property
    def is_sound(self) -> bool:
        """True if the backend may be dialled freely."""
        return not (self.is_failing or self.is_ejected)


def ordered(views: Sequence[View]) -> list[View]:
    """Return copies of the views, with keys in the order of the list."""
    return [attrs.evolve(view, rotation_key=key) for key, view in enumerate(views, 1)]


def places(views: Sequence[View], steps: Iterable[Step[View]]) -> list[tuple[int, int]]:
    """Return steps as pairs of the view's place in the list and the count."""
    return [(views.index(step.view), step.count) for step in steps]


def total(steps: Iterable[Step[View]]) -> int:
    """Return how many slots the steps concern."""
    return sum(step.count for step in steps)


def demand_of(views: Sequence[View], demand: Demand) -> int:
    """Return how many connections are asked for, caps aside."""
    claimed = sum(view.claimed for view in views)
    return max(claimed + demand.waiting + demand.spares, demand.minimum)


def room_of(demand: Demand) -> int:
    """Return how many slots the backends of the current set may have together."""
    return max(0, demand.max_slots - demand.draining)


def used_by(views: Sequence[View]) -> int:
    """Return how many slots the views have."""
    return sum(view.slots for view in views)


#: Powers of two and their sums, so that sums of them do not depend on the order.
SOME_WEIGHTS = [0.5, 1.0, 2.0, 3.0, 8.0]
WEIGHTS = st.sampled_from(SOME_WEIGHTS)


def random_view(rng: random.Random) -> View:
    """Return a view that can be: within its limit, and with a dial where one hangs."""
    idle, checking, claimed, connecting, closing = (rng.choice([0, 0, 1, 2, 3]) for _ in range(5))
    view = View(
        idle=idle,
        checking=checking,
        claimed=claimed,
        connecting=connecting,
        closing=closing,
        is_failing=rng.random() < 0.5,
        priority=rng.choice([0, 0, 0, 0, 1, 2]),
        effective_weight=rng.choice(SOME_WEIGHTS),
    )
    view.limit = view.slots + rng.randrange(6)
    if view.is_failing and view.connecting and rng.random() < 0.5:
        view.is_hung = True
    elif view.is_failing and view.connected and rng.random() < 0.5:
        view.is_half_open = True
    return view


def complicate(rng: random.Random, views: Sequence[View]) -> None:
    """Let connections be due, backends be ejected, and dials be limited."""
    for view in views:
        if rng.random() < 0.3:
            view.retiring_idle = rng.randint(0, view.idle)
            view.retiring_claimed = rng.randint(0, view.claimed)
        if rng.random() < 0.3:
            view.max_connecting = rng.randint(1, 3)
        if rng.random() < 0.2:
            view.is_ejected = True
            view.needs_trial = view.connected == view.claimed and rng.random() < 0.5


def random_views(rng: random.Random, *, least: int = 0) -> list[View]:
    """Return views with different keys, in no particular order."""
    views = [random_view(rng) for _ in range(rng.randint(least, 6))]
    keys = rng.sample(range(1, len(views) + 1), len(views))
    turns = rng.sample(range(len(views)), len(views))
    for view, key, turn in zip(views, keys, turns, strict=True):
        view.rotation_key = key
        view.probe_order = (math.inf, turn) if view.is_hung else (turn, 0)
    return views


def situations(
    *, least: int = 0, overfull: bool = False, plain: bool = False
) -> st.SearchStrategy[tuple[list[View], Demand]]:
    """Draw views and a demand; all slots fit under the cap unless `overfull`.

    `plain` ones have no due connections, no ejected backends and no limit on dials. A
    situation is made from a seed, because to draw each of a hundred numbers takes longer
    than a plan does.
    """

    def make(seed: int) -> tuple[list[View], Demand]:
        rng = random.Random(seed)
        views = random_views(rng, least=least)
        if not plain and rng.random() < 0.6:
            complicate(rng, views)
        draining = rng.randrange(4)
        used = used_by(views) + draining
        demand = Demand(
            max_slots=max(1, rng.randrange(used + 4) if overfull else used + rng.randrange(9)),
            draining=draining,
            waiting=rng.randrange(7),
            spares=rng.randrange(21),
            minimum=rng.choice([0, 0, 4, 12]),
            retained=rng.choice([0, 0, 0, 10]),
        )
        return views, demand

    return st.integers(0, 2**32).map(make)


def crowds() -> st.SearchStrategy[tuple[list[View], Demand]]:
    """Draw views that just fill the cap, a dead one among them, with few dials."""

    def make(seed: int) -> tuple[list[View], Demand]:
        rng = random.Random(seed)
        views = random_views(rng, least=2)
        for view in views:
            view.closing = rng.random() < 0.05
            view.connecting = rng.random() < 0.1
            view.is_hung = False
            view.is_half_open &= view.is_failing and rng.random() < 0.1
        if rng.random() < 0.3:
            complicate(rng, views)
        dead = View(is_failing=True, probe_order=(-1, 0), rotation_key=len(views) + 1)
        dead.priority = min(view.priority for view in views)
        views.append(dead)
        max_slots = max(1, used_by(views) + rng.choice([0, 0, 0, 0, 1]))
        return views, Demand(max_slots=max_slots, spares=max_slots + rng.randrange(9))

    return st.integers(0, 2**32).map(make)
