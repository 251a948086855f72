"""Fixtures of the pool's tests: the scheduler is seeded for each of them."""

from __future__ import annotations

import pytest

from ..harness import seed_scheduler


@pytest.fixture(autouse=True)
def _seeded(request: pytest.FixtureRequest) -> None:
    """Seed Trio's scheduler from the test's name, so that each test can be replayed."""
    seed_scheduler(request.node.name)
