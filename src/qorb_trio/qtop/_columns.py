"""The columns of the table of backends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, final

import attrs
from rich.text import Text

from ._view import Row


@final
@attrs.frozen
class Column:
    """One column: its title, the value to sort by, and its cells."""

    title: str
    value: Callable[[Row], Any]
    cell: Callable[[Row], Text]
    right: bool = True


def seconds(value: float | None) -> str:
    """Return a duration as at most three digits and a unit."""
    if value is None:
        return "-"
    for unit, size in (("µs", 1e-6), ("ms", 1e-3)):
        if value < size * 999.5:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g} s" if value < 999.5 else f"{value / 60:.0f} min"


def _number(name: str, style: str = "") -> Callable[[Row], Text]:
    """Return a function that makes a cell with a number, dim if it is zero."""

    def cell(row: Row) -> Text:
        value = getattr(row, name)
        return Text("-" if value is None else f"{value:,}", style if value else "dim")

    return cell


def _duration(name: str) -> Callable[[Row], Text]:
    def cell(row: Row) -> Text:
        return Text(seconds(getattr(row, name)), "" if getattr(row, name) else "dim")

    return cell


def _name_cell(row: Row) -> Text:
    style = "bold yellow" if row.ejected is not None else "green" if row.online else "bold red"
    return Text(row.name, style)


def _up_cell(row: Row) -> Text:
    """Return "no", or the seconds until an ejected backend is tried again, or "yes"."""
    if row.ejected is not None:
        left = f"ejected {seconds(row.ejected)}" if row.ejected else "on trial"
        return Text(left, "bold yellow")
    return Text("yes") if row.online else Text("no", "red")


def _up_order(row: Row) -> int:
    return 1 if row.ejected is not None else 2 if row.online else 0


COLUMNS: Final = {
    "backend": Column("BACKEND", lambda row: row.name, _name_cell, right=False),
    "pool": Column("POOL", lambda row: row.pool, lambda row: Text(row.pool), right=False),
    "online": Column("UP", _up_order, _up_cell),
    "rate": Column("CLAIMS/s", lambda row: row.rate, lambda row: Text(f"{row.rate:,.1f}")),
    "connecting": Column("CONN", lambda row: row.connecting, _number("connecting", "yellow")),
    "unclaimed": Column("FREE", lambda row: row.unclaimed, _number("unclaimed", "cyan")),
    "checking": Column("CHECK", lambda row: row.checking, _number("checking", "blue")),
    "claimed": Column("CLAIMED", lambda row: row.claimed, _number("claimed", "bold")),
    "closing": Column("CLOSE", lambda row: row.closing or 0, _number("closing")),
    "wanted": Column("WANT", lambda row: row.wanted or 0, _number("wanted")),
    "total": Column("TOTAL", lambda row: row.total, _number("total")),
    "failures": Column("FAIL", lambda row: row.failures or 0, _number("failures", "red")),
    "failed": Column("BAD", lambda row: row.failed or 0, _number("failed", "red")),
    "stale": Column("STALE", lambda row: row.stale or 0, _number("stale")),
    "retiring": Column("RETIRE", lambda row: row.retiring or 0, _number("retiring")),
    "p50": Column("WAIT P50", lambda row: row.p50 or 0.0, _duration("p50")),
    "p99": Column("WAIT P99", lambda row: row.p99 or 0.0, _duration("p99")),
    "error": Column(
        "LAST ERROR", lambda row: row.error, lambda row: Text(row.error, "red"), right=False
    ),
}
