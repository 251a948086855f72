"""Runs what is to be compared in turns, and prints what came out.

A busy machine is slow for everybody, so contenders are never measured one after the other:
each round takes one sample of each, in an order that rotates, and a ratio is the median of
the ratios within the rounds.
"""

from __future__ import annotations

import argparse
import gc
import json
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
class Row:
    """What one contender has shown in one comparison."""

    question: str
    contender: str
    unit: str
    median: float
    least: float
    most: float
    #: To the first contender of the same comparison; `None` where there is nobody else.
    ratio: float | None

    def cells(self) -> list[str]:
        """As a line of the table."""
        numbers = [f"{number:,.2f}" for number in (self.median, self.least, self.most)]
        return [
            self.question,
            self.contender,
            *numbers,
            self.unit,
            "" if self.ratio is None else f"{self.ratio:.2f}",
        ]


@final
class Report:
    """Takes the samples of one benchmark and collects the rows."""

    def __init__(self, rounds: int | None) -> None:
        self._rounds = rounds
        self.rows: list[Row] = []

    async def compare(
        self, question: str, unit: str, contenders: Mapping[str, Sampler], *, rounds: int = 9
    ) -> None:
        """Let the contenders take turns. Ratios are to the first of them."""
        samples: dict[str, list[float]] = {name: [] for name in contenders}
        turns = list(contenders.items())
        for _ in range(self._rounds or rounds):
            for name, sampler in turns:
                gc.collect()
                samples[name].append(await sampler())
            turns.append(turns.pop(0))
        first = next(iter(samples.values()))
        for name, taken in samples.items():
            ratios = [one / base for one, base in zip(taken, first, strict=True) if base]
            self.rows.append(
                Row(
                    question=question,
                    contender=name,
                    unit=unit,
                    median=statistics.median(taken),
                    least=min(taken),
                    most=max(taken),
                    ratio=statistics.median(ratios) if len(samples) > 1 and ratios else None,
                )
            )

    def print(self, title: str) -> None:
        """Print the table, in Markdown."""
        head = ["question", "contender", "median", "min", "max", "unit", "ratio"]
        lines = [head, *(row.cells() for row in self.rows)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
        lines.insert(1, ["-" * width for width in widths])
        print(f"\n{title}\n")
        for line in lines:
            cells = [
                cell.rjust(width) if i in {2, 3, 4, 6} else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            ]
            print(f"| {' | '.join(cells)} |")

    def write(self, file: Path, title: str) -> None:
        """Write the rows as JSON."""
        document = {
            "benchmark": title,
            "python": platform.python_version(),
            "trio": trio.__version__,
            "rows": [attrs.asdict(row) for row in self.rows],
        }
        file.write_text(json.dumps(document, indent=2) + "\n")


def run(description: str | None, measure: Callable[[Report], Awaitable[None]]) -> None:
    """What every benchmark does when it is run as a program."""
    title = (description or "").partition("\n")[0]
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--rounds", type=int, help="how many samples to take of each contender")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE too")
    arguments = parser.parse_args()
    report = Report(arguments.rounds)
    trio.run(measure, report)
    report.print(title)
    if arguments.json is not None:
        report.write(arguments.json, title)
