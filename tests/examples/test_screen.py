"""The screen of the workload: keys and pictures, without a terminal."""

from __future__ import annotations

import io
import logging
import os
import pty
import termios
from typing import cast

import attrs
import pytest
import trio
from rich.console import Console

import qorb_trio
from echo_claimers import Workload
from echo_screen import LastLines, Screen, parse_keys, show
from qorb_trio import BackendStats, PoolStats


@pytest.mark.parametrize(
    ("typed", "keys", "rest"),
    [
        (b"\t", ["add"], b""),
        (b"\x1b[Z", ["remove"], b""),
        (b"\x1b[A\x1b[B\x1bOC\x1bOD", ["up", "down", "longer", "shorter"], b""),
        (b"xyz", [], b""),
        (b"xq", ["quit"], b""),
        (b"\x1b", [], b"\x1b"),
        (b"\t\x1b[", ["add"], b"\x1b["),
        (b"\x1bq", ["quit"], b""),
        (b"\x1b[5~\t", ["add"], b""),
    ],
)
def test_keys_are_told_apart(typed: bytes, keys: list[str], rest: bytes) -> None:
    """Keys come in any number at once, in pieces, and among others that mean nothing."""
    assert parse_keys(typed) == (keys, rest)


def backend(number: int, *, online: bool = True, error: Exception | None = None) -> BackendStats:
    """Make statistics that a pool might have for one backend."""
    return BackendStats(
        backend=qorb_trio.Backend(("::1", 6000 + number), name=f"echo{number}"),
        online=online,
        connecting=0 if online else 2,
        unclaimed=2,
        checking=1,
        claimed=3,
        closing=1,
        wanted=6,
        total_claims=12345,
        failures=7,
        last_error=error,
    )


@attrs.define
class FakePool:
    """A pool that has nothing but statistics."""

    backends: list[BackendStats]

    def stats(self) -> PoolStats:
        """The statistics given."""
        return PoolStats(
            name="echo",
            claims=54321,
            waiting=4,
            slots=21,
            departed=1,
            backends={stats.backend.name: stats for stats in self.backends},
        )


class FaultyPool(FakePool):
    """A pool that breaks after a while."""

    def stats(self) -> PoolStats:
        """The statistics given, twice."""
        if not self.backends:
            raise RuntimeError("a bug")
        self.backends.pop()
        return super().stats()


@attrs.define
class FakeNursery:
    """A nursery in which nothing runs."""

    def start_soon(self, *_: object, name: object) -> None:
        """Do nothing."""


def a_screen(*backends: BackendStats, claimers: int) -> Screen:
    """A screen with a workload that stands still."""
    pool = cast("qorb_trio.Pool[trio.SocketStream]", FakePool(list(backends)))
    screen = Screen("the title", Workload(pool, 0.2, cast("trio.Nursery", FakeNursery())))
    for _ in range(claimers):
        screen.press("add")
    return screen


def picture(screen: Screen, width: int = 100, height: int = 30) -> str:
    """Return the screen as text."""
    console = Console(file=io.StringIO(), width=width, height=height)
    with console.capture() as capture:
        console.print(screen.draw(height, width), height=height)
    return capture.get()


async def test_backends_and_their_slots_are_shown() -> None:
    """Each backend has a line, with a sign for each slot, its claims, and its last error."""
    refused = ConnectionRefusedError("nobody there")
    shown = picture(a_screen(backend(1), backend(2, online=False, error=refused), claimers=0))
    lines = {words[1]: words for line in shown.splitlines() if len(words := line.split()) > 5}
    assert lines["echo1"][2:6] == ["■■■□□▣✕", "6", "12,345", "7"]
    assert lines["echo2"][2:6] == ["■■■□□▣……✕", "6", "12,345", "7"]
    assert "ConnectionRefusedError: nob" in shown
    assert "4 waiting  21 slots (1 of departed backends)" in shown


async def test_claimers_are_shown_and_selected() -> None:
    """Each claimer has a line; the selection stays within them, whatever is pressed."""
    screen = a_screen(backend(1), claimers=3)
    assert "▶ claimer 3" in picture(screen)
    for _ in range(5):
        screen.press("up")
    assert "▶ claimer 1" in picture(screen)
    for _ in range(5):
        screen.press("down")
    screen.press("remove")
    assert "▶ claimer 2" in picture(screen)
    for _ in range(5):
        screen.press("remove")
    assert "0 claimers" in picture(screen)
    for key in ("up", "down", "longer", "shorter", "remove"):
        screen.press(key)


async def test_the_hold_has_ends() -> None:
    """Holding cannot get shorter than not at all, nor longer than a minute."""
    screen = a_screen(claimers=1)
    claimer = screen.workload.claimers[0]
    for _ in range(30):
        screen.press("longer")
    assert claimer.hold == 60
    for _ in range(30):
        screen.press("shorter")
    assert claimer.hold == 0


async def test_more_claimers_than_lines() -> None:
    """On a small terminal, the lines around the selected claimer are shown."""
    screen = a_screen(backend(1), claimers=60)
    assert "▶ claimer 60" in picture(screen, height=24)
    assert "claimer 1 " not in picture(screen, height=24)
    for _ in range(60):
        screen.press("up")
    assert "▶ claimer 1" in picture(screen, height=24)


async def test_a_small_terminal_shows_what_matters() -> None:
    """On 40 columns and 10 lines there are the slots, the selected claimer and the keys."""
    screen = a_screen(*map(backend, range(3)), claimers=20)
    screen.log.lines.append("not now")
    shown = picture(screen, 40, 10)
    assert "■■■□□▣✕" in shown
    assert "▶ claimer 20" in shown
    assert "q quit" not in shown
    assert "hold · q" in shown
    assert "not now" not in shown
    assert len(shown.splitlines()) == 10


@pytest.mark.parametrize("width", [40, 100])
async def test_no_backends_are_explained(width: int) -> None:
    """Without backends the screen says so."""
    assert "no backends known" in picture(a_screen(claimers=1), width)


@pytest.mark.parametrize("size", [(20, 5), (1, 1), (300, 100)])
async def test_any_terminal_will_do(size: tuple[int, int]) -> None:
    """No size of terminal makes drawing fail."""
    screen = a_screen(*map(backend, range(9)), claimers=20)
    assert len(picture(screen, *size).splitlines()) <= size[1]


async def test_the_log_is_shown_below() -> None:
    """The last lines of the log are part of the screen, and are not printed over it."""
    screen = a_screen(backend(1), claimers=1)
    logger = logging.Logger("example")  # noqa: LOG001 - used by this test only
    logger.addHandler(screen.log)
    for number in range(10):
        logger.warning("message %d\nand more", number)
    shown = picture(screen)
    assert "message 9" in shown
    assert "message 5" not in shown
    assert "and more" not in shown
    assert isinstance(screen.log, LastLines)


async def test_a_crash_leaves_the_terminal_as_it_was() -> None:
    """An exception while the screen is shown gets out, and the terminal is restored."""
    pool = cast("qorb_trio.Pool[trio.SocketStream]", FaultyPool([backend(1), backend(2)]))
    workload = Workload(pool, 0.2, cast("trio.Nursery", FakeNursery()))
    master, slave = pty.openpty()
    try:
        before = termios.tcgetattr(slave)
        handlers = logging.getLogger().handlers[:]
        with pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="a bug")):
            await show("the title", workload, slave)
        assert termios.tcgetattr(slave) == before
        assert logging.getLogger().handlers == handlers
    finally:
        os.close(master)
        os.close(slave)
