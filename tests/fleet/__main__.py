"""``python -m tests.fleet``: simulate a fleet, show a table and charts, and write the results."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import attrs

from . import report
from .fleet import Size, run
from .models import compare
from .scenarios import SCENARIOS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run some scenarios; 0 if every figure reaches its target."""
    args = _parser().parse_args(arguments)
    size = Size(args.clients, args.backends, args.seed)
    chosen = list(SCENARIOS) if args.scenario is None else args.scenario
    results: dict[str, dict[str, Any]] = {}
    for done in _run(chosen, size, args.processes):
        results[done["scenario"]] = done
        _say(f"{done['scenario']}: {done['cpu']:.0f} s of CPU, {report.verdict(done)}")
    ordered = [results[name] for name in SCENARIOS if name in results]
    _say("", *report.table(ordered))
    for result in ordered:
        _say("", *report.text_chart(result["chart"]))
    if args.json is not None:
        args.json.write_text(json.dumps(ordered) + "\n")
    return min(1, sum(report.misses(result) for result in ordered))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.fleet", description=__doc__)
    parser.add_argument("--clients", type=int, default=1000, help="default: %(default)s")
    parser.add_argument("--backends", type=int, default=1000, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument(
        "--scenario", action="append", choices=list(SCENARIOS), help="may be repeated"
    )
    parser.add_argument("--processes", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--json", type=Path, help="where to write the results")
    return parser


def _say(*lines: str) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def _run(names: Sequence[str], size: Size, processes: int) -> Iterator[dict[str, Any]]:
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


if __name__ == "__main__":
    sys.exit(main())
