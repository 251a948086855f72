"""Each scenario of a fleet, in a small version: what `nox -s fleet` shows at full size."""

from __future__ import annotations

import pytest

from .findings import Findings
from .fleet import Size, run
from .scenarios import SCENARIOS

#: The size of each scenario: 50 clients and 50 backends where these take some seconds of CPU.
#: The others are smaller, or shorter, so that all of them take about a minute.
SIZES = {
    "cold-start": Size(50, 50),
    "restart-all": Size(8, 24),
    "restart-busy": Size(8, 24),
    "rolling-restart": Size(20, 50),
    "rolling-kill": Size(50, 50),
    "third-lost": Size(50, 50),
    "doubled": Size(50, 50),
    "slow-backend": Size(3, 24, duration=0.5),
    "failing-backend": Size(3, 24, duration=0.5),
    "weights": Size(50, 400),
    "dns": Size(1, 10),
    "health-checks": Size(4, 8),
    "lifetimes": Size(16, 50),
    "thundering-return": Size(10, 2),
}


def found(name: str, size: Size | None = None, seed: int = 1) -> Findings:
    """Run the small version of a scenario."""
    size = size or SIZES[name]
    return run(
        SCENARIOS[name].story, Size(size.clients, size.backends, seed, size.duration), seed=seed
    )


@pytest.mark.parametrize("name", SIZES)
def test_a_small_fleet(name: str) -> None:
    """A small fleet reaches the targets of the scenario."""
    findings = found(name)
    assert findings.missed == []
    assert any(line for line in findings.chart.lines.values())


def test_every_scenario_has_a_small_version() -> None:
    """No scenario is left out."""
    assert {*SIZES} == {*SCENARIOS}
    assert SCENARIOS["dns"].sized(Size(1000, 1000)).clients == 100


def test_a_fleet_follows_from_its_seed() -> None:
    """The same seed gives the same fleet, and another seed another one."""
    few = Size(10, 16)
    first, again, other = (found("cold-start", few, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other
