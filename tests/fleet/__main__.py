"""``python -m tests.fleet``: simulate a fleet, show a table and charts, and write the results."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import report
from .fleet import Size
from .runs import run_scenarios
from .scenarios import SCENARIOS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run some scenarios; 0 if every figure reaches its target."""
    args = _parser().parse_args(arguments)
    size = Size(args.clients, args.backends, args.seed)
    chosen = list(SCENARIOS) if args.scenario is None else args.scenario
    results: dict[str, dict[str, Any]] = {}
    for done in run_scenarios(chosen, size, args.processes):
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


if __name__ == "__main__":
    sys.exit(main())
