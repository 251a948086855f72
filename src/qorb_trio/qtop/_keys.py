"""The keys of a terminal, one by one."""

from __future__ import annotations

import contextlib
import os
import termios
import tty
from collections.abc import Callable, Iterator
from typing import Final

import trio

#: What a terminal sends for the keys that mean something; arrows come in two dialects.
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
    """Have the terminal hand over each key at once, without an echo; in the end, as before.

    Ctrl-C stays what it is. Ctrl-Z does nothing: the shell would inherit this terminal.
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
    """What the keys in `data` mean, and the beginning of a key that it may end with."""
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
    """Call `press` with what each key means, until one means to quit or there are no more."""
    rest = b""
    while True:
        # The descriptor is not made non-blocking, since others have this terminal open too.
        await trio.lowlevel.wait_readable(fd)
        data = os.read(fd, 1024)
        meanings, rest = parse(rest + data)
        for meaning in meanings:
            press(meaning)
        if not data or "quit" in meanings:
            return
