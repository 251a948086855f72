"""The choice of the active backends among the known ones."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence

import attrs
import pytest

from qorb_trio import Backend
from qorb_trio._model.backend import effective_weight
from qorb_trio._planning.active_set import REPLACEMENT_DELAY, ActiveSet
from qorb_trio._planning.known import KnownBackends
from qorb_trio._planning.make_plan import make_plan
from qorb_trio._planning.plan import Demand
from qorb_trio._planning.rotation import RotationOrder, next_rotation
from qorb_trio._planning.selection import ALL_ACTIVE, MAX_STEP, MIN_ACTIVE, Change

from .situations import View
from .test_known import backends, take_over


@attrs.define(kw_only=True, eq=False)
class ActiveView(View):
    """An active backend."""

    backend: Backend
    wanted: int = 0


class Pool:
    """A pool that only connects: each dial ends in the round after it began."""

    def __init__(self, found: Iterable[Backend], *, spares: int = 8, max_slots: int = 16) -> None:
        self.order = RotationOrder(1)
        self.known = KnownBackends(self.order)
        self.active: ActiveSet[ActiveView] = ActiveSet(self.known)
        self.views: dict[str, ActiveView] = {}
        self.demand = Demand(max_slots=max_slots, spares=spares)
        self.dead: set[str] = set()
        self.failures: Counter[str] = Counter()
        self.dials = 0
        self.now = 0.0
        self.take_over(found)

    def take_over(self, found: Iterable[Backend]) -> None:
        """Take over a set of the resolver."""
        take_over(self.known, found)
        for name in list(self.views):
            if not self.known.is_active(self.views[name].backend):
                del self.views[name]

    def apply(self, change: Change[ActiveView]) -> None:
        """Make and remove slot sets."""
        for view in change.deactivate:
            del self.views[view.backend.name]
            del self.failures[view.backend.name]
        for backend in change.activate:
            weight = effective_weight(backend.weight)
            view = ActiveView(
                backend=backend,
                priority=backend.priority,
                effective_weight=weight,
                rotation_key=self.order.key(backend.name, weight),
            )
            self.views[backend.name] = view

    def round(self, seconds: float = 0.02, *, rebalance: bool = False) -> None:
        """Let dials end, then plan and act."""
        self.now += seconds
        for view in self.views.values():
            self.go_on(view)
        views = list(self.views.values())
        wanted, slots = self.demand.spares, self.demand.max_slots
        if rebalance:
            self.apply(self.active.turn(views, wanted, slots))
            views = list(self.views.values())
            self.turn(views)
        change = self.active.update(list(self.views.values()), wanted, slots, self.now)
        self.apply(change)
        while change.is_partial:
            change = self.active.proceed()
            self.apply(change)
            assert len(change.activate) <= MAX_STEP
        views = list(self.views.values())
        plan = make_plan(views, self.demand, rebalance=True)
        for view in views:
            view.wanted = plan.wanted[view]
        for step in plan.opens:
            step.view.connecting += step.count
        for step in plan.aborts:
            step.view.connecting -= step.count
        for step in plan.closes:
            step.view.idle -= step.count
        self.check()

    def turn(self, views: Sequence[ActiveView]) -> None:
        """End the turn of the first backend, if there is a next one."""
        move = next_rotation(views, make_plan(views, self.demand))
        if move is not None:
            donor, _ = move
            name, weight = donor.backend.name, donor.effective_weight
            donor.rotation_key = self.order.end_turn(name, weight)

    def go_on(self, view: ActiveView) -> None:
        """Let the dials of one backend end, if its back-off is over."""
        name = view.backend.name
        if not view.connecting or self.now < view.probe_order[0]:
            return
        self.dials += view.connecting
        if name in self.dead:
            self.failures[name] += 1
            delay = min(30, 0.02 * 2 ** min(20, self.failures[name]))
            view.is_failing, view.probe_order = True, (self.now + delay, 0)
        else:
            view.is_failing = False
            view.idle += view.connecting
        view.connecting = 0

    def check(self) -> None:
        """Check that the number of active backends is bounded."""
        if len(self.known) > ALL_ACTIVE:
            assert len(self.views) <= max(ALL_ACTIVE, 2 * self.demand.max_slots)
        assert all(self.known.is_active(view.backend) for view in self.views.values())

    def connected(self) -> int:
        """Return the number of connections."""
        return sum(view.connected for view in self.views.values())


@pytest.mark.parametrize("size", [1, 10, 64])
def test_few_backends_are_all_active(size: int) -> None:
    """A few dozen backends are all active, of whatever priority and however few the slots."""
    pool = Pool([*backends(range(size - 1)), *backends(["standby"], priority=1)])
    for _ in range(3):
        pool.round()
        assert len(pool.views) == size
    pool.round(60, rebalance=True)
    assert len(pool.views) == size


def test_of_many_backends_the_first_are_active() -> None:
    """Of 10,000 backends, those with the smallest keys are active, one for each wanted
    connection and a few more."""
    found = backends(range(10_000))
    pool = Pool(found, spares=20, max_slots=40)
    pool.round()
    pool.round()
    expected = sorted(found, key=pool.known.key)[:21]
    assert list(pool.views) == [backend.name for backend in expected]
    assert pool.connected() == 20
    pool.demand = attrs.evolve(pool.demand, spares=30)
    pool.round()
    assert len(pool.views) == 31


def test_thousands_of_wanted_slots_activate_thousands() -> None:
    """All backends are active if slots are wanted on all of them."""
    pool = Pool(backends(range(1000)), spares=2000, max_slots=4000)
    for _ in range(2):
        pool.round()
    assert len(pool.views) == 1000
    assert pool.connected() == 2000


def test_half_of_the_backends_refuse() -> None:
    """With half of 10,000 backends dead, 8 connections are there after a few rounds, and the
    dead ones are dialled no more once they are replaced."""
    found = backends(range(10_000))
    pool = Pool(found)
    pool.dead = {backend.name for backend in found[::2]}
    for _ in range(15):
        pool.round()
    assert pool.connected() == 8
    for _ in range(20):
        pool.round(60, rebalance=True)
        for _ in range(10):
            pool.round()
    before = pool.dials
    for _ in range(50):
        pool.round()
    assert pool.connected() == 8
    assert pool.dials - before < 10


def test_a_failing_backend_is_joined_by_the_next() -> None:
    """Failing backends stay, to be probed, and the next in the order join them."""
    found = backends(range(100))
    pool = Pool(found)
    pool.round()
    first = list(pool.views)
    pool.dead = set(first[:5])
    for _ in range(5):
        pool.round()
    order = [backend.name for backend in sorted(found, key=pool.known.key)]
    assert list(pool.views) == order[: MIN_ACTIVE + 5]
    pool.round(60, rebalance=True)
    assert len(pool.views) == MIN_ACTIVE
    assert not pool.dead & set(pool.views), "they have left at the turn, for they are replaced"


@pytest.mark.parametrize("alive", [1, 10, 100])
def test_few_live_backends_are_found_among_many_dead(alive: int) -> None:
    """With 1 to 10 % of a thousand backends alive, connections are there within a minute."""
    found = backends(range(1000))
    pool = Pool(found)
    living = random.Random(1).sample(found, alive)
    pool.dead = {b.name for b in found} - {b.name for b in living}
    if alive == 1:
        first = sorted(found, key=pool.known.key)[100].name
        pool.dead = {b.name for b in found} - {first}
    while pool.now < 60 and not pool.connected():
        pool.round()
    assert pool.connected()


def test_dead_backends_are_tried_ever_more_slowly() -> None:
    """With all of 10,000 backends dead, the pool settles at a few dials per second, and still
    tries others."""
    found = backends(range(10_000))
    pool = Pool(found)
    pool.dead = {backend.name for backend in found}
    while pool.now < 300:
        pool.round(0.1)
    before, tried = pool.dials, set(pool.views)
    while pool.now < 360:
        pool.round(0.1)
    assert pool.dials - before < 60 * 10
    assert set(pool.views) - tried


def test_patience_is_short_again_after_a_success() -> None:
    """After a long outage, failing backends are replaced late, but soon once one works."""
    found = backends(range(1000))
    pool = Pool(found, spares=4, max_slots=8)
    pool.dead = {backend.name for backend in found}
    while pool.now < 200:
        pool.round(0.1)
    views = list(pool.views.values())
    for view in views:
        view.probe_order = (pool.now + 10, 0)
    change = pool.active.update(views, 4, 8, pool.now)
    assert (change.activate, change.deactivate) == ([], [])
    views[0].idle, views[0].is_failing = 1, False
    change = pool.active.update(views, 4, 8, pool.now)
    assert set(change.deactivate) < set(views[1:])
    assert len(change.deactivate) == MIN_ACTIVE - 1
    assert len(change.activate) == MIN_ACTIVE - 1
    assert change.first_delay == REPLACEMENT_DELAY


def test_only_a_replacement_begins_with_a_long_delay() -> None:
    """Backends that join while there is room for them may be retried soon."""
    found = backends(range(1000))
    pool = Pool(found)
    assert pool.active.update([], 8, 16, 0).first_delay == 0


def test_a_standby_is_used_when_a_large_priority_is_dead() -> None:
    """With a thousand dead backends of the best priority, those of the next are used, and the
    dead ones are tried in turn, until they work again."""
    primary, standby = backends(range(1000)), backends((f"s{i}" for i in range(1000)), priority=1)
    pool = Pool([*primary, *standby])
    pool.dead = {backend.name for backend in primary}
    for _ in range(100):
        pool.round()
    used = {view.priority for view in pool.views.values() if view.connected}
    assert (used, pool.connected()) == ({1}, 8)
    tried = {name for name, view in pool.views.items() if view.priority == 0}
    for _ in range(20):
        pool.round(60, rebalance=True)
        assert pool.connected() >= 8
        tried |= {name for name, view in pool.views.items() if view.priority == 0}
    assert len(tried) >= MIN_ACTIVE + 20
    pool.dead = set()
    for _ in range(20):
        pool.round(60, rebalance=True)
    assert {view.priority for view in pool.views.values() if view.connected} == {0}
    assert pool.connected() == 8
    assert all(view.priority == 0 for view in pool.views.values())


def test_each_backend_has_its_turn() -> None:
    """Over many rebalances, each of a hundred backends is used."""
    pool = Pool(backends(range(100)), spares=4, max_slots=4)
    seen: set[str] = set()
    for _ in range(400):
        pool.round(60, rebalance=True)
        for _ in range(4):
            pool.round()
        assert len(pool.views) <= MIN_ACTIVE + 1
        seen |= {name for name, view in pool.views.items() if view.connected}
    assert len(seen) == 100


def test_light_backends_have_their_share_of_the_turns() -> None:
    """Activity does not change the shares: with weights 1:2, the light half holds a third."""
    light, heavy = backends(range(50)), backends(range(50, 100), weight=2)
    pool = Pool([*light, *heavy], spares=4, max_slots=4)
    held: Counter[bool] = Counter()
    for _ in range(1000):
        pool.round(60, rebalance=True)
        for _ in range(4):
            pool.round()
        for name, view in pool.views.items():
            held[int(name) < 50] += view.connected
    assert 0.28 <= held[True] / held.total() <= 0.38


def test_a_set_that_grows_is_narrowed_at_the_next_turn() -> None:
    """Backends without slots leave when more are known than are active all at once."""
    found = backends(range(ALL_ACTIVE + 1))
    pool = Pool(found[:30])
    pool.round()
    assert len(pool.views) == 30
    pool.take_over(found)
    pool.round()
    assert len(pool.views) == 30
    pool.round(rebalance=True)
    for _ in range(5):
        pool.round()
    assert MIN_ACTIVE <= len(pool.views) <= MIN_ACTIVE + 8
    assert pool.connected() == 8


def test_a_set_that_has_become_small_is_all_active_after_a_turn() -> None:
    """A rebalance that comes before anything else activates all backends of a small set."""
    found = backends(range(200))
    pool = Pool(found)
    pool.round()
    pool.take_over(found[:ALL_ACTIVE])
    assert len(pool.views) < ALL_ACTIVE
    pool.round(rebalance=True)
    assert len(pool.views) == ALL_ACTIVE


def test_removed_backends_are_replaced() -> None:
    """The next backends in the order take the places of those that have left."""
    found = backends(range(1000))
    pool = Pool(found)
    for _ in range(3):
        pool.round()
    gone = set(list(pool.views)[:5])
    pool.take_over([backend for backend in found if backend.name not in gone])
    for _ in range(3):
        pool.round()
    assert len(pool.views) == MIN_ACTIVE
    assert pool.connected() == 8
