"""Charts as SVG: lines over a common axis, the same bytes each time that the figures are."""

from __future__ import annotations

from html import escape
from typing import Any

from .report import number

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 54, 44
COLOURS = ("#2a6f97", "#d1495b", "#6a994e", "#edae49", "#7f5539", "#6d6875")
#: Maximum number of points of one line; more cannot be told apart.
MAX_POINTS = 300


def svg(chart: dict[str, Any]) -> str:
    """Return a chart as the text of an SVG file."""
    points = [point for line in chart["lines"].values() for point in line]
    right = max((x for x, _ in points), default=0) or 1
    top = 1.05 * (max((y for _, y in points), default=0) or 1)
    parts = [_text(LEFT, 18, chart["title"], size=14, weight="bold"), *_axes(chart, right, top)]
    for i, (name, line) in enumerate(chart["lines"].items()):
        colour = COLOURS[i % len(COLOURS)]
        parts.append(_line(line, right, top, colour))
        parts.append(_text(LEFT + 150 * i, 40, f"— {name}", colour=colour))
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
        f' font-family="sans-serif">\n<rect width="100%" height="100%" fill="white"/>\n'
        f"{body}\n</svg>\n"
    )


def _text(
    x: float, y: float, text: str, *, size: int = 11, colour: str = "#333", **more: str
) -> str:
    names = {"weight": "font-weight", "anchor": "text-anchor"}
    extra = "".join(f' {names[key]}="{value}"' for key, value in more.items())
    place = f'x="{x:.0f}" y="{y:.0f}" font-size="{size}" fill="{colour}"'
    return f"<text {place}{extra}>{escape(text)}</text>"


def _axes(chart: dict[str, Any], right: float, top: float) -> list[str]:
    """Return the frame, four marks on each axis, and what the axes mean."""
    floor, end = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = [f'<path d="M{LEFT} {TOP}V{floor}H{end}" fill="none" stroke="#333"/>']
    for quarter in range(5):
        y = floor - (floor - TOP) * quarter / 4
        x = LEFT + (end - LEFT) * quarter / 4
        parts.append(f'<path d="M{LEFT} {y:.1f}H{end}" stroke="#ddd" stroke-width="0.5"/>')
        parts.append(_text(LEFT - 6, y + 4, number(top * quarter / 4), anchor="end"))
        parts.append(_text(x, floor + 15, number(right * quarter / 4), anchor="middle"))
    parts.append(_text((LEFT + end) / 2, HEIGHT - 8, chart["x"], anchor="middle"))
    parts.append(_text(end, 18, chart["y"], anchor="end"))
    return parts


def _line(points: list[tuple[float, float]], right: float, top: float, colour: str) -> str:
    step = max(1, len(points) // MAX_POINTS)
    across, up = WIDTH - RIGHT - LEFT, HEIGHT - BOTTOM - TOP
    places = " ".join(
        f"{LEFT + across * x / right:.1f},{HEIGHT - BOTTOM - up * max(0.0, y) / top:.1f}"
        for x, y in points[::step]
    )
    return f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="1.8"/>'
