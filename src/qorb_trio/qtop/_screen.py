"""What the terminal shows, drawn by `rich`, and what its keys do."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable
from typing import Any, Final, final

import attrs
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ._view import Row, Totals, View, printable

_BLOCKS: Final = "▁▂▃▄▅▆▇█"
_SPARKLINE: Final = 40
_HELP: Final = "q quit · Tab what to show · ← → sort by · r reverse · p pool · ↑ ↓ scroll"


@final
@attrs.frozen
class Column:
    """A column of the table of backends, by which it can be sorted."""

    title: str
    value: Callable[[Row], Any]
    cell: Callable[[Row], Text]
    right: bool = True


def seconds(value: float | None) -> str:
    """A duration, short: three characters and a unit."""
    if value is None:
        return "-"
    for unit, size in (("µs", 1e-6), ("ms", 1e-3)):
        if value < size * 999.5:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g} s" if value < 999.5 else f"{value / 60:.0f} min"


def sparkline(values: Iterable[float], width: int = _SPARKLINE) -> str:
    """The latest values as bars, the highest of them as a full one."""
    shown = [*values][-width:]
    most = max(shown, default=0)
    if most <= 0:
        return _BLOCKS[0] * len(shown)
    return "".join(_BLOCKS[round(it / most * (len(_BLOCKS) - 1))] for it in shown)


def _number(name: str, style: str = "") -> Callable[[Row], Text]:
    """Cells with a number, pale if it is zero."""

    def cell(row: Row) -> Text:
        value = getattr(row, name)
        return Text("-" if value is None else f"{value:,}", style if value else "dim")

    return cell


def _duration(name: str) -> Callable[[Row], Text]:
    def cell(row: Row) -> Text:
        return Text(seconds(getattr(row, name)), "" if getattr(row, name) else "dim")

    return cell


def _name_cell(row: Row) -> Text:
    return Text(row.name, "green" if row.online else "bold red")


COLUMNS: Final = {
    "backend": Column("BACKEND", lambda row: row.name, _name_cell, right=False),
    "pool": Column("POOL", lambda row: row.pool, lambda row: Text(row.pool), right=False),
    "online": Column(
        "UP", lambda row: row.online, lambda row: Text("yes") if row.online else Text("no", "red")
    ),
    "rate": Column("CLAIMS/s", lambda row: row.rate, lambda row: Text(f"{row.rate:,.1f}")),
    "connecting": Column("CONN", lambda row: row.connecting, _number("connecting", "yellow")),
    "unclaimed": Column("FREE", lambda row: row.unclaimed, _number("unclaimed", "cyan")),
    "checking": Column("CHECK", lambda row: row.checking, _number("checking", "blue")),
    "claimed": Column("CLAIMED", lambda row: row.claimed, _number("claimed", "bold")),
    "closing": Column("CLOSE", lambda row: row.closing or 0, _number("closing")),
    "wanted": Column("WANT", lambda row: row.wanted or 0, _number("wanted")),
    "total": Column("TOTAL", lambda row: row.total, _number("total")),
    "failures": Column("FAIL", lambda row: row.failures or 0, _number("failures", "red")),
    "p50": Column("WAIT P50", lambda row: row.p50 or 0.0, _duration("p50")),
    "p99": Column("WAIT P99", lambda row: row.p99 or 0.0, _duration("p99")),
    "error": Column(
        "LAST ERROR", lambda row: row.error, lambda row: Text(row.error, "red"), right=False
    ),
}
_NAMES: Final = tuple(COLUMNS)
SHOWN: Final = ("backends", "holders", "events")


@final
class Screen:
    """The picture, and what the user has chosen to see."""

    def __init__(
        self, title: str, *, sort: str = "backend", down: bool = False, pool: str | None = None
    ) -> None:
        self.view: View = View()
        self.status: str = "connecting"
        self.sort: str = sort
        self.down: bool = down
        #: The pool that is shown; all if `None`.
        self.pool: str | None = pool
        self.shown: str = SHOWN[0]
        self.first: int = 0
        self._title: str = printable(title)

    def press(self, key: str) -> None:
        """What a key does; those without a meaning do nothing."""
        if key in {"left", "right"}:
            step = 1 if key == "right" else -1
            self.sort = _NAMES[(_NAMES.index(self.sort) + step) % len(_NAMES)]
        elif key == "reverse":
            self.down = not self.down
        elif key == "pool":
            choices = [None, *(pool.name for pool in self.view.pools)]
            at = choices.index(self.pool) if self.pool in choices else -1
            self.pool = choices[(at + 1) % len(choices)]
            self.first = 0
        elif key == "show":
            self.shown = SHOWN[(SHOWN.index(self.shown) + 1) % len(SHOWN)]
            self.first = 0
        elif key in {"up", "down"}:
            self.first = max(0, self.first + (10 if key == "down" else -10))

    def draw(self, height: int, now: float) -> RenderableType:
        """The picture, for a terminal of that many lines."""
        head = [self._headline(), *(self._pool_line(pool) for pool in self._pools())]
        room = max(1, height - len(head) - 4)
        body: dict[str, Callable[[int], tuple[Table, int]]] = {
            "backends": self.backends,
            "holders": self._holders,
            "events": functools.partial(self._events, now),
        }
        table, count = body[self.shown](room)
        place = f"{self.shown}: {min(count, self.first + 1)} to {min(count, self.first + room)}"
        foot = Text(no_wrap=True, overflow="ellipsis")
        foot.append(f"{place} of {count}   ", "bold").append(_HELP, "dim")
        return Group(*head, Text(), table, foot)

    def report(self) -> RenderableType:
        """All of it, for those who read it from a pipe."""
        table, _ = self.backends()
        return Group(*(self._pool_line(pool) for pool in self._pools()), table)

    def _pools(self) -> list[Totals]:
        return [pool for pool in self.view.pools if self.pool in {None, pool.name}]

    def _headline(self) -> Text:
        good = self.status == "live"
        return Text.assemble(
            ("qtop ", "bold magenta"),
            (self._title, "bold"),
            ("  ● " if good else "  ○ ", "green" if good else "red"),
            (self.status, "green" if good else "red"),
        )

    def _pool_line(self, pool: Totals) -> Text:
        return Text.assemble(
            (pool.name and f"{pool.name}  ", "bold"),
            f"{pool.rate:,.1f} claims/s ",
            (sparkline(self.view.claims.get(pool.name, ())), "green"),
            "" if pool.waiting is None else f"  {pool.waiting} waiting ",
            (
                "" if pool.waiting is None else sparkline(self.view.waiting.get(pool.name, ())),
                "yellow",
            ),
            f"  {pool.slots}{'' if pool.max_slots is None else f' of {pool.max_slots}'} slots",
            f" ({pool.departed} of departed backends)" if pool.departed else "",
            "" if pool.p50 is None else f"  p50 {seconds(pool.p50)}  p99 {seconds(pool.p99)}",
            overflow="ellipsis",
            no_wrap=True,
        )

    def rows(self) -> list[Row]:
        """The backends in the order in which they are shown."""
        rows = [row for row in self.view.rows if self.pool in {None, row.pool}]
        rows.sort(key=operator.attrgetter("name", "pool"))
        rows.sort(key=COLUMNS[self.sort].value, reverse=self.down)
        return rows

    def backends(self, room: int | None = None) -> tuple[Table, int]:
        """The table of backends, with so many of them; and how many there are."""
        rows = self.rows()
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
        several = len(self.view.pools) > 1 and self.pool is None
        columns = {name: it for name, it in COLUMNS.items() if several or name != "pool"}
        for name, column in columns.items():
            mark = ("▼" if self.down else "▲") if name == self.sort else ""
            table.add_column(
                f"{column.title}{mark}",
                justify="right" if column.right else "left",
                no_wrap=True,
                overflow="ellipsis",
                min_width=len(column.title) + 1 if column.right else 12,
            )
        for row in self._part(rows, room):
            table.add_row(*(column.cell(row) for column in columns.values()))
        return table, len(rows)

    def _holders(self, room: int) -> tuple[Table, int]:
        table = _plain_table("SINCE", "TASK", "BACKEND", "POOL")
        holders = [it for it in self.view.holders if self.pool in {None, it.pool}]
        for it in self._part(holders, room):
            cells = (seconds(it.age), it.task, it.backend, it.pool)
            table.add_row(*(Text(cell) for cell in cells))
        return table, len(holders)

    def _events(self, now: float, room: int) -> tuple[Table, int]:
        table = _plain_table("AGO", "EVENT", "BACKEND", "POOL", "WHAT")
        events = [it for it in reversed(self.view.events) if self.pool in {None, it.pool}]
        for it in self._part(events, room):
            cells = (seconds(now - it.at), it.event, it.backend, it.pool, it.detail)
            table.add_row(*(Text(cell) for cell in cells))
        return table, len(events)

    def _part(self, lines: list[Any], room: int | None) -> list[Any]:
        """Those lines that there is room for."""
        if room is None:
            return lines
        self.first = max(0, min(self.first, len(lines) - room))
        return lines[self.first : self.first + room]


def _plain_table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for title in titles:
        table.add_column(title, no_wrap=True, overflow="ellipsis")
    return table
