"""Results as text: a table, a verdict, and charts for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

#: The width and the height of a chart on a terminal, in characters.
WIDTH, HEIGHT = 64, 10
MARKS = "o+x*#@"


def misses(result: dict[str, Any]) -> int:
    """Return the number of figures that miss their targets."""
    return sum(not figure["is_reached"] for figure in result["figures"])


def verdict(result: dict[str, Any]) -> str:
    """Return in words whether all targets are reached."""
    missed = misses(result)
    return f"{missed} figures miss their targets" if missed else "all targets reached"


def number(value: float) -> str:
    """Return a number with three digits that count."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def target(figure: dict[str, Any]) -> str:
    """Return the target of a figure, as it is shown."""
    if figure["target"] is None:
        return ""
    sign = "≤" if figure["sense"] == "at most" else "≥"
    return f"{sign} {number(figure['target'])}"


def table(results: Sequence[dict[str, Any]]) -> list[str]:
    """Return the lines of a table of all figures."""
    rows = [
        (result["scenario"], figure["name"], number(figure["value"]), target(figure), mark(figure))
        for result in results
        for figure in result["figures"]
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def mark(figure: dict[str, Any]) -> str:
    """Return whether a figure reaches its target, in a word."""
    if figure["target"] is None:
        return ""
    return "reached" if figure["is_reached"] else "MISSED"


def text_chart(chart: dict[str, Any]) -> list[str]:
    """Return the lines of a chart for a terminal."""
    lines = chart["lines"]
    points = [point for line in lines.values() for point in line]
    right = max((x for x, _ in points), default=0) or 1
    top = max((y for _, y in points), default=0) or 1
    grid = [[" "] * (WIDTH + 1) for _ in range(HEIGHT + 1)]
    for sign, line in zip(MARKS, lines.values(), strict=False):
        for x, y in line:
            grid[HEIGHT - round(HEIGHT * max(0, y) / top)][round(WIDTH * x / right)] = sign
    body = [f"{number(top) if i == 0 else '':>9} |{''.join(row)}" for i, row in enumerate(grid)]
    legend = ", ".join(f"{sign} {name}" for sign, name in zip(MARKS, lines, strict=False))
    axis = f"{'0':>9} +{'-' * WIDTH}> {chart['x']} (to {number(right)})"
    return [f"{chart['title']}: {chart['y']} ({legend})", *body, axis]
