"""Rules that only a rare order of events shows: the faults that once went unnoticed."""

from __future__ import annotations

import math
import random

import pytest
import trio
from trio.testing import MockClock

from qorb_trio import Instrument

from ..harness import OK, fails, open_bench, policy_of, slow
from ..harness.ledger import LedgerConnector


@pytest.mark.parametrize("seed", range(4))
async def test_i_a_backend_that_failed_comes_behind_those_that_work(
    autojump_clock: MockClock, seed: int
) -> None:
    """With fewer slots than backends, one that was down takes no slot back from the others."""
    policy = policy_of(max_slots=3, spares_wanted=3, rebalance_interval=math.inf, health_interval=2)
    async with open_bench("abcdef", policy=policy, rng=random.Random(seed)) as bench:
        await bench.settle(1)
        for _ in range(2):
            conn = bench.ledger.idle[0]
            victim = conn.backend.name
            bench.script.always("connect", fails(OSError("down")), backend=victim)
            conn.broken = True
            while bench.stats().backends[victim].online:  # noqa: ASYNC110 - no event says so
                await trio.sleep(0.1)
            await bench.settle(10)
            bench.script.always("connect", OK, backend=victim)
            await bench.settle(120)
            backends = bench.stats().backends
            assert backends[victim].wanted == 0
            assert sum(one.wanted for one in backends.values()) == 3


async def test_i_a_later_failure_puts_off_a_dial_that_waits(autojump_clock: MockClock) -> None:
    """A dial in its back-off waits longer if the backend's retry is put off meanwhile."""
    connector = LedgerConnector()
    connector.script.next("connect", slow(0.45), fails(OSError("down")), OK, OK)
    policy = policy_of(
        max_slots=3,
        spares_wanted=3,
        min_connection_backoff=0.5,
        spread=0,
        max_connection_backoff=30,
    )
    async with open_bench(connector=connector, policy=policy) as bench:
        await bench.settle(0.4)
        assert [dial.started for dial in bench.ledger.dials] == [0, 0]
        assert bench.count("connecting") == 2, "one of the three is in its back-off"
        await bench.settle(5)
        # The first dial has connected at 0.45, and has to prove itself for as long as the
        # back-off was: half a second at least.
        later = [dial.started for dial in bench.ledger.dials[2:]]
        assert min(later) >= 0.95


class Plans(Instrument):
    """Counts the plans."""

    def __init__(self) -> None:
        self.count = 0

    def rebalance_start(self, pool: str) -> None:
        """Count it."""
        self.count += 1


async def test_i_a_jump_of_the_clock_makes_one_rebalance(autojump_clock: MockClock) -> None:
    """A process that was asleep for a hundred intervals rebalances once, and not in a row."""
    plans = Plans()
    policy = policy_of(rebalance_interval=10, health_interval=math.inf)
    async with open_bench(policy=policy, instruments=[plans]) as bench:
        await bench.settle(5)
        before = plans.count
        autojump_clock.jump(1000)
        await bench.settle(9)
        assert plans.count - before == 1
        await bench.settle(2)
        assert plans.count - before == 2


async def test_i_a_cancelled_terminate_drains_no_longer(autojump_clock: MockClock) -> None:
    """A terminate() that is cancelled cuts claims off at once."""
    policy = policy_of(drain_timeout=1000)
    async with open_bench(policy=policy) as bench:
        claim = await bench.acquire()
        with trio.move_on_after(3) as scope:
            bench.may_cut(3)
            await bench.pool.terminate()
        assert scope.cancelled_caught
        assert trio.current_time() == 3
        assert bench.pool.is_closed
        bench.release(claim)
