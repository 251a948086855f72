"""Reads the keys of a terminal."""

from __future__ import annotations

import contextlib
import os
import termios
import tty
from collections.abc import Callable, Iterator
from typing import Final

import trio

#: The bytes that a terminal sends for each key with a meaning. Arrow keys have two encodings.
_KEYS: Final = {
    b"q": "quit",
    b"r": "reverse",
    b"p": "pool",
    b"\t": "show",
    b"\x1b[A": "up",
    b"\x1bOA": "up",
    b"\x1b[B": "down",
    b"\x1bOB": "down",
    b"\x1b[C": "right",
    b"\x1bOC": "right",
    b"\x1b[D": "left",
    b"\x1bOD": "left",
}


@contextlib.contextmanager
def unbuffered(fd: int) -> Iterator[None]:
    """Make the terminal send each key at once and without an echo, for the length of the block.

    Ctrl-C keeps its meaning. Ctrl-Z does nothing, because the shell would inherit the changed
    terminal.
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


def parse(data: bytes) -> tuple[list[str], bytes]:
    """Return the meanings of the keys in `data`, and the beginning of an incomplete key."""
    meanings = []
    while data:
        key = next((key for key in _KEYS if data.startswith(key)), None)
        if key is not None:
            meanings.append(_KEYS[key])
            data = data[len(key) :]
        elif any(key.startswith(data) for key in _KEYS):
            break
        else:
            data = data[1:]
    return meanings, data


async def read(fd: int, press: Callable[[str], None]) -> None:
    """Call `press` with the meaning of each key, until one means "quit" or the terminal closes."""
    rest = b""
    while True:
        # The descriptor stays blocking, because other processes share this terminal.
        await trio.lowlevel.wait_readable(fd)
        data = os.read(fd, 1024)
        meanings, rest = parse(rest + data)
        for meaning in meanings:
            press(meaning)
        if not data or "quit" in meanings:
            return
