"""Runs of scenarios, and their results as they are written to a file.

A new process cannot import the functions of ``__main__``, so these have a module of their own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import Any

import attrs

from .fleet import Size, run
from .models import compare
from .scenarios import SCENARIOS


def run_scenarios(names: Sequence[str], size: Size, processes: int) -> Iterator[dict[str, Any]]:
    """Run scenarios, some at the same time; yield each result as it comes."""
    if processes <= 1:
        yield from (run_scenario(name, size) for name in names)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as executor:
        for future in as_completed([executor.submit(run_scenario, n, size) for n in names]):
            yield future.result()


def run_scenario(name: str, size: Size) -> dict[str, Any]:
    """Run one scenario, and return the result as it is written to the file."""
    scenario = SCENARIOS[name]
    sized = scenario.sized(size)
    began = time.process_time()
    findings = run(scenario.story, sized, seed=size.seed)
    return {
        "scenario": name,
        "title": scenario.title,
        "text": scenario.text,
        "clients": sized.clients,
        "backends": sized.backends,
        "seed": size.seed,
        "cpu": round(time.process_time() - began, 1),
        "figures": [
            attrs.asdict(figure) | {"is_reached": figure.is_reached} for figure in findings.figures
        ],
        "chart": _rounded(attrs.asdict(findings.chart)),
        "others": compare(name, sized),
    }


def _rounded(chart: dict[str, Any]) -> dict[str, Any]:
    """Round the points of a chart, which are shown as a few pixels."""
    lines = {
        name: [(float(f"{x:.4g}"), float(f"{y:.4g}")) for x, y in line]
        for name, line in chart["lines"].items()
    }
    return chart | {"lines": lines}
