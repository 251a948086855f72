"""``python -m tests.fleet.page``: draw the charts and write the figures of docs/fleet.md."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .charts import svg
from .report import number, target

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "fleet.json"
PAGE = ROOT / "docs" / "fleet.md"
CHARTS = ROOT / "docs" / "fleet"

BEGIN, END = "<!-- figures: begin -->\n", "<!-- figures: end -->\n"


def main(arguments: Sequence[str] = ()) -> str | None:
    """With ``--check``, only compare the page and the charts with the results."""
    results = json.loads(RESULTS.read_text())
    files = {CHARTS / f"{result['scenario']}.svg": svg(result["chart"]) for result in results}
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    files[PAGE] = before + BEGIN + "".join(f"{line}\n" for line in lines_of(results)) + END + after
    if "--check" in arguments:
        stale = [file.name for file, text in files.items() if file.read_text() != text]
        return f"not as in the results: {', '.join(stale)}" if stale else None
    CHARTS.mkdir(exist_ok=True)
    for file, text in files.items():
        file.write_text(text)
    return None


def lines_of(results: Sequence[dict[str, Any]]) -> list[str]:
    """Return the lines of all scenarios."""
    return [line for result in results for line in section(result)]


def section(result: dict[str, Any]) -> list[str]:
    """Return the lines of one scenario."""
    sizes = f"{result['clients']:,} clients, {result['backends']:,} backends"
    options = f"--clients {result['clients']} --backends {result['backends']}"
    options += f" --scenario {result['scenario']} --seed {result['seed']}"
    return [
        "",
        f"### {result['title']}",
        "",
        f"{result['text']} {sizes}, seed {result['seed']}; {result['cpu']:.0f} s of CPU.",
        "",
        f"    nox -s fleet -- {options}",
        "",
        *_figures(result),
        *_others(result.get("others", {})),
        "",
        f"![{result['chart']['title']}](fleet/{result['scenario']}.svg)",
    ]


def _figures(result: dict[str, Any]) -> list[str]:
    lines = ["| figure | measured | target | |", "|---|---|---|---|"]
    for figure in result["figures"]:
        verdict = "" if figure["target"] is None else "reached"
        verdict = verdict if figure["is_reached"] else "**missed**"
        aim = target(figure)
        if figure["note"]:
            aim += f" ({figure['note']})"
        lines.append(f"| {figure['name']} | {number(figure['value'])} | {aim} | {verdict} |")
    return lines


def _others(others: dict[str, dict[str, float]]) -> list[str]:
    """Return a table of what the models of other pools do in the same scenario."""
    if not others:
        return []
    names = list(next(iter(others.values())))
    head = ["", "Beside the models of others:", "", f"| pool | {' | '.join(names)} |"]
    rows = [
        f"| {who} | {' | '.join(number(value) for value in figures.values())} |"
        for who, figures in others.items()
    ]
    return [*head, "|---" * (len(names) + 1) + "|", *rows]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
