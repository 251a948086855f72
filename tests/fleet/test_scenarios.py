"""Each scenario of `nox -s fleet`, with 50 clients and 50 backends."""

from __future__ import annotations

import pytest

from .findings import Findings
from .fleet import Size, run
from .scenarios import SCENARIOS

#: How much shorter each scenario is than at full size, so that each takes some seconds of CPU.
#: All have 50 clients and 50 backends, or the few backends that the scenario has at full size.
DURATIONS = {
    "cold-start": 1,
    "restart-all": 0.02,
    "restart-busy": 0.05,
    "rolling-restart": 0.2,
    "rolling-kill": 0.4,
    "third-lost": 1,
    "doubled": 1,
    "slow-backend": 0.25,
    "failing-backend": 0.25,
    "weights": 1,
    "dns": 0.1,
    "health-checks": 0.2,
    "lifetimes": 0.2,
    "thundering-return": 0.25,
}


def found(name: str, size: Size) -> Findings:
    """Run a scenario."""
    scenario = SCENARIOS[name]
    return run(scenario.story, scenario.sized(size), seed=size.seed)


@pytest.mark.parametrize(("name", "duration"), DURATIONS.items(), ids=str)
def test_fifty_clients_and_fifty_backends(name: str, duration: float) -> None:
    """The scenario reaches its targets with 50 clients and 50 backends."""
    findings = found(name, Size(50, 50, duration=duration))
    assert findings.missed == []
    assert any(line for line in findings.chart.lines.values())


def test_every_scenario_has_a_small_version() -> None:
    """No scenario is left out."""
    assert {*DURATIONS} == {*SCENARIOS}
    assert SCENARIOS["dns"].sized(Size(1000, 1000)).clients == 100


def test_a_fleet_follows_from_its_seed() -> None:
    """The same seed gives the same fleet, and another seed another one."""
    first, again, other = (found("cold-start", Size(10, 16, seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other
