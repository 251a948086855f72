"""`Screen`: the picture on the terminal, drawn by `rich`, and the effects of its keys."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, final

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .._util import printable
from ._columns import COLUMNS, seconds
from ._view import Row, Totals, View

_BLOCKS: Final = "▁▂▃▄▅▆▇█"
_SPARKLINE: Final = 40
_HELP: Final = "q quit · Tab views · ←→ sort · r reverse · p pool · ↑↓ scroll"


def sparkline(values: Iterable[float], width: int = _SPARKLINE) -> str:
    """Return the latest values as bars. The bar of the highest value is full."""
    shown = [*values][-width:] if width > 0 else []
    most = max(shown, default=0)
    if most <= 0:
        return _BLOCKS[0] * len(shown)
    return "".join(_BLOCKS[round(it / most * (len(_BLOCKS) - 1))] for it in shown)


_NAMES: Final = tuple(COLUMNS)
#: The columns in the order in which they are left out where there is no room for all. The
#: column that the table is sorted by stays.
_LEAST_WANTED: Final = (
    *("closing", "checking", "retiring", "total", "p50", "wanted", "stale", "connecting"),
    *("unclaimed", "failed", "failures", "p99", "error", "pool", "online", "claimed", "rate"),
)
#: The columns that are left out before all others while they have nothing but zeros.
_RARE: Final = ("retiring", "stale", "failed")
#: The widths to which texts may be cut before a column is left out, in characters. Spare room
#: goes to the first of them first.
_SHORTEST: Final = {
    "backend": 20,
    "pool": 10,
    "error": 12,
    # In the other tables:
    "EVENT": 20,
    "BACKEND": 16,
    "TASK": 20,
    "POOL": 8,
    "WHAT": 20,
}
SHOWN: Final = ("backends", "holders", "events")


def stretch(full: dict[str, int], shortest: dict[str, int], width: int) -> dict[str, int]:
    """Return the widths of columns. Those in `shortest` can be shorter than their contents."""
    found = {name: min(size, shortest.get(name, size)) for name, size in full.items()}
    for name in [name for name in shortest if name in found]:
        more = min(width - sum(found.values()), full[name] - found[name])
        found[name] = max(1, found[name] + more)
    return found


def _slots_of(pool: Totals) -> str:
    """Return the end of a pool's line: its slots, backends, refusals and waits."""
    text = f"  {pool.slots}{'' if pool.max_slots is None else f' of {pool.max_slots}'} slots"
    text += f" ({pool.departed} of departed backends)" if pool.departed else ""
    if pool.known is not None and pool.backends is not None and pool.known > pool.backends:
        text += f"  {pool.backends} of {pool.known} backends"
    text += "  suspended" if pool.suspended else ""
    text += f"  {pool.shed} shed" if pool.shed else ""
    return text + (
        "" if pool.p50 is None else f"  p50 {seconds(pool.p50)}  p99 {seconds(pool.p99)}"
    )


@final
class Screen:
    """The picture, and the user's choices."""

    def __init__(
        self,
        title: str,
        *,
        sort: str = "backend",
        down: bool = False,
        pool: str | None = None,
        warning: str = "",
    ) -> None:
        self.view: View = View()
        self.status: str = "connecting"
        self.sort: str = sort
        self.down: bool = down
        #: The pool that is shown; all if `None`.
        self.pool: str | None = None if pool is None else printable(pool)
        self._warning: str = warning
        self.shown: str = SHOWN[0]
        self.first: int = 0
        self._title: str = printable(title)

    def press(self, key: str) -> None:
        """Obey a key. A key without a meaning does nothing."""
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
        """Return the picture for a terminal of `height` lines and `width` columns."""
        head = [self._headline(), *self._pool_lines(width, (height - 4) // 2)]
        # The smallest terminals have room for the table and its title only.
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
        foot.append(f"{place} of {count}  ", "bold")
        if not count and self.shown == "backends" and (reason := self._trouble()):
            foot.append(f"{reason}  ", "red")
        foot.append(_HELP, "dim")
        return Group(*head, table, *([foot] if height >= 6 else []))

    def report(self, width: int) -> RenderableType:
        """Return all lines, for a pipe or a file."""
        table, _ = self.backends(width)
        return Group(*self._pool_lines(width), table)

    def knows_pool(self) -> bool:
        """Return True if the chosen pool is one of those that the server has."""
        return self.pool is None or any(self.pool == pool.name for pool in self.view.pools)

    def _headline(self) -> Text:
        good = self.status == "live"
        return Text.assemble(
            ("qtop ", "bold magenta"),
            (self._title, "bold"),
            ("  ● " if good else "  ○ ", "green" if good else "red"),
            (self.status, "green" if good else "red"),
            (f"  {self._warning}" if self._warning else "", "yellow"),
            overflow="ellipsis",
            no_wrap=True,
        )

    def _pool_lines(self, width: int, limit: int | None = None) -> list[Text]:
        """Return a line for each pool that is shown, and one for each of its troubles."""
        if self.view.pools and not self.knows_pool():
            return [Text(f"There is no pool {self.pool}; p shows the next.", "red")]
        pools = self._shown_pools()
        if limit is not None and len(pools) > max(1, limit):
            return self._first_pool_lines(pools, width, limit)
        lines = [self._pool_line(pool, width) for pool in pools]
        notes = [f"{pool.name}: {pool.trouble}" for pool in pools if pool.trouble]
        notes += [self.view.left_out] if self.view.left_out else []
        room = len(notes) if limit is None else max(0, limit - len(lines))
        style: dict[str, Any] = {"no_wrap": limit is not None, "overflow": "ellipsis"}
        return lines + [Text(note, "red", **style) for note in notes[:room]]

    def _first_pool_lines(self, pools: Sequence[Totals], width: int, limit: int) -> list[Text]:
        shown = pools[: max(0, limit - 1)]
        count = f"and {len(pools) - len(shown)} more" if shown else f"{len(pools)}"
        rest = Text(f"{count} pools; p shows one", "dim", no_wrap=True, overflow="ellipsis")
        return [*(self._pool_line(pool, width) for pool in shown), rest]

    def _shown_pools(self) -> list[Totals]:
        return [pool for pool in self.view.pools if self.pool in {None, pool.name}]

    def _trouble(self) -> str:
        """Return the reason why there are no backends, as far as the pools tell."""
        return "; ".join(pool.trouble for pool in self._shown_pools() if pool.trouble)

    def _pool_line(self, pool: Totals, width: int) -> Text:
        name = Text(pool.name, "bold")
        name.truncate(max(10, width // 3), overflow="ellipsis")
        name.append("  " if pool.name else "")
        rate = f"{pool.rate:,.1f} claims/s "
        waiting = "" if pool.waiting is None else f"  {pool.waiting} waiting "
        rest = _slots_of(pool)
        # The bars take the room that the words leave.
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
        """Return the backends in the order in which they are shown."""
        rows = [row for row in self.view.rows if self.pool in {None, row.pool}]
        rows.sort(key=operator.attrgetter("name", "pool"))
        rows.sort(key=COLUMNS[self.sort].value, reverse=self.down)
        return rows

    def backends(self, width: int, room: int | None = None) -> tuple[Table, int]:
        """Return the table of backends, with at most `room` of them, and their number."""
        rows = self.rows()
        part = self._part(rows, room)
        cells = {
            name: [column.cell(row) for row in part]
            for name, column in COLUMNS.items()
            if self._several() or name != "pool"
        }
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
        widths = self._widths(cells, part, width)
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

    def _widths(self, cells: dict[str, list[Text]], rows: list[Row], width: int) -> dict[str, int]:
        """Return the columns for which there is room, and their widths."""
        full = {
            name: max(len(COLUMNS[name].title) + 1, *(cell.cell_len for cell in column), 0)
            for name, column in cells.items()
        }
        least = {name: min(size, _SHORTEST.get(name, size)) for name, size in full.items()}
        quiet = (name for name in _RARE if not any(map(COLUMNS[name].value, rows)))
        for name in (*quiet, *_LEAST_WANTED):
            if sum(least.values()) + len(least) - 1 <= width:
                break
            if name != self.sort:
                least.pop(name, None)
        return stretch({name: full[name] for name in least}, _SHORTEST, width - len(least) + 1)

    def _several(self) -> bool:
        """Return True if more than one pool is shown."""
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
        """Return the lines for which there is room."""
        if room is None:
            return lines
        self.first = max(0, min(self.first, len(lines) - room))
        return lines[self.first : self.first + room]
