"""Runs of scenarios, and their results as they are written to a file.

A new process cannot import the functions of ``__main__``, so these have a module of their own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import attrs

from .fleet import Size, run
from .models import compare
from .scenarios import SCENARIOS


def estimate(name: str, size: Size) -> float:
    """Return about how many seconds of CPU a scenario takes."""
    scenario = SCENARIOS[name]
    return scenario.cost * scenario.sized(size).clients


def longest_first(names: Iterable[str], size: Size) -> list[str]:
    """Order scenarios such that processes that take one after another end at the same time."""
    return sorted(names, key=lambda name: -estimate(name, size))


def run_scenarios(names: Sequence[str], size: Size, processes: int) -> Iterator[dict[str, Any]]:
    """Run scenarios, some at the same time; yield each result as it comes.

    A scenario that fails yields a result with the ``error`` alone, and the others go on.
    """
    ordered = longest_first(names, size)
    if processes <= 1:
        yield from (try_scenario(name, size) for name in ordered)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as executor:
        futures = {executor.submit(try_scenario, name, size): name for name in ordered}
        for future in as_completed(futures):
            died = future.exception()  # such as of a process that was killed
            yield failure(futures[future], died) if died is not None else future.result()


def try_scenario(name: str, size: Size) -> dict[str, Any]:
    """Run one scenario, and return the result, or the failure."""
    try:
        return run_scenario(name, size)
    except Exception as exc:  # the other scenarios go on
        return failure(name, exc)


def failure(name: str, exc: BaseException) -> dict[str, Any]:
    """Return the result of a scenario that did not end."""
    return {"scenario": name, "error": f"{type(exc).__name__}: {exc}"}


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
        "others": beside_others(name, sized, findings.comparable),
    }


def beside_others(name: str, size: Size, ours: dict[str, float]) -> dict[str, dict[str, float]]:
    """Return our own figures, and below them those of the models of other pools."""
    others = compare(name, size)
    return {"**qorb_trio**, as measured": ours, **others} if others else {}


def _rounded(chart: dict[str, Any]) -> dict[str, Any]:
    """Round the points of a chart, which are shown as a few pixels."""
    lines = {
        name: [(float(f"{x:.4g}"), float(f"{y:.4g}")) for x, y in line]
        for name, line in chart["lines"].items()
    }
    return chart | {"lines": lines}


@attrs.define
class ResultFile:
    """The results of all scenarios, in a file that is written after each one.

    Without a path, they are only kept. Results of an earlier run stay until a scenario is run
    again, so that a run that was interrupted loses nothing.
    """

    path: Path | None
    results: dict[str, dict[str, Any]] = attrs.field(init=False, factory=dict)

    def __attrs_post_init__(self) -> None:
        if self.path is not None and self.path.exists():
            self.results = {it["scenario"]: it for it in json.loads(self.path.read_text())}

    def has(self, name: str, size: Size) -> bool:
        """Return True if there is a result of a scenario at this size, and from this seed."""
        sized = SCENARIOS[name].sized(size)
        result = self.results.get(name, {})
        found = [result.get(key) for key in ("clients", "backends", "seed")]
        return found == [sized.clients, sized.backends, sized.seed]

    def add(self, result: dict[str, Any]) -> None:
        """Add the result of a scenario, and write the file."""
        self.results[result["scenario"]] = result
        if self.path is not None:
            ordered = [self.results[name] for name in SCENARIOS if name in self.results]
            draft = self.path.with_suffix(".tmp")
            draft.write_text(json.dumps(ordered) + "\n")
            draft.replace(self.path)
