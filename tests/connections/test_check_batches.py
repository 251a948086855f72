"""The health checks of many connections, which begin in batches."""

from __future__ import annotations

import itertools

import pytest
import trio
from trio.testing import MockClock

from qorb_trio import Backend, Connector, Policy, Pool, SetConfig, open_pool
from qorb_trio._health.check_schedule import BATCH, MANY, MAX_SPREAD
from qorb_trio.testing import ManualResolver

from ..harness.fates import make_backends, pass_time

INTERVAL = SetConfig().health_interval

#: Connections to each backend.
EACH = 6


class Checked(Connector[list[float]]):
    """Its connections are the times of their checks, after that of the connect."""

    def __init__(self) -> None:
        self.conns: dict[Backend, list[list[float]]] = {}

    async def connect(self, backend: Backend) -> list[float]:
        """Return a connection that has not been checked yet."""
        conn = [trio.current_time()]
        self.conns.setdefault(backend, []).append(conn)
        return conn

    async def is_valid(self, conn: list[float]) -> bool:
        """Note the time."""
        conn.append(trio.current_time())
        return True


def waits(conns: list[list[float]], until: float) -> list[float]:
    """The times between two checks of a connection, up to a time."""
    return [
        after - before for conn in conns for before, after in itertools.pairwise([*conn, until])
    ]


def policy_for(slots: int) -> Policy:
    """A pool of `slots` spares, `EACH` of them to each backend."""
    set_config = SetConfig(max_count=EACH)
    return Policy(max_slots=slots, spares_wanted=slots, set_config=set_config)


async def opened(
    nursery: trio.Nursery, connector: Checked, backends: list[Backend]
) -> ManualResolver:
    """Open a pool with all its slots connected; its resolver can take backends away."""
    slots, resolver = len(backends) * EACH, ManualResolver(backends)
    opening = open_pool(nursery, resolver, connector, policy=policy_for(slots))
    pool: Pool[list[float]] = await opening.__aenter__()
    await pool.wait_ready(slots)
    return resolver


@pytest.mark.parametrize("backends", [1, 100])
async def test_many_checks_begin_in_batches(
    backends: int, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """Each connection is checked when that is due, and many are at the same time."""
    monkeypatch.setattr("qorb_trio._health.check_schedule.MANY", backends * EACH)
    connector = Checked()
    async with trio.open_nursery() as nursery:
        await opened(nursery, connector, make_backends(backends))
        await pass_time(600)
        conns = list(itertools.chain(*connector.conns.values()))
        now = trio.current_time()
        nursery.cancel_scope.cancel()
    assert len(conns) == backends * EACH
    assert max(waits(conns, now)) <= 1.75 * INTERVAL
    for conn in conns:
        assert min(b - a for a, b in itertools.pairwise(conn)) >= INTERVAL - 1e-6
    times = {time for conn in conns for time in conn[1:]}
    assert len(times) <= 600 / (INTERVAL * BATCH)


async def test_fewer_checks_make_no_batches(autojump_clock: MockClock) -> None:
    """Below that number of connections, checks are at more times than there are batches."""
    connector = Checked()
    async with trio.open_nursery() as nursery:
        await opened(nursery, connector, make_backends(MANY // EACH))
        await pass_time(1.9 * INTERVAL)
        firsts = [conn[1] for conns in connector.conns.values() for conn in conns]
        nursery.cancel_scope.cancel()
    assert len(firsts) == MANY // EACH * EACH
    assert len(set(firsts)) > MAX_SPREAD / BATCH


async def test_backends_that_leave_their_batch_keep_no_other_waiting(
    autojump_clock: MockClock,
) -> None:
    """The checks of all others stay in time, while half of the backends leave."""
    connector, backends = Checked(), make_backends(200)
    async with trio.open_nursery() as nursery:
        resolver = await opened(nursery, connector, backends)
        for left in range(0, 100, 10):
            await pass_time(INTERVAL / 8)
            resolver.set(backends[left + 10 :])
        await pass_time(3 * INTERVAL)
        now = trio.current_time()
        conns = list(itertools.chain(*(connector.conns[one] for one in backends[100:])))
        nursery.cancel_scope.cancel()
    assert len(conns) >= 100 * EACH
    assert max(waits(conns, now)) <= 1.75 * INTERVAL
