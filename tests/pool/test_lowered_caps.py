"""Dials that a plan has ordered before `Pool.reconfigure` lowers a cap, and that begin after it."""

from __future__ import annotations

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from qorb_trio import Backend, Connector, FixedResolver, Policy, Pool, SetConfig, open_pool

from ..harness import run

BEFORE = Policy(max_slots=4, spares_wanted=0)
LOWERED = [
    attrs.evolve(BEFORE, max_slots=1),
    attrs.evolve(BEFORE, set_config=SetConfig(max_count=1)),
]


class Slow(Connector[object]):
    """Connections that take a second to open; the dials are counted."""

    dials = 0

    async def connect(self, backend: Backend) -> object:
        """Take a second."""
        self.dials += 1
        await trio.sleep(1)
        return object()


async def hold(pool: Pool[object]) -> None:
    """Hold a claim to the end."""
    async with pool.claim():
        await trio.sleep_forever()


async def lower_after(steps: int, policy: Policy) -> tuple[int, int]:
    """Lower a cap some steps after four claims. Return the dials by then, and a while later."""
    connector = Slow()
    async with trio.open_nursery() as nursery:
        resolver = FixedResolver(["a.test:1"])
        async with open_pool(nursery, resolver, connector, policy=BEFORE) as pool:
            await wait_all_tasks_blocked()
            for _ in range(4):
                nursery.start_soon(hold, pool)
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            pool.reconfigure(policy)
            begun = connector.dials
            await trio.sleep(0.5)
            later = connector.dials
            await pool.wait_ready()
            nursery.cancel_scope.cancel()
    return begun, later


@pytest.mark.parametrize("policy", LOWERED, ids=["max_slots", "max_count"])
def test_no_dial_begins_above_a_lowered_cap(policy: Policy) -> None:
    """From the step in which a cap is lowered, nothing opens above it, ordered or not."""
    seen = set()
    for seed in range(10):
        for steps in range(10):
            begun, later = run(lower_after, steps, policy, seed=seed)
            assert later == max(begun, 1)
            seen.add(begun)
    assert {0, 4} <= seen, "the cap is lowered before all dials and after all"
