"""What the terminal shows, drawn by `rich`, and what its keys do."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, final

import attrs
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ._view import Row, Totals, View, printable

_BLOCKS: Final = "▁▂▃▄▅▆▇█"
_SPARKLINE: Final = 40
_HELP: Final = "q quit · Tab views · ←→ sort · r reverse · p pool · ↑↓ scroll"


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
    shown = [*values][-width:] if width > 0 else []
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
#: What is left out first where there is no room for all. What is sorted by stays.
_LEAST_WANTED: Final = (
    *("closing", "checking", "total", "p50", "wanted", "connecting", "unclaimed"),
    *("failures", "online", "p99", "error", "pool", "claimed", "rate"),
)
#: To so many characters a text may be cut before a column is left out; what is to spare
#: goes to the first of them first.
_SHORTEST: Final = {
    "backend": 20,
    "pool": 10,
    "error": 12,
    # ... and in the other tables:
    "EVENT": 20,
    "BACKEND": 16,
    "TASK": 20,
    "POOL": 8,
    "WHAT": 20,
}
SHOWN: Final = ("backends", "holders", "events")


def stretch(full: dict[str, int], shortest: dict[str, int], width: int) -> dict[str, int]:
    """How wide columns are, of which some can be shorter than they would like to be."""
    found = {name: min(size, shortest.get(name, size)) for name, size in full.items()}
    for name in [name for name in shortest if name in found]:
        more = min(width - sum(found.values()), full[name] - found[name])
        found[name] = max(1, found[name] + more)
    return found


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

    def draw(self, height: int, width: int, now: float) -> RenderableType:
        """The picture, for a terminal of that many lines and columns."""
        head = [self._headline(), *self._pool_lines(width, (height - 4) // 2)]
        # On the smallest of terminals there is the table and what it is about.
        head += [Text()] if height >= 10 else []
        foot = Text(no_wrap=True, overflow="ellipsis")
        room = max(1, height - len(head) - 3)
        body: dict[str, Callable[[int], tuple[Table, int]]] = {
            "backends": functools.partial(self.backends, width),
            "holders": functools.partial(self._holders, width),
            "events": functools.partial(self._events, width, now),
        }
        table, count = body[self.shown](room)
        place = f"{self.shown} {min(count, self.first + 1)}-{min(count, self.first + room)}"
        foot.append(f"{place} of {count}  ", "bold").append(_HELP, "dim")
        return Group(*head, table, *([foot] if height >= 6 else []))

    def report(self, width: int) -> RenderableType:
        """All of it, for those who read it from a pipe."""
        table, _ = self.backends(width)
        return Group(*self._pool_lines(width), table)

    def knows_pool(self) -> bool:
        """Whether there is anything to show: the pool that was chosen is one of those there."""
        return self.pool is None or any(self.pool == pool.name for pool in self.view.pools)

    def _headline(self) -> Text:
        good = self.status == "live"
        return Text.assemble(
            ("qtop ", "bold magenta"),
            (self._title, "bold"),
            ("  ● " if good else "  ○ ", "green" if good else "red"),
            (self.status, "green" if good else "red"),
            overflow="ellipsis",
            no_wrap=True,
        )

    def _pool_lines(self, width: int, most: int | None = None) -> list[Text]:
        """A line for each pool that is shown, but not more than so many."""
        if self.view.pools and not self.knows_pool():
            return [Text(f"There is no pool {printable(self.pool)}; p leads on.", "red")]
        pools = [pool for pool in self.view.pools if self.pool in {None, pool.name}]
        if most is None or len(pools) <= max(1, most):
            return [self._pool_line(pool, width) for pool in pools]
        shown = pools[: max(0, most - 1)]
        count = f"and {len(pools) - len(shown)} more" if shown else f"{len(pools)}"
        rest = Text(f"{count} pools; p shows one", "dim", no_wrap=True, overflow="ellipsis")
        return [*(self._pool_line(pool, width) for pool in shown), rest]

    def _pool_line(self, pool: Totals, width: int) -> Text:
        name = Text(pool.name, "bold")
        name.truncate(max(10, width // 3), overflow="ellipsis")
        name.append("  " if pool.name else "")
        rate = f"{pool.rate:,.1f} claims/s "
        waiting = "" if pool.waiting is None else f"  {pool.waiting} waiting "
        rest = f"  {pool.slots}{'' if pool.max_slots is None else f' of {pool.max_slots}'} slots"
        rest += f" ({pool.departed} of departed backends)" if pool.departed else ""
        rest += "" if pool.p50 is None else f"  p50 {seconds(pool.p50)}  p99 {seconds(pool.p99)}"
        # The bars take what the words leave.
        left = width - name.cell_len - len(rate + waiting + rest)
        bars = min(_SPARKLINE, left // 2 if waiting else left)
        claims = sparkline(self.view.claims.get(pool.name, ()), bars)
        queue = sparkline(self.view.waiting.get(pool.name, ()), bars) if waiting else ""
        return Text.assemble(
            name,
            rate,
            (claims, "green"),
            waiting,
            (queue, "yellow"),
            rest,
            overflow="ellipsis",
            no_wrap=True,
        )

    def rows(self) -> list[Row]:
        """The backends in the order in which they are shown."""
        rows = [row for row in self.view.rows if self.pool in {None, row.pool}]
        rows.sort(key=operator.attrgetter("name", "pool"))
        rows.sort(key=COLUMNS[self.sort].value, reverse=self.down)
        return rows

    def backends(self, width: int, room: int | None = None) -> tuple[Table, int]:
        """The table of backends, with so many of them; and how many there are."""
        rows = self.rows()
        part = self._part(rows, room)
        cells = {
            name: [column.cell(row) for row in part]
            for name, column in COLUMNS.items()
            if self._several() or name != "pool"
        }
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
        widths = self._widths(cells, width)
        for name, size in widths.items():
            column = COLUMNS[name]
            mark = ("▼" if self.down else "▲") if name == self.sort else ""
            table.add_column(
                f"{column.title}{mark}",
                justify="right" if column.right else "left",
                no_wrap=True,
                overflow="ellipsis",
                width=size,
            )
        for line in zip(*(cells[name] for name in widths), strict=True):
            table.add_row(*line)
        return table, len(rows)

    def _widths(self, cells: dict[str, list[Text]], width: int) -> dict[str, int]:
        """The columns that there is room for, and how wide each of them is."""
        full = {
            name: max(len(COLUMNS[name].title) + 1, *(cell.cell_len for cell in column), 0)
            for name, column in cells.items()
        }
        least = {name: min(size, _SHORTEST.get(name, size)) for name, size in full.items()}
        for name in _LEAST_WANTED:
            if sum(least.values()) + len(least) - 1 <= width:
                break
            if name != self.sort:
                least.pop(name, None)
        return stretch({name: full[name] for name in least}, _SHORTEST, width - len(least) + 1)

    def _several(self) -> bool:
        """Whether more than one pool is shown."""
        return len(self.view.pools) > 1 and self.pool is None

    def _holders(self, width: int, room: int) -> tuple[Table, int]:
        holders = [it for it in self.view.holders if self.pool in {None, it.pool}]
        lines = [
            {"SINCE": seconds(it.age), "TASK": it.task, "BACKEND": it.backend, "POOL": it.pool}
            for it in self._part(holders, room)
        ]
        return self._plain_table(("SINCE", "TASK", "BACKEND", "POOL"), lines, width), len(holders)

    def _events(self, width: int, now: float, room: int) -> tuple[Table, int]:
        events = [it for it in reversed(self.view.events) if self.pool in {None, it.pool}]
        lines = [
            {
                "AGO": seconds(now - it.at),
                "EVENT": it.event,
                "BACKEND": it.backend,
                "POOL": it.pool,
                "WHAT": it.detail,
            }
            for it in self._part(events, room)
        ]
        titles = ("AGO", "EVENT", "BACKEND", "POOL", "WHAT")
        return self._plain_table(titles, lines, width), len(events)

    def _plain_table(
        self, titles: Sequence[str], lines: Sequence[dict[str, str]], width: int
    ) -> Table:
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        full = {
            title: max(len(title), *(cell_len(line[title]) for line in lines), 0)
            for title in titles
            if self._several() or title != "POOL"
        }
        for title, size in stretch(full, _SHORTEST, width - 2 * len(full) + 2).items():
            table.add_column(title, no_wrap=True, overflow="ellipsis", width=size)
        for line in lines:
            table.add_row(*(Text(line[title]) for title in full))
        return table

    def _part(self, lines: list[Any], room: int | None) -> list[Any]:
        """Those lines that there is room for."""
        if room is None:
            return lines
        self.first = max(0, min(self.first, len(lines) - room))
        return lines[self.first : self.first + room]
