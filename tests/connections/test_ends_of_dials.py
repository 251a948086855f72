"""Dials that are given up while they wait or are checked, and backends that have left."""

from __future__ import annotations

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from qorb_trio import Backend, Connector, Policy, SetConfig, open_pool
from qorb_trio.testing import ManualResolver

A, B = Backend(("a.test", 1)), Backend(("b.test", 1))


class Abrupt(Connector[object]):
    """Refuses some backends without a checkpoint, and checks connections for a second."""

    def __init__(self) -> None:
        self.refused = {A}
        self.opened = 0
        self.closed = 0

    async def connect(self, backend: Backend) -> object:
        if backend in self.refused:
            raise ConnectionRefusedError
        await trio.sleep(0.1)
        self.opened += 1
        return object()

    async def is_valid(self, conn: object) -> bool:
        await trio.sleep(1)
        return True

    async def disconnect(self, conn: object) -> None:
        await trio.lowlevel.checkpoint()
        self.closed += 1


def policy_of(slots: int) -> Policy:
    """A policy with retries after ten seconds."""
    config = SetConfig(min_connection_backoff=10, max_connection_backoff=10)
    return Policy(max_slots=slots, spares_wanted=slots, set_config=config)


async def test_dials_that_wait_for_a_back_off_are_given_up(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """Of dials that are put off by the failure of another, one is left if another backend works."""
    resolver, connector = ManualResolver([A]), Abrupt()
    async with open_pool(nursery, resolver, connector, policy=policy_of(4)) as pool:
        await wait_all_tasks_blocked()
        assert pool.stats().backends[A.name].connecting == 3
        resolver.set([A, B])
        await pool.wait_ready(3)
        assert pool.stats().backends[A.name].connecting <= 1
        assert pool.stats().slots <= 4


async def test_a_probe_is_given_up_while_its_connection_is_checked(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """The connection of a probe is closed if its backend leaves during the check."""
    resolver, connector = ManualResolver([A]), Abrupt()
    async with open_pool(nursery, resolver, connector, policy=policy_of(1)) as pool:
        await wait_all_tasks_blocked()
        connector.refused.clear()
        await trio.sleep(10.5)
        assert connector.opened == 1
        assert not pool.stats().backends[A.name].online
        resolver.set([B])
        await wait_all_tasks_blocked()
        assert connector.closed == 1


async def test_nothing_begins_on_a_backend_that_has_left(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """Neither maintenance nor the trial of a backend goes on when it has left."""
    resolver, connector = ManualResolver([B]), Abrupt()
    async with open_pool(nursery, resolver, connector, policy=policy_of(1)) as pool:
        await pool.wait_ready()
        control = pool._parts.control
        slot_set = control._registry.active[B.name]
        control._ejections.add(slot_set)  # it is not ejected
        resolver.set([A])
        await wait_all_tasks_blocked()
        control._maintenance.begin_due(slot_set, trio.current_time())
        await wait_all_tasks_blocked()
        assert (connector.opened, connector.closed) == (1, 1)
