"""The measures, and the report."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import attrs
import pytest

from . import report
from .__main__ import main
from .findings import Chart, Figure, Findings
from .fleet import Size
from .measures import chance_limit, falling, per_interval, quantile, shares, spread, worst_cell
from .runs import estimate, longest_first
from .scenarios import SCENARIOS


def test_spread_and_shares() -> None:
    """The spread is the largest count over the mean, and shares add up to one."""
    assert spread([1, 2, 3]) == 1.5
    assert spread([0, 0]) == 0
    assert shares([1, 2, 3, 4], 2) == [0.4, 0.6]


def test_intervals() -> None:
    """An event counts in the interval in which it falls, and outside of all in none."""
    times = [0.0, 0.5, 1.0, 2.9, 3.0]
    assert per_interval(times, 0, 3) == [2, 1, 1]
    assert worst_cell([(0.1, 1), (0.2, 1), (0.3, 2), (1.1, 1)], 0, 2) == 2
    assert worst_cell([], 0, 2) == 0


def test_quantiles_and_profiles() -> None:
    """A quantile is one of the values; a profile falls."""
    assert quantile([3, 1, 2], 0.5) == 2
    assert quantile([], 0.5) == 0
    assert falling([1, 3, 2]) == [(0, 3), (50, 2), (100, 1)]


@pytest.mark.parametrize(("mean", "cells"), [(3.2, 250), (10.0, 1000)])
def test_the_limit_of_chance(mean: float, cells: int) -> None:
    """Events that fall at random exceed the limit in about one of a hundred runs."""
    limit = chance_limit(mean, cells, risk=0.05)
    rng = random.Random(1)
    exceeded = sum(_fullest(rng, mean, cells) > limit for _ in range(100))
    assert exceeded <= 12
    assert chance_limit(mean, cells, risk=0.999) < limit


def test_the_limit_of_chance_with_many_events() -> None:
    """Many events are close to normal: 3.7 standard deviations leave 0.01 of a hundred cells."""
    assert chance_limit(10_000, 100) == pytest.approx(10_000 + 3.72 * 100, abs=15)
    assert chance_limit(0.5, 1) == 3


def _fullest(rng: random.Random, mean: float, cells: int) -> int:
    cells_of_events = (rng.randrange(cells) for _ in range(int(mean * cells)))
    return max(Counter(cells_of_events).values())


def test_findings_know_what_they_miss() -> None:
    """A figure without a target misses nothing."""
    chart = Chart("t", "x", "y", {})
    missed = Figure("c", 1, 2, "at least")
    findings = Findings([Figure("a", 1), Figure("b", 2, 2), missed], chart)
    assert findings.missed == [missed]
    assert findings.value("b") == 2


def test_a_chart_for_the_terminal() -> None:
    """Each line of the chart has a mark of its own, at the right place."""
    lines = report.text_chart(
        {"title": "T", "x": "s", "y": "n", "lines": {"a": [(0, 0), (10, 2)], "b": [(5, 1)]}}
    )
    assert lines[0] == "T: n (o a, + b)"
    assert lines[1].endswith("o")
    assert lines[1 + report.HEIGHT // 2].index("+") == 11 + report.WIDTH // 2
    assert lines[-2][11] == "o"


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command shows a table, and writes the results to a file."""
    file = tmp_path / "fleet.json"
    arguments = ["--clients=10", "--backends=20", "--scenario=cold-start", "--processes=1"]
    assert main([*arguments, f"--json={file}"]) == 0
    assert "cold-start: " in capsys.readouterr().out
    [result] = json.loads(file.read_text())
    assert (result["clients"], result["backends"], result["seed"]) == (10, 20, 1)
    assert report.misses(result) == 0


def test_a_run_is_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Results of other scenarios stay in the file, and a resumed run does only what is left."""
    file = tmp_path / "fleet.json"
    file.write_text('[{"scenario": "dns", "clients": 1}]')
    arguments = ["--clients=10", "--backends=20", "--processes=1", f"--json={file}"]
    assert main([*arguments, "--scenario=cold-start"]) == 0
    assert [result["scenario"] for result in json.loads(file.read_text())] == ["cold-start", "dns"]
    capsys.readouterr()
    assert main([*arguments, "--scenario=cold-start", "--resume"]) == 0
    assert capsys.readouterr().out.startswith("0 scenarios")


def test_a_scenario_that_fails_leaves_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error in one scenario is shown, and the results of the others are written."""

    async def broken(size: Size) -> Findings:
        raise ZeroDivisionError(size.clients)

    monkeypatch.setitem(
        SCENARIOS, "weights", attrs.evolve(SCENARIOS["weights"], story=broken, cost=1.0)
    )
    file = tmp_path / "fleet.json"
    arguments = ["--clients=10", "--backends=20", "--processes=1", f"--json={file}"]
    assert main([*arguments, "--scenario=cold-start", "--scenario=weights"]) == 1
    output = capsys.readouterr().out
    assert "1/2 weights: FAILED, ZeroDivisionError: 10" in output
    assert "2/2 cold-start: " in output
    assert [result["scenario"] for result in json.loads(file.read_text())] == ["cold-start"]


def test_the_longest_scenario_begins() -> None:
    """Scenarios are run from the most expensive one to the cheapest one."""
    names = longest_first(SCENARIOS, Size())
    costs = [estimate(name, Size()) for name in names]
    assert costs == sorted(costs, reverse=True)
    assert {*names} == {*SCENARIOS}


@pytest.mark.real
def test_a_fleet_is_the_same_in_every_process() -> None:
    """Two processes with different hashes get the same figures from one seed."""
    code = (
        "from tests.fleet.runs import run_scenario; from tests.fleet.fleet import Size\n"
        "for name in ('third-lost', 'restart-busy'):\n"
        "    result = run_scenario(name, Size(4, 12, 5))\n"
        "    print(result['figures'], result['chart'])"
    )
    root = Path(__file__).parents[2]
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=root,
            env={"PYTHONPATH": f"{root / 'src'}:{root}", "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        ).stdout
        for seed in (1, 2)
    }
    assert len(outputs) == 1


@pytest.mark.real
def test_scenarios_run_in_processes_of_their_own(tmp_path: Path) -> None:
    """The command runs two scenarios at the same time, and orders the results."""
    file = tmp_path / "fleet.json"
    size = ("--clients=10", "--backends=20", "--processes=2")
    chosen = ("--scenario=rolling-restart", "--scenario=cold-start")
    subprocess.run(
        [sys.executable, "-m", "tests.fleet", *size, *chosen, f"--json={file}"],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.DEVNULL,
        check=False,  # with so few clients some targets are missed
        timeout=120,
    )
    results = [result["scenario"] for result in json.loads(file.read_text())]
    assert results == ["cold-start", "rolling-restart"]
