"""Many newcomers of one set take their places one at a time."""

from __future__ import annotations

import random
from typing import TypeAlias

import pytest
import trio
from trio.testing import MockClock

from qorb_trio import Backend, Policy, open_pool
from qorb_trio._planning.newcomers import Newcomers
from qorb_trio.testing import FakeConnector, ManualResolver

from .situations import View

Held: TypeAlias = list[tuple[View, float]]


def holder(key: float, priority: int = 0) -> View:
    """A backend with a connection."""
    return View(idle=1, rotation_key=key, priority=priority)


def unused(key: float, priority: int = 0) -> View:
    """A backend without a connection."""
    return View(rotation_key=key, priority=priority)


def test_those_that_would_displace_others_wait_behind_them() -> None:
    """Newcomers with smaller keys than the last holder's wait, in their order."""
    first, second, last = unused(0.2), unused(0.5), unused(0.9)
    newcomers: Newcomers[View] = Newcomers()
    held = newcomers.hold_back([second, last, first], [holder(0.1), holder(0.8), unused(2.0)])
    assert [view for view, _ in held] == [first, second]
    assert 0.8 < held[0][1] < held[1][1] < 0.9
    assert [newcomers.admit() for _ in range(3)] == [(first, 0.2), (second, 0.5), None]


def test_a_single_newcomer_need_not_wait() -> None:
    """One that would displace another does so at once, as do the first backends of a pool."""
    newcomers: Newcomers[View] = Newcomers()
    assert newcomers.hold_back([unused(0.5), unused(0.9)], [holder(0.8)]) == []
    assert newcomers.hold_back([unused(0.5), unused(0.6)], [unused(0.8)]) == []
    assert newcomers.hold_back([unused(0.5), unused(0.6)], [holder(0.8, priority=1)]) == []
    assert newcomers.admit() is None


def test_newcomers_of_two_sets_wait_in_one_order() -> None:
    """The one with the smallest key comes first, and one that has left does not come."""
    newcomers: Newcomers[View] = Newcomers()
    views = [unused(key) for key in (0.1, 0.4, 0.2, 0.3)]
    newcomers.hold_back(views[:2], [holder(1.0)])
    newcomers.hold_back(views[2:], [holder(1.0)])
    newcomers.forget(views[2])
    assert [newcomers.admit() for _ in range(3)] == [
        (views[i], views[i].rotation_key) for i in (0, 3, 1)
    ]


@pytest.mark.parametrize("room", [0, 16])
async def test_twice_as_many_backends_move_one_connection_per_rebalance(
    room: int, autojump_clock: MockClock
) -> None:
    """If 20 backends become 40, sixteen connections move one by one, with or without room."""
    connector, resolver = FakeConnector(connect_delay=0.01), ManualResolver()
    backends = [Backend((f"b{i}.test", 1), name=f"b{i}") for i in range(40)]
    policy = Policy(spares_wanted=16, max_slots=16 + room)
    resolver.set(backends[:20])
    async with (
        trio.open_nursery() as nursery,
        open_pool(nursery, resolver, connector, policy=policy, rng=random.Random(3)) as pool,
    ):
        await pool.wait_ready(16)
        await trio.sleep(90)
        resolver.set(backends)
        closed = []
        for _ in range(10):
            before = connector.disconnects
            await trio.sleep(policy.rebalance_interval)
            closed.append(connector.disconnects - before)
        assert max(closed) == 1
        assert sum(len(connector.to(backend)) for backend in backends[20:]) >= 6
