"""The planner's plans one after another: what becomes of a fleet that carries them out."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Sequence

import pytest

from qorb_trio._planning.apportion import apportion
from qorb_trio._planning.plan import Demand

from .fleet import CONNECT_TIMEOUT, LONGEST_BACKOFF, Fleet, Host, troubled_fleet
from .situations import View


def fair_parts(fleet: Fleet, living: Sequence[int], slots: int) -> list[int]:
    """Return how many connections each of the living should have in the end."""
    limits = {fleet.views[i]: fleet.views[i].limit for i in living}
    return list(apportion(slots, limits).values())


def fleet_of(
    views: Sequence[View], demand: Demand, *, seed: int = 1, lifetime: float = float("inf")
) -> Fleet:
    """Return a fleet in which each dial works in the next round."""
    hosts = [Host(view, connect_time=1, lifetime=lifetime) for view in views]
    return Fleet(hosts, demand, random.Random(seed))


# --------------------------------------------------------------- shares, probes, turns


@pytest.mark.parametrize("seed", range(25))
def test_a_healthy_fleet_comes_to_rest(seed: int) -> None:
    """Working backends get their fair parts, and then nothing moves any more."""
    rng = random.Random(seed)
    backends, slots = rng.randint(1, 6), rng.randint(2, 10)
    fleet = troubled_fleet(rng, backends=backends, slots=slots)
    fleet.settle()
    parts = fair_parts(fleet, range(backends), min(fleet.demand.spares, slots))
    assert fleet.connected == parts
    assert not fleet.rebalance
    before = fleet.steps
    fleet.run(20)
    fleet.rebalance = True
    fleet.run(20)
    assert fleet.steps == before


@pytest.mark.parametrize("seed", range(25))
def test_each_of_the_dead_is_probed(seed: int) -> None:
    """The living backends keep their share when others die, and each dead one is dialled
    again and again."""
    rng = random.Random(seed)
    living, dead, slots = rng.randint(1, 3), rng.randint(1, 5), rng.randint(2, 10)
    fleet = troubled_fleet(rng, backends=living + dead, slots=slots)
    fleet.settle()
    for host in fleet.hosts[living:]:
        host.fate = rng.choice(["refuses", "hangs"])
        host.connections.clear()
        host.failed(fleet.now)
    fleet.settle()
    begun, closed = fleet.now, fleet.closed
    longest = dead * (LONGEST_BACKOFF + CONNECT_TIMEOUT + 3)
    parts = fair_parts(fleet, range(living), min(fleet.demand.spares, slots - 1))
    for _ in range(3 * longest):
        fleet.round()
        assert fleet.connected[:living] == parts
    assert fleet.closed == closed
    for host in fleet.hosts[living:]:
        times = [begun, *(time for time in host.dialled if time > begun), fleet.now]
        gaps = [after - before for before, after in itertools.pairwise(times)]
        assert max(gaps) <= longest


@pytest.mark.parametrize("seed", range(25))
def test_the_dead_that_come_back_are_used(seed: int) -> None:
    """Once all that were dead live again, the fleet is as if nothing had happened."""
    rng = random.Random(seed)
    backends, slots = rng.randint(1, 6), rng.randint(2, 10)
    fleet = troubled_fleet(rng, backends=backends, slots=slots)
    for host in fleet.hosts:
        host.fate = rng.choice(["works", "refuses", "hangs"])
    fleet.run(100)
    for host in fleet.hosts:
        host.fate = "works"
    fleet.settle()
    parts = fair_parts(fleet, range(backends), min(fleet.demand.spares, slots))
    assert fleet.connected == parts


@pytest.mark.parametrize(("backends", "slots"), [(3, 1), (3, 2), (5, 2), (7, 6), (12, 4)])
def test_with_more_backends_than_slots_each_has_its_turn(backends: int, slots: int) -> None:
    """At most one connection moves at each interval, to a backend that has none, and so each
    has its turn; nothing moves in between."""
    hosts = [Host(View()) for _ in range(backends)]
    fleet = Fleet(hosts, Demand(max_slots=slots, spares=slots), random.Random(1))
    fleet.run(30)
    seen = {i for i, count in enumerate(fleet.connected) if count}
    assert len(seen) == slots
    for _ in range(5 * backends):
        before = fleet.closed
        fleet.round(turn=True)
        fleet.run(20)
        assert fleet.closed - before <= (slots > 1)
        assert sum(fleet.connected) == slots
        seen |= {i for i, count in enumerate(fleet.connected) if count}
    assert len(seen) == (backends if slots > 1 else 1)


@pytest.mark.parametrize("weights", [[10, 10, 1], [3, 2, 1], [2, 2, 1, 1]])
def test_the_lightest_have_their_turn_too(weights: list[float]) -> None:
    """With more backends than slots, a light one is connected now and then."""
    hosts = [Host(View(effective_weight=weight)) for weight in weights]
    fleet = Fleet(hosts, Demand(max_slots=2, spares=2), random.Random(1))
    fleet.run(30)
    seen: Counter[int] = Counter()
    for _ in range(100):
        before = fleet.closed
        fleet.round(turn=True)
        fleet.run(20)
        assert fleet.closed - before <= 1
        seen.update(i for i, count in enumerate(fleet.connected) if count)
    assert len(seen) == len(weights)
    assert max(seen, key=lambda i: seen[i]) != len(weights) - 1


# ------------------------------------------------------------ connections that grow old

SECOND = 20
"""Number of rounds in a second, so that a connect takes 0.05 s."""


@pytest.mark.parametrize("seed", range(2))
def test_old_connections_are_replaced_before_they_are_closed(seed: int) -> None:
    """With 6 slots, 4 spares and a lifetime of 100 s, an idle pool always has 4 connections
    for 1,000 s, each closed at an age of 75 to 100 s, and makes 40 to 56 connects."""
    demand = Demand(max_slots=6, spares=4)
    fleet = fleet_of([View()], demand, seed=seed, lifetime=100 * SECOND)
    fleet.run(3)
    for i in range(1000 * SECOND):
        fleet.round(turn=i % (60 * SECOND) == 0, damped=True)
        assert 4 <= sum(fleet.connected) <= 5
    ages = fleet.hosts[0].ages
    assert all(75 * SECOND <= age <= 100 * SECOND for age in ages)
    assert 40 <= fleet.connects <= 56


def let_grow_old(fleet: Fleet, over: int) -> None:
    """Let each connection be due at a time from now on, as `Pool.recycle` does."""
    for host in fleet.hosts:
        for connection in host.connections:
            connection.due_at = fleet.now + fleet.rng.uniform(0, over)


def test_recycle_replaces_every_connection() -> None:
    """With 8 connections under a cap of 16, 8 new ones replace them within 60 s, and there
    are never fewer than 8."""
    fleet = fleet_of([View()], Demand(max_slots=16, spares=8))
    fleet.run(3)
    old = list(fleet.hosts[0].connections)
    let_grow_old(fleet, 60 * SECOND)
    for _ in range(60 * SECOND + 5):
        fleet.round()
        assert sum(fleet.connected) >= 8
    assert not set(old) & set(fleet.hosts[0].connections)
    assert fleet.connected == [8]
    assert fleet.connects == 16


def test_recycle_at_once_replaces_one_at_a_time_per_backend() -> None:
    """Connections that are due in the same instant are replaced one by one at each backend."""
    fleet = fleet_of([View(), View()], Demand(max_slots=16, spares=8))
    fleet.run(3)
    let_grow_old(fleet, 0)
    for _ in range(15):
        fleet.round()
        assert sum(fleet.connected) >= 8
        assert all(view.connecting <= 1 for view in fleet.views)
    assert fleet.connects == 16
    assert fleet.connected == [4, 4]


@pytest.mark.parametrize("views", [[View()], [View(), View(), View()], [View(limit=6)]])
def test_recycle_of_a_full_pool_gives_up_one_spare_at_a_time(views: list[View]) -> None:
    """Under full caps, one due spare in the whole pool gives way to its replacement, and the
    next only when that works."""
    fleet = fleet_of(views, Demand(max_slots=6, spares=6))
    for host in fleet.hosts:
        host.connect_time = 3
    fleet.run(6)
    let_grow_old(fleet, 0)
    for _ in range(60):
        fleet.round()
        assert sum(fleet.connected) >= 5
        assert sum(view.connecting + view.closing for view in fleet.views) <= 1
    assert fleet.connects == 12
    assert sum(fleet.connected) == 6


def test_the_only_connection_is_replaced_too() -> None:
    """With a cap of one, a due spare is closed first, because its replacement has no room."""
    fleet = fleet_of([View()], Demand(max_slots=1, spares=1))
    fleet.run(3)
    let_grow_old(fleet, 0)
    fleet.run(10)
    assert (fleet.connected, fleet.connects, fleet.closed) == ([1], 2, 1)


def test_no_claimed_connection_is_closed_for_its_age() -> None:
    """Due connections that claims hold are replaced while they are held, and closed when they
    are returned."""
    fleet = fleet_of([View()], Demand(max_slots=16, spares=3))
    fleet.run(3)
    fleet.claim(3)
    fleet.run(3)
    held = [connection for connection in fleet.hosts[0].connections if connection.is_claimed]
    let_grow_old(fleet, 0)
    fleet.run(40)
    assert all(connection in fleet.hosts[0].connections for connection in held)
    assert fleet.connected == [9], "3 claimed and due, and 6 new"
    closed = fleet.closed
    fleet.release()
    fleet.run(5)
    assert fleet.connected == [6], "the rest is surplus for the next rebalance"
    assert fleet.closed == closed


def test_a_backend_that_refuses_is_served_by_its_old_connections() -> None:
    """Due connections stay until they expire if no replacement can be had."""
    fleet = fleet_of([View()], Demand(max_slots=6, spares=4), lifetime=100 * SECOND)
    fleet.run(3)
    host = fleet.hosts[0]
    host.fate = "refuses"
    for _ in range(100 * SECOND - 10):
        fleet.round()
        assert fleet.connected == [4]
    host.fate = "works"
    fleet.run(30)
    assert fleet.connected == [4]
    assert all(connection.due_at > fleet.now for connection in host.connections)


def test_due_spares_that_are_not_wanted_are_closed() -> None:
    """A due spare beyond the demand is closed without waiting for a rebalance."""
    fleet = fleet_of([View()], Demand(max_slots=16, spares=2))
    fleet.run(3)
    fleet.claim(6)
    fleet.run(6)
    fleet.serve()
    fleet.release()
    fleet.rebalance = False
    fleet.run(5)
    assert sum(fleet.connected) == 8
    for connection in fleet.hosts[0].connections[:5]:
        connection.due_at = fleet.now
    fleet.run(3)
    assert fleet.connected == [3]
    assert fleet.connects == 8


# --------------------------------------------------------- limits on dials, and damping


def test_max_connecting_limits_the_dials_to_one_backend() -> None:
    """With at most 2 dials and a connect of 1 s, ten waiters are served at 1, 1, 2, 2, … 5 s."""
    fleet = fleet_of([View(max_connecting=2)], Demand(max_slots=16, spares=8))
    fleet.hosts[0].connect_time = SECOND
    fleet.waiting = 10
    served: list[int] = []
    while fleet.waiting:
        fleet.round()
        assert fleet.views[0].connecting <= 2
        served += [round(fleet.now / SECOND)] * fleet.serve()
    assert served == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


def test_a_failing_backend_with_max_connecting_is_probed() -> None:
    """A probe counts as a dial, and waits while the limit is reached."""
    fleet = fleet_of([View(max_connecting=1)], Demand(max_slots=16, spares=8))
    host = fleet.hosts[0]
    host.fate = "refuses"
    for _ in range(60):
        fleet.round()
        assert fleet.views[0].connecting <= 1
    assert len(host.dialled) > 5
    host.fate = "works"
    fleet.run(40)
    assert fleet.connected == [8]


@pytest.mark.parametrize(("damped", "least", "most"), [(True, 16, 18), (False, 60, 90)])
def test_pauses_do_not_shrink_the_pool(damped: bool, least: int, most: int) -> None:
    """14 users hold a connection for 50 s and pause for 20 s: 16 to 18 connects suffice in
    660 s if surplus is what exceeded the highest demand since the last rebalance."""
    fleet = fleet_of([View()], Demand(max_slots=16, spares=2))
    for second in range(660):
        if second % 70 == 0:
            fleet.claim(14)
        elif second % 70 == 50:
            fleet.release()
        for i in range(SECOND):
            fleet.round(turn=i == second % 60 == 0, damped=damped)
            fleet.serve()
    assert least <= fleet.connects <= most


def test_a_lasting_fall_of_demand_shrinks_the_pool() -> None:
    """Connections that no demand has needed for a whole interval are closed at its end."""
    fleet = fleet_of([View()], Demand(max_slots=16, spares=2))
    fleet.run(5)
    fleet.claim(10)
    fleet.run(5)
    fleet.serve()
    fleet.release()
    for expected in (12, 2):
        fleet.round(turn=True, damped=True)
        fleet.run(10)
        assert fleet.connected == [expected]


# --------------------------------------------------------- ejection, and a lowered cap


def test_others_take_the_part_of_an_ejected_backend() -> None:
    """The connections of an ejected backend stay, nothing is dialled there, and the others
    provide what is asked for."""
    views = [View() for _ in range(4)]
    fleet = fleet_of(views, Demand(max_slots=24, spares=16))
    fleet.run(5)
    assert fleet.connected == [4, 4, 4, 4]
    views[0].is_ejected = True
    fleet.rebalance = True
    fleet.run(20)
    assert fleet.connected[0] == 4
    assert sum(fleet.connected[1:]) == 16
    assert max(fleet.hosts[0].dialled) == 1, "all in the first round"
    views[0].is_ejected = False
    fleet.rebalance = True
    fleet.run(20)
    assert fleet.connected == [4, 4, 4, 4]


@pytest.mark.parametrize("cap", [1, 2, 8])
def test_claims_get_past_an_ejected_backend_that_fills_the_cap(cap: int) -> None:
    """Spares of an ejected backend give way one by one where claims need their room."""
    views = [View(), View(is_ejected=True)]
    fleet = fleet_of(views, Demand(max_slots=cap, spares=cap))
    views[0].is_ejected, views[1].is_ejected = True, False
    fleet.run(5)
    assert fleet.connected == [0, cap]
    views[0].is_ejected, views[1].is_ejected = False, True
    fleet.waiting = 3 * cap
    for _ in range(100):
        fleet.round()
        for spare in fleet.hosts[0].idle(fleet.now):
            spare.is_claimed = True
            fleet.waiting -= 1
    assert fleet.connected == [max(1, cap // 2), cap - max(1, cap // 2)]


def test_a_lowered_cap_closes_spares_at_once_and_claims_as_they_return() -> None:
    """From 8 to 2 with 5 claimed and 3 spare: the 3 are closed at once, then the next 3 that
    are returned; nothing is opened."""
    view = View(idle=3, claimed=5)
    fleet = fleet_of([view], Demand(max_slots=2, spares=8))
    plan = fleet.plan(turn=False, retained=8)
    assert [(step.view, step.count) for step in plan.closes] == [(view, 3)]
    assert plan.reclaimable == [view]
    view.idle = 0
    for claimed in (5, 4, 3):
        view.claimed = claimed
        plan = fleet.plan(turn=False, retained=8)
        assert (plan.opens, plan.closes, plan.reclaimable) == ([], [], [view])
    view.claimed = 2
    plan = fleet.plan(turn=False, retained=8)
    assert (plan.opens, plan.closes, plan.reclaimable) == ([], [], [])


def test_a_lowered_cap_gives_up_dials() -> None:
    """Dials that a lowered cap leaves no room for are given up before any spare is closed."""
    views = [View(idle=2, connecting=4), View(idle=2)]
    fleet = fleet_of(views, Demand(max_slots=4, spares=8))
    plan = fleet.plan(turn=False, retained=0)
    assert [(step.view, step.count) for step in plan.aborts] == [(views[0], 4)]
    assert (plan.closes, plan.reclaimable) == ([], [])


def test_a_lowered_limit_of_a_backend_closes_its_spares() -> None:
    """Spares beyond the lowered limit of one backend are closed without a rebalance."""
    views = [View(idle=4, claimed=1, limit=2), View(idle=2)]
    fleet = fleet_of(views, Demand(max_slots=16, spares=4))
    plan = fleet.plan(turn=False, retained=16)
    assert [(step.view, step.count) for step in plan.closes] == [(views[0], 3)]


# ----------------------------------------------------------------- all of it together


@pytest.mark.parametrize("seed", range(25))
def test_a_fleet_comes_to_rest_after_everything(seed: int) -> None:
    """After a time of ejections, ageing connections, limited dials, failures and changing
    demand, each backend gets its fair part, and then nothing moves any more."""
    rng = random.Random(seed)
    slots = rng.randint(2, 12)
    fleet = troubled_fleet(rng, backends=rng.randint(1, 6), slots=slots)
    for host in fleet.hosts:
        host.view.max_connecting = rng.choice([1, 2, float("inf")])
        host.lifetime = rng.choice([30, 100, float("inf")])
        host.fate = rng.choice(["works", "works", "whims"])
    for _ in range(150):
        for host in fleet.hosts:
            if rng.random() < 0.05:
                host.view.is_ejected = not host.view.is_ejected
        if rng.random() < 0.3:
            fleet.shake(slots - 1)
        fleet.waiting = rng.choice([0, 0, 3])
        before = {host: len(host.dials) for host in fleet.hosts}
        fleet.round(turn=rng.random() < 0.1, damped=True)
        for host, dials in before.items():
            assert not host.view.is_ejected or len(host.dials) <= dials
            assert len(host.dials) <= max(dials, host.view.max_connecting)
    fleet.waiting = 0
    fleet.release()
    for host in fleet.hosts:
        host.view.is_ejected = False
        host.fate = "works"
        host.lifetime = float("inf")
        for connection in host.connections:
            connection.expires_at = float("inf")
    fleet.settle()
    parts = fair_parts(fleet, range(len(fleet.hosts)), min(fleet.demand.spares, slots))
    assert fleet.connected == parts
    assert not any(view.retiring for view in fleet.views if sum(fleet.connected) > 1)
    before_rest = fleet.steps
    fleet.run(20)
    fleet.rebalance = True
    fleet.run(20)
    assert fleet.steps == before_rest
