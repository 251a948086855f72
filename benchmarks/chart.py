"""Draws the chart and writes the tables of docs/performance.md, from benchmarks/results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt

from _runner import Row, markdown

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "performance.md"
CHART = ROOT / "docs" / "performance"
BEGIN, END = "<!-- figures: begin -->\n", "<!-- figures: end -->\n"

OURS, OTHERS = "#2a6f97", "#b8c4cc"
#: In this order on the page.
ORDER = (
    "claim_release", "contention", "start_teardown", "echo", "memory", "start_up",
    "replacement", "idle", "import_time", "peers", "scaling",
)  # fmt: skip


def read() -> dict[str, dict[str, Any]]:
    """What each program has written."""
    return {
        name: json.loads((RESULTS / f"{name}.json").read_text())
        for name in ORDER
        if (RESULTS / f"{name}.json").exists()
    }


def rows_of(document: dict[str, Any], question: str = "") -> list[Row]:
    """The rows whose question begins so."""
    return [Row(**row) for row in document["rows"] if row["question"].startswith(question)]


def bars(axes: Any, rows: list[Row], title: str) -> None:
    """One bar each, the quickest on top."""
    rows = sorted(rows, key=lambda row: row.median, reverse=True)
    colours = [OURS if row.contender == "qorb_trio" else OTHERS for row in rows]
    drawn = axes.barh([row.contender for row in rows], [row.median for row in rows], color=colours)
    axes.bar_label(drawn, [f"{row.median:,.3g}" for row in rows], padding=3, fontsize=8)
    axes.set_xscale("log")
    axes.set_xlim(right=max(row.median for row in rows) * 5)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("µs per claim and release, logarithmic", fontsize=8)


def curves(axes: Any, document: dict[str, Any]) -> None:
    """A line for each question."""
    for question in dict.fromkeys(row["question"] for row in document["rows"]):
        rows = rows_of(document, question)
        sizes = [int(row.contender.replace(",", "")) for row in rows]
        dashed = "CapacityLimiter" in question
        axes.plot(
            sizes, [row.median for row in rows], ":" if dashed else "-", marker="o", label=question
        )
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_title("The same claim in bigger pools", fontsize=10)
    axes.set_xlabel("how many", fontsize=8)
    axes.set_ylabel("µs per claim and release", fontsize=8)
    axes.legend(fontsize=7)


def draw(documents: dict[str, dict[str, Any]]) -> None:
    """The chart, as PNG and as SVG, the same each time that the figures are."""
    plt.rcParams["svg.hashsalt"] = "qorb_trio"
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(14, 4), layout="constrained")
    peers = documents["peers"]
    bars(left, rows_of(peers, "warm claim, 16 "), "Warm claim, 16 connections")
    bars(middle, rows_of(peers, "warm claim, 1,000 "), "Warm claim, 1,000 connections")
    curves(right, documents["scaling"])
    for axes in (left, middle, right):
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(CHART.with_suffix(".png"), dpi=110, metadata={"Software": None})
    figure.savefig(CHART.with_suffix(".svg"), metadata={"Date": None})


def write(documents: dict[str, dict[str, Any]]) -> None:
    """The tables, between the marks."""
    some = next(iter(documents.values()))
    lines = [
        f"{some['cores']} shared cores, Python {some['python']}, Trio {some['trio']}.",
        "",
    ]
    for name, document in documents.items():
        lines += [f"### {document['benchmark']}", "", f"`benchmarks/{name}.py`", ""]
        lines += [*markdown(rows_of(document)), ""]
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text("".join([before, BEGIN, "\n", "\n".join(lines), END, after]))


if __name__ == "__main__":
    measured = read()
    draw(measured)
    write(measured)
