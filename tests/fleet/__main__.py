"""``python -m tests.fleet``: simulate a fleet, show a table and charts, and write the results."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from . import report
from .fleet import Size
from .runs import ResultFile, estimate, run_scenarios
from .scenarios import SCENARIOS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run some scenarios; 0 if every figure reaches its target."""
    args = _parser().parse_args(arguments)
    size = Size(args.clients, args.backends, args.seed)
    file = ResultFile(args.json)
    chosen = list(SCENARIOS) if args.scenario is None else args.scenario
    if args.resume:
        chosen = [name for name in chosen if not file.has(name, size)]
    done = {result["scenario"]: result for result in _run(chosen, size, args.processes, file)}
    ordered = [done[name] for name in SCENARIOS if name in done]
    _say("", *report.table(ordered))
    for result in ordered:
        _say("", *report.text_chart(result["chart"]))
    missed = sum(report.misses(result) for result in ordered)
    return 0 if len(done) == len(chosen) and not missed else 1


def _run(
    names: Sequence[str], size: Size, processes: int, file: ResultFile
) -> Iterator[dict[str, Any]]:
    """Run scenarios, tell of each, and write its result at once; yield those that ended."""
    expected = sum(estimate(name, size) for name in names)
    _say(f"{len(names)} scenarios, about {expected:.0f} s of CPU, in {processes} processes")
    for count, result in enumerate(run_scenarios(names, size, processes), 1):
        told = f"{count}/{len(names)} {result['scenario']}: "
        if "error" in result:
            _say(f"{told}FAILED, {result['error']}")
            continue
        file.add(result)
        _say(f"{told}{result['cpu']:.0f} s of CPU, {report.verdict(result)}")
        yield result


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.fleet", description=__doc__)
    parser.add_argument("--clients", type=int, default=1000, help="default: %(default)s")
    parser.add_argument("--backends", type=int, default=1000, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument(
        "--scenario", action="append", choices=list(SCENARIOS), help="may be repeated"
    )
    parser.add_argument("--processes", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--json", type=Path, help="where to write the result of each scenario")
    parser.add_argument(
        "--resume", action="store_true", help="leave out scenarios whose results the file has"
    )
    return parser


def _say(*lines: str) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
