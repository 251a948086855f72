"""Each scenario of a fleet, in a small version: what `nox -s fleet` shows at full size."""

from __future__ import annotations

import pytest

from .findings import Findings
from .fleet import Size, run
from .scenarios import SCENARIOS

#: For each scenario, the size at which it takes about a second or two of CPU.
SIZES = {
    "cold-start": Size(50, 50),
    "restart-all": Size(8, 24),
    "restart-busy": Size(8, 24),
    "rolling-restart": Size(20, 20),
    "rolling-kill": Size(20, 20),
    "third-lost": Size(20, 24),
    "doubled": Size(20, 80),
    "slow-backend": Size(3, 24, duration=0.5),
    "failing-backend": Size(3, 24, duration=0.5),
    "weights": Size(20, 120),
    "dns": Size(1, 10),
    "health-checks": Size(4, 8),
    "lifetimes": Size(8, 48),
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
