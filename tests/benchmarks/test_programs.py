"""The benchmarks run, in miniature: what they measure here means nothing."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
#: The server that a program starts, without which it says so and ends.
SERVERS = {"redis_service": "redis-server", "http_service": "nginx", "postgres": "initdb"}
#: Where Debian has what is not in the path.
PATH = os.pathsep.join([os.environ["PATH"], *map(str, Path("/usr/lib/postgresql").glob("*/bin"))])
PROGRAMS = [
    file
    for file in sorted(BENCHMARKS.glob("[a-z]*.py"))
    if "from _runner import" in file.read_text() and file.stem != "chart"
    if shutil.which(SERVERS.get(file.stem, sys.executable), path=PATH) is not None
]

#: All in one process, since to start one takes longer than any of them.
RUN_ALL = """
import runpy, sys
sys.path.insert(0, sys.argv[1])
programs = sys.argv[2:]
for program in programs:
    sys.argv[:] = [program, "--quick"]
    print("program:", program)
    runpy.run_path(program, run_name="__main__")
"""


@pytest.mark.real
def test_every_benchmark_runs() -> None:
    """Each program prints a table with a figure for the pool; peers may be missing."""
    assert len(PROGRAMS) > 8
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL, str(BENCHMARKS), *map(str, PROGRAMS)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    _, *parts = done.stdout.split("program: ")
    assert len(parts) == len(PROGRAMS)
    for part in parts:
        assert part.count("\n| ") > 2, part


@pytest.mark.real
def test_figures_are_written(tmp_path: Path) -> None:
    """With ``--json`` the figures are in a file, from which the page is made."""
    file = tmp_path / "results" / "start_up.json"
    subprocess.run(
        [sys.executable, str(BENCHMARKS / "start_up.py"), "--quick", "--json", str(file)],
        capture_output=True,
        timeout=100,
        check=True,
    )
    written = json.loads(file.read_text())
    assert {"benchmark", "python", "trio", "cores"} < written.keys()
    assert {row["unit"] for row in written["rows"]} == {"ms"}


def test_the_round_in_the_middle_is_shown() -> None:
    """Of several rounds of a fault the table has the one with the median of failed requests."""
    rounds = [(7, 0.1), (2, 0.5), (2, 0.2), (0, 9.0), (5, 0.3)]
    account = runpy.run_path(str(BENCHMARKS / "_faults.py"))
    accounts = [account["Account"](failed=failed, longest_gap=gap) for failed, gap in rounds]
    chosen = account["middle"](accounts)
    assert (chosen.failed, chosen.longest_gap) == (2, 0.5)


def test_the_pages_show_what_was_measured() -> None:
    """The figures of README.md and of the pages in docs are those of benchmarks/results."""
    chart = [sys.executable, str(BENCHMARKS / "chart.py"), "--check"]
    done = subprocess.run(chart, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
