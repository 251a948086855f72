"""Simulations: the nine statements hold after every task step, whatever happens."""

from __future__ import annotations

import pytest

from ..harness import base_seed
from .play import simulate
from .product import PRODUCT, play_product
from .report import Summary, explain
from .worlds import make_world

#: Number of seeds that are run here; ``nox -s simulate`` can run any number.
SEEDS = 120
CHUNK = 10


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_the_nine_statements_hold(first: int) -> None:
    """In some simulations, nothing that is promised is broken at any step."""
    summary = Summary()
    for seed in range(base_seed() * SEEDS + first, base_seed() * SEEDS + first + CHUNK):
        summary.add(seed, simulate(seed))
    assert not summary.failed, explain(summary.failed[0])
    assert summary.steps > 1000


def test_a_seed_is_a_simulation() -> None:
    """The same seed makes the same world, and takes the same course to the last step."""
    for seed in range(5):
        assert make_world(seed).actions == make_world(seed).actions
        assert simulate(seed, tracing=True).trace == simulate(seed, tracing=True).trace


def test_every_hook_in_every_way() -> None:
    """Some of the 1,024 ways in which five hooks work, fail, are slow or hang: all is kept."""
    assert len(PRODUCT) == 1024
    assert play_product(PRODUCT[::21]) == 49
