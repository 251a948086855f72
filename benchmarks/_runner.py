"""The runner of the benchmarks: it measures the contenders in turns, and prints the results.

A busy machine slows all contenders, so they are never measured one after the other. Each
round takes one sample of each contender, in an order that rotates. A ratio is the median of
the ratios within the rounds.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TypeAlias, final

import attrs
import trio

#: Does the work once and returns one sample, in the unit of the comparison.
Sampler: TypeAlias = Callable[[], Awaitable[float]]


@final
@attrs.frozen
class Goal:
    """This project's target for one contender."""

    most: float
    #: True if `most` is the maximum of the ratio; otherwise it is that of the median.
    of_ratio: bool = False

    def __str__(self) -> str:
        return f"≤ {self.most:,g}{' x' if self.of_ratio else ''}"


def times(most: float) -> Goal:
    """Make a target: at most `most` times the value of the first contender."""
    return Goal(most, of_ratio=True)


@final
@attrs.frozen
class Row:
    """The result of one contender in one comparison."""

    question: str
    contender: str
    unit: str
    median: float
    least: float
    most: float
    #: Ratio to the first contender of the comparison; `None` if there is only one contender.
    ratio: float | None
    #: The target, if there is one, and whether it was reached.
    goal: str = ""
    reached: bool | None = None

    def cells(self) -> list[str]:
        """Return the cells of the row's line in the table."""
        numbers = [number(value) for value in (self.median, self.least, self.most)]
        return [
            self.question,
            self.contender,
            *numbers,
            self.unit,
            "" if self.ratio is None else ratio_text(self.ratio),
            self.goal if self.reached is not False else f"{self.goal} (missed)",
        ]


def number(value: float) -> str:
    """With as many digits as tell something."""
    return f"{value:,.{0 if value >= 1000 else 1 if value >= 100 else 2}f}"


def ratio_text(ratio: float) -> str:
    """With two digits after the point, or three if it is small."""
    return f"{ratio:.{3 if abs(ratio) < 0.1 else 2}f}"


HEAD = ["question", "contender", "median", "min", "max", "unit", "ratio", "target"]
_TO_THE_RIGHT = {2, 3, 4, 6}


def markdown(rows: list[Row]) -> list[str]:
    """The lines of a table."""
    lines = [row.cells() for row in rows]
    widths = [max(len(line[i]) for line in [HEAD, *lines]) for i in range(len(HEAD))]
    rule = [
        "-" * (width - 1) + (":" if i in _TO_THE_RIGHT else "-") for i, width in enumerate(widths)
    ]
    table = []
    for line in [HEAD, rule, *lines]:
        cells = [
            cell.rjust(width) if i in _TO_THE_RIGHT else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        table.append(f"| {' | '.join(cells)} |")
    return table


@final
class Report:
    """Takes the samples of one benchmark and collects the rows."""

    def __init__(self, *, rounds: int | None = None, quick: bool = False) -> None:
        self._rounds = 1 if quick else rounds
        #: True for a trial run of the program: one round, with small sizes.
        self.quick = quick
        self.rows: list[Row] = []

    def size(self, full: int, small: int) -> int:
        """Return `full`, or `small` in a quick run."""
        return small if self.quick else full

    async def compare(
        self,
        question: str,
        unit: str,
        contenders: Mapping[str, Sampler],
        *,
        rounds: int = 9,
        goals: Mapping[str, Goal] | None = None,
    ) -> None:
        """Let the contenders take turns. Ratios are to the first of them."""
        samples: dict[str, list[float]] = {name: [] for name in contenders}
        turns = list(contenders.items())
        for _ in range(self._rounds or rounds):
            for name, sampler in turns:
                if not self.quick:
                    gc.collect()
                samples[name].append(await sampler())
            turns.append(turns.pop(0))
        first = next(iter(samples.values()))
        for name, taken in samples.items():
            ratios = [one / base for one, base in zip(taken, first, strict=True) if base]
            ratio = statistics.median(ratios) if len(samples) > 1 and ratios else None
            median = statistics.median(taken)
            goal = (goals or {}).get(name)
            if goal is not None and goal.of_ratio and ratio is None:
                goal = None  # there is nobody to compare with
            reached = None
            if goal is not None:
                reached = ((ratio or 0) if goal.of_ratio else median) <= goal.most
            self.rows.append(
                Row(
                    question=question,
                    contender=name,
                    unit=unit,
                    median=median,
                    least=min(taken),
                    most=max(taken),
                    ratio=ratio,
                    goal=str(goal or ""),
                    reached=reached,
                )
            )

    def print(self, title: str) -> None:
        """Print the table, in Markdown."""
        print(f"\n{title}\n")
        print("\n".join(markdown(self.rows)))

    def write(self, file: Path, title: str) -> None:
        """Write the rows as JSON."""
        document = {
            "benchmark": title,
            "python": platform.python_version(),
            "trio": trio.__version__,
            "cores": os.cpu_count(),
            "rows": [attrs.asdict(row) for row in self.rows],
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def run(description: str | None, measure: Callable[[Report], Awaitable[None]]) -> None:
    """Run a benchmark as a program: parse the arguments, measure, print and write."""
    title = (description or "").partition("\n")[0]
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--rounds", type=int, help="how many samples to take of each contender")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE too")
    parser.add_argument(
        "--quick", action="store_true", help="only see whether it runs; the figures mean nothing"
    )
    arguments = parser.parse_args()
    report = Report(rounds=arguments.rounds, quick=arguments.quick)
    trio.run(measure, report)
    report.print(title)
    if arguments.json is not None:
        report.write(arguments.json, title)
