"""The screen of ``tcp_echo_workload.py``, and its keys.

Drawing is `rich`'s part, which needs no event loop of its own. Keys are read here: the
terminal is asked to hand over each key as it is pressed, and Trio tells when there is one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import termios
import tty
from collections import deque
from collections.abc import Callable, Iterator

import attrs
import trio
from rich.console import Console, RenderableType
from rich.layout import Layout
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from echo_claimers import Claimer, Workload, no_backends
from qorb_trio import BackendStats, PoolStats

REFRESH = 0.1
HOLDS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
LOG_LINES = 4

# What a terminal sends for the keys of interest; arrows come in two dialects.
KEYS = {
    b"\t": "add",
    b"\x1b[Z": "remove",
    b"\x1b[A": "up",
    b"\x1bOA": "up",
    b"\x1b[B": "down",
    b"\x1bOB": "down",
    b"\x1b[C": "longer",
    b"\x1bOC": "longer",
    b"\x1b[D": "shorter",
    b"\x1bOD": "shorter",
    b"q": "quit",
}
HELP = "Tab add · Shift-Tab remove · ↑ ↓ select · ← → hold shorter, longer · q quit"
SHORT_HELP = "Tab + · Shift-Tab - · ↑↓ · ←→ hold · q"

# Terminals with fewer columns or lines than these get the essentials.
NARROW, LOW = 78, 16

SLOT_STATES = (
    ("claimed", "■", "green"),
    ("unclaimed", "□", "cyan"),
    ("checking", "▣", "blue"),
    ("connecting", "…", "yellow"),
    ("closing", "✕", "red"),
)
CLAIMER_STYLES = {"holding": "green", "waiting": "yellow", "resting": "dim"}


# --- Keys ------------------------------------------------------------------------------


@contextlib.contextmanager
def keys_at_once(fd: int) -> Iterator[None]:
    """Have the terminal hand over keys one by one, unechoed; afterwards as it was.

    Ctrl-C stays what it was. Ctrl-Z does nothing, because the shell would inherit the
    terminal like this.
    """
    before = termios.tcgetattr(fd)
    try:
        tty.setcbreak(fd)
        changed = termios.tcgetattr(fd)
        changed[6][termios.VSUSP] = os.fpathconf(fd, "PC_VDISABLE").to_bytes()
        termios.tcsetattr(fd, termios.TCSANOW, changed)
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def parse_keys(data: bytes) -> tuple[list[str], bytes]:
    """Return the meanings of the keys in `data`, and the incomplete key at its end, if any."""
    meanings = []
    while data:
        for key, meaning in KEYS.items():
            if data.startswith(key):
                meanings.append(meaning)
                data = data[len(key) :]
                break
        else:
            if any(key.startswith(data) for key in KEYS):
                break
            data = data[1:]  # No key that means anything here.
    return meanings, data


async def read_keys(fd: int, press: Callable[[str], None]) -> None:
    """Call `press` with the meaning of each key; return at the end of input."""
    rest = b""
    while True:
        # Not a non-blocking read, because that flag would also be set for all others that
        # have this terminal open: our own standard output, and the shell.
        await trio.lowlevel.wait_readable(fd)
        data = os.read(fd, 1024)
        if not data:
            return
        meanings, rest = parse_keys(rest + data)
        for meaning in meanings:
            press(meaning)


# --- What is on the screen -------------------------------------------------------------


class LastLines(logging.Handler):
    """A handler that keeps the last few log lines, for the screen to show."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%H:%M:%S"))
        self.lines: deque[str] = deque(maxlen=LOG_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the first line of a record: a traceback would fill the screen."""
        self.lines.append(self.format(record).splitlines()[0])


@contextlib.contextmanager
def logging_to(handler: logging.Handler) -> Iterator[None]:
    """Log to `handler` and nowhere else."""
    root = logging.getLogger()
    before = root.handlers[:]
    root.handlers[:] = [handler]
    try:
        yield
    finally:
        root.handlers[:] = before


@attrs.define(eq=False)
class Screen:
    """The picture of a workload, and the selection of one of its claimers."""

    title: str
    workload: Workload
    log: LastLines = attrs.field(factory=LastLines)
    selected: int = 0
    quit: Callable[[], None] = attrs.field(default=lambda: None)

    def press(self, key: str) -> None:
        """Carry out the meaning of a key."""
        claimers = self.workload.claimers
        if key == "quit":
            self.quit()
        elif key == "add":
            self.workload.add()
            self.selected = len(claimers) - 1
        elif key == "up":
            self.selected -= 1
        elif key == "down":
            self.selected += 1
        elif claimers:
            self._press_for_claimer(key, claimers[self.selected])
        self.selected = max(0, min(self.selected, len(claimers) - 1))

    def _press_for_claimer(self, key: str, claimer: Claimer) -> None:
        if key == "remove":
            self.workload.remove(claimer)
        elif key == "longer":
            claimer.set_hold(next((h for h in HOLDS if h > claimer.hold), HOLDS[-1]))
        elif key == "shorter":
            claimer.set_hold(next((h for h in reversed(HOLDS) if h < claimer.hold), HOLDS[0]))

    def draw(self, height: int, width: int = NARROW) -> RenderableType:
        """Return the whole picture, `height` lines high and `width` columns wide."""
        stats = self.workload.pool.stats()
        low, narrow = height < LOW, width < NARROW
        around = 1 if low else 3  # a table's lines that are not rows: its titles, its frame
        foot_height = 1 if low else 2
        backends_height = min(max(1, len(stats.backends)) + around, max(4, height // 2))
        below = [Layout(self._log(), size=LOG_LINES)] if self.log.lines and not low else []
        claimers_height = height - 2 - backends_height - foot_height - LOG_LINES * len(below)
        claimers = self._claimers_table(claimers_height - around, narrow)
        layout = Layout()
        layout.split_column(
            Layout(self._head(stats), size=2),
            Layout(
                framed(backends_table(stats, narrow), f"{len(stats.backends)} backends", low),
                size=backends_height,
            ),
            Layout(framed(claimers, f"{len(self.workload.claimers)} claimers", low)),
            *below,
            Layout(_foot(low, narrow), size=foot_height),
        )
        return layout

    def _head(self, stats: PoolStats) -> RenderableType:
        tally = self.workload.tally
        age = trio.current_time() - self.workload.started
        first = Text.assemble(
            ("qorb_trio ", "bold magenta"), (self.title, "bold"), f"  {age:.0f} s"
        )
        second = Text.assemble(
            (f"{tally.claims:,} claims  ", "bold"),
            (f"{tally.rate():,.1f}/s  ", "bold green"),
            (f"{tally.failures:,} failed  ", "bold red" if tally.failures else ""),
            f"{stats.waiting} waiting  {stats.slots} slots",
            f" ({stats.departed} of departed backends)" if stats.departed else "",
        )
        head = Text("\n").join([first, second])
        head.no_wrap, head.overflow = True, "ellipsis"
        return head

    def _claimers_table(self, room: int, narrow: bool) -> Table:
        claimers = self.workload.claimers
        # With more claimers than lines, show those around the selected one.
        first = max(0, min(self.selected - room // 2, len(claimers) - room))
        table = Table(box=None, expand=True, pad_edge=False)
        columns = ("  claimer", "state", "for", "hold", "claims", "failed")
        shown = 4 if narrow else len(columns) + 1
        for column in columns[:shown]:
            table.add_column(
                column, no_wrap=True, justify="right" if column == "claims" else "left"
            )
        if not narrow:
            table.add_column("connection to, or last error", no_wrap=True, ratio=1)
        for index, claimer in list(enumerate(claimers))[first : first + max(1, room)]:
            selected = index == self.selected
            name = ("▶ " if selected else "  ") + claimer.name
            cells = [name, *claimer_cells(claimer)]
            table.add_row(*cells[:shown], style="bold" if selected else "")
        return table

    def _log(self) -> RenderableType:
        return Text("\n".join(self.log.lines), style="yellow", no_wrap=True, overflow="ellipsis")


def framed(table: RenderableType, title: str, low: bool) -> RenderableType:
    """Return a table, in a frame with a title if there are enough lines."""
    return table if low else Panel(table, title=title, title_align="left")


def backends_table(stats: PoolStats, narrow: bool) -> RenderableType:
    """Return each backend with its slots, one sign for each, or the reason why there is none."""
    if not stats.backends:
        return Text(no_backends(stats), style="red", no_wrap=True, overflow="ellipsis")
    table = Table(box=None, expand=True, pad_edge=False)
    table.add_column("backend", no_wrap=True, ratio=1 if narrow else None)
    table.add_column("slots", min_width=18, no_wrap=True, ratio=None if narrow else 1)
    if not narrow:
        for column in ("wanted", "claims", "failures"):
            table.add_column(column, justify="right", no_wrap=True)
        table.add_column("last error", ratio=2, no_wrap=True)
    for name, backend in sorted(stats.backends.items()):
        cells = (
            Text(name, style="green" if backend.online else "red"),
            slots_bar(backend),
            str(backend.wanted),
            f"{backend.total_claims:,}",
            str(backend.failures),
            error_text(backend.last_error),
        )
        table.add_row(*cells[: len(table.columns)])
    return table


def slots_bar(stats: BackendStats) -> Text:
    """Return one sign for each slot."""
    return Text.assemble(
        *((sign * getattr(stats, state), style) for state, sign, style in SLOT_STATES),
    )


def claimer_cells(claimer: Claimer) -> list[RenderableType]:
    """Return the cells of one claimer in the table, without its name."""
    where = (
        Text(claimer.backend.name, style="green")
        if claimer.backend is not None
        else error_text(claimer.last_error)
    )
    return [
        Text(claimer.state, style=CLAIMER_STYLES[claimer.state]),
        f"{trio.current_time() - claimer.since:4.1f} s",
        f"{claimer.hold:g} s",
        f"{claimer.claims:,}",
        Text(str(claimer.failures), style="red" if claimer.failures else "dim"),
        where,
    ]


def error_text(error: Exception | None) -> Text:
    """Return one line about an error, or an empty one without an error."""
    text = "" if error is None else f"{type(error).__name__}: {error}"
    return Text(text, style="red", overflow="ellipsis")


def _foot(low: bool, narrow: bool) -> RenderableType:
    legend = Text.assemble(*((f"{sign} {state}  ", style) for state, sign, style in SLOT_STATES))
    keys = Text(SHORT_HELP if narrow else HELP, style="dim")
    foot = keys if low else Text("\n").join([legend, keys])
    foot.no_wrap, foot.overflow = True, "ellipsis"
    return foot


# --- Running it ------------------------------------------------------------------------


async def show(title: str, workload: Workload, fd: int = 0) -> None:
    """Draw the workload and obey the keys typed at terminal `fd`, until the user quits."""
    screen = Screen(title, workload)
    console = Console()
    with (
        # These signals would end the program as it stands, and with it the terminal's
        # mode: so they are received before that is changed, and still when it is back.
        trio.open_signal_receiver(signal.SIGTERM, signal.SIGHUP) as signals,
        logging_to(screen.log),
        keys_at_once(fd),
        Live(console=console, screen=True, auto_refresh=False) as live,
    ):
        async with trio.open_nursery() as nursery:
            screen.quit = nursery.cancel_scope.cancel

            def redraw() -> None:
                live.update(screen.draw(console.height, console.width), refresh=True)

            def press(key: str) -> None:
                screen.press(key)
                redraw()

            async def obey_keys() -> None:
                await read_keys(fd, press)
                screen.quit()

            async def obey_signals() -> None:
                async for _ in signals:
                    screen.quit()

            nursery.start_soon(obey_keys)
            nursery.start_soon(obey_signals)
            while True:
                redraw()
                await trio.sleep(REFRESH)
