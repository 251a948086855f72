"""Draw the charts, and write the figures of README.md and of the pages in docs/, from results/.

With ``--check`` it only says which pages differ; with ``--tables`` it draws nothing.
"""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path
from typing import Any

import _faults
from _runner import Row, markdown, number, ratio_text

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "performance.md"
README = ROOT / "README.md"
CHART = ROOT / "docs" / "performance"
SERVICE_CHART = ROOT / "docs" / "services"

OURS, OTHERS = "#2a6f97", "#b8c4cc"
#: In this order on the page.
ORDER = (
    "claim_release", "contention", "start_teardown", "echo", "memory", "start_up", "backends",
    "replacement", "idle", "import_time", "qtop_cost", "peers", "scaling", "features",
)  # fmt: skip
#: The pages of the services, each with the programs whose results it shows.
SERVICES = {
    "postgres": ("postgres_faults", "postgres"),
    "redis": ("redis_faults", "redis_service"),
    "http": ("http_faults", "http_service"),
}

#: The programs whose figures are in the chart of the services, with its titles.
SERVICE_TITLES = {
    "postgres": "PostgreSQL",
    "redis_service": "Redis",
    "http_service": "HTTP, the client included",
}


def read() -> dict[str, dict[str, Any]]:
    """Return the results of each program."""
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
    axes.bar_label(drawn, [number(row.median) for row in rows], padding=3, fontsize=8)
    axes.set_xscale("log")
    axes.set_xlim(left=1, right=max(row.median for row in rows) * 5)
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
    from matplotlib import pyplot as plt  # for this alone; --check does without

    plt.rcParams["svg.hashsalt"] = "qorb_trio"
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(14, 4), layout="constrained")
    peers = documents["peers"]
    bars(left, rows_of(peers, "warm claim, 16 "), "Warm claim, 16 connections")
    bars(middle, rows_of(peers, "warm claim, 1,000 "), "Warm claim, 1,000 connections")
    curves(right, documents["scaling"])
    for axes in (left, middle, right):
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    save(figure, CHART)


def save(figure: Any, file: Path) -> None:
    """Write a chart as PNG and as SVG, the same each time that the figures are."""
    figure.savefig(file.with_suffix(".png"), dpi=110, metadata={"Software": None})
    figure.savefig(file.with_suffix(".svg"), metadata={"Date": None})


def draw_services() -> None:
    """The chart of what a request to each service costs."""
    from matplotlib import pyplot as plt  # for this alone; --check does without

    plt.rcParams["svg.hashsalt"] = "qorb_trio"
    figure, all_axes = plt.subplots(1, 3, figsize=(14, 3), layout="constrained")
    for axes, (name, what) in zip(all_axes, SERVICE_TITLES.items(), strict=True):
        document = json.loads((RESULTS / f"{name}.json").read_text())
        times = [row for row in rows_of(document) if row.question.endswith(": time")]
        service_bars(axes, times[::-1])
        axes.set_title(what, fontsize=10)
    save(figure, SERVICE_CHART)


def service_bars(axes: Any, rows: list[Row]) -> None:
    """One bar for each contender, in the order of the table, from above."""
    labels = [
        f"{row.contender.replace(' on asyncio', '')}\n{row.question.split(',')[0]}" for row in rows
    ]
    colours = [OURS if row.contender.endswith("qorb_trio") else OTHERS for row in rows]
    drawn = axes.barh(labels, [row.median for row in rows], color=colours)
    axes.bar_label(drawn, [number(row.median) for row in rows], padding=3, fontsize=8)
    axes.set_xlim(right=max(row.median for row in rows) * 1.2)
    axes.set_xlabel("µs per request, 32 workers on 8 connections", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def targets(documents: dict[str, dict[str, Any]]) -> list[str]:
    """Return the lines of a table of the targets and the measured values."""
    lines = ["| question | ours | target | measured | |", "|---|---|---|---|---|"]
    for document in documents.values():
        for row in rows_of(document):
            if row.goal:
                of_ratio = row.goal.endswith("x")
                measured = f"{row.median:.3g} {row.unit}"
                if of_ratio and row.ratio is not None:
                    measured = f"{ratio_text(row.ratio)} x"
                verdict = "reached" if row.reached else "**missed**"
                cells = (row.question, row.contender, row.goal, measured, verdict)
                lines.append(f"| {' | '.join(cells)} |")
    return lines


def figures(documents: dict[str, dict[str, Any]]) -> list[str]:
    """Everything, a table for each program."""
    lines = []
    for name, document in documents.items():
        lines += [f"### {document['benchmark']}", "", f"`benchmarks/{name}.py`, with "]
        lines[-1] += f"Python {document['python']} and Trio {document['trio']} on "
        lines[-1] += f"{document['cores']} shared cores:"
        lines += ["", *markdown(rows_of(document)), ""]
    return lines[:-1]


def in_short(documents: dict[str, dict[str, Any]]) -> list[str]:
    """A few sentences."""
    some = documents["claim_release"]
    _, warm, _, backends, slots = rows_of(some)
    _, crowd, *_ = rows_of(documents["contention"])
    memory, *_ = rows_of(documents["memory"])
    text = f"""
        A warm claim and its release take {warm.median:.0f} µs, {warm.ratio:.2f} times what a bare
        `trio.CapacityLimiter` takes; with 1,000 backends {backends.ratio:.2f} times as much as
        with one, with 10,000 idle slots {slots.ratio:.2f} times. Where 1,000 tasks crowd around
        16 connections, a claim takes {crowd.ratio:.2f} times what it takes with the limiter. An
        idle slot takes {memory.median:.0f} bytes. (Python {some["python"]}, Trio {some["trio"]},
        {some["cores"]} shared cores; medians.)"""
    return textwrap.wrap(" ".join(text.split()), 110)


def replace(page: str, mark: str, lines: list[str]) -> str:
    """The page with other lines between two marks."""
    begin, end = f"<!-- {mark}: begin -->\n", f"<!-- {mark}: end -->\n"
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    return "".join([before, begin, "\n", *(f"{line}\n" for line in lines), "\n", end, after])


def service_page(page: str, programs: tuple[str, ...]) -> str:
    """The page of a service with the results of its programs."""
    for program in programs:
        document = json.loads((RESULTS / f"{program}.json").read_text())
        of_faults = program.endswith("_faults")
        lines = _faults.markdown(document["rows"]) if of_faults else markdown(rows_of(document))
        if (rounds := document.get("rounds", 1)) > 1:
            lines += ["", f"Each line is that of the middle one of {rounds} rounds."]
        page = replace(page, program, lines)
    return page


def new_pages() -> dict[Path, str]:
    """All pages with figures, as they should be."""
    measured = read()
    page = replace(PAGE.read_text(), "targets", targets(measured))
    pages = {
        PAGE: replace(page, "figures", figures(measured)),
        README: replace(README.read_text(), "figures", in_short(measured)),
    }
    for name, programs in SERVICES.items():
        file = ROOT / "docs" / f"{name}.md"
        pages[file] = service_page(file.read_text(), programs)
    return pages


def main() -> str | None:
    """With ``--check``: only see whether the pages show what is in the results."""
    pages = new_pages()
    wrong = [file.name for file, page in pages.items() if page != file.read_text()]
    if "--check" in sys.argv:
        return f"what was measured is not shown by {', '.join(wrong)}" if wrong else None
    if "--tables" not in sys.argv:
        draw(read())
        draw_services()
    for file, page in pages.items():
        file.write_text(page)
    return None


if __name__ == "__main__":
    sys.exit(main())
