"""The command ``qtop``: watch the pools of a program from a terminal."""

from __future__ import annotations

import argparse
import functools
import io
import json
import os
import signal
import ssl
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NoReturn, final

import trio
from rich.console import Console
from rich.live import Live
from wsproto.utilities import RemoteProtocolError

from .._util import printable
from . import _keys
from ._client import PATIENCE, Target, connect
from ._columns import COLUMNS
from ._guard import check_token
from ._screen import Screen
from ._websocket import PeerExcessError, WebSocket

OK, FAILED = 0, 1  # argparse uses 2
DEFAULT_URL: Final = "ws://127.0.0.1:42069/qtop/stats"
#: The time between two attempts to connect, in seconds.
RETRY: Final = 1.0

#: The failures of a connection, after which another is tried.
_FAILURES: Final = (
    OSError,
    trio.BrokenResourceError,
    trio.TooSlowError,
    RemoteProtocolError,
    PeerExcessError,
    ValueError,
)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line.

    Raises:
      SystemExit: it is wrong.
    """
    return _parser().parse_args(argv)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="qtop",
        description="Watch the connection pools of a program that serves them (qorb_trio.qtop).",
        epilog="Exit status: 0; 1 if --once finds no program there, or not that pool, or if the"
        " output cannot be written; 2 for wrong arguments.",
    )
    add = parser.add_argument
    add("url", nargs="?", default=DEFAULT_URL, help="default: %(default)s")
    add("--interval", "-i", type=float, default=1.0, metavar="SECONDS", help="default: 1")
    add(
        "--sort",
        choices=COLUMNS,
        default="backend",
        help="the column to sort by (default: backend)",
    )
    add("--reverse", action="store_true", help="sort in descending order")
    add("--pool", metavar="NAME", help="show this pool only")
    add("--once", action="store_true", help="show the state once, after one interval, and end")
    add("--json", action="store_true", help="print each message as a line of JSON, for scripts")
    add(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="the file with the server's token (default: the environment's QTOP_TOKEN)",
    )
    add("--ca-file", type=Path, metavar="FILE", help="for wss: the trusted authorities, in PEM")
    return parser


class _OutputError(Exception):
    """The output cannot be written. Its cause is the reason."""


def why(exc: BaseException) -> str:
    """Return one line about the failure of a connection."""
    if isinstance(exc, trio.TooSlowError):
        return "no answer in time"
    if isinstance(exc, OSError) and exc.__cause__ is not None:
        # Trio's message says that all attempts failed; its cause has the reason of each.
        found = (it for it in _leaves(exc.__cause__) if isinstance(it, OSError) and it.errno)
        reasons = dict.fromkeys(os.strerror(it.errno or 0) for it in found)
        return f"cannot connect: {', '.join(reasons) or exc}"
    return printable(str(exc) or str(exc.__cause__ or type(exc).__name__))


def _leaves(exc: BaseException) -> Iterator[BaseException]:
    if isinstance(exc, BaseExceptionGroup):
        for inner in exc.exceptions:
            yield from _leaves(inner)
    else:
        yield exc


def _complain(exc: Exception) -> None:
    _say(why(exc))


def _say(text: str) -> None:
    print(f"qtop: {text}", file=sys.stderr, flush=True)  # noqa: T201 - a command's output


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status. `argv` is without the program's name.

    Raises:
      SystemExit: for wrong arguments, as argparse does.
    """
    try:
        watcher = Watcher(parse_arguments(argv))
    except (ValueError, OSError) as exc:
        _parser().error(str(exc))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Some terminals have no characters for bars.
            stream.reconfigure(errors="replace")
    status = OK
    try:
        return trio.run(watcher.run)
    except* KeyboardInterrupt:
        pass  # Ctrl-C is one way to leave
    except* _OutputError as group:
        status = _output_failed(group)
    return status


def _output_failed(group: BaseExceptionGroup) -> int:
    # At its exit Python would flush the stream, and complain.
    sys.stdout = None
    (cause,) = (exc.__cause__ for exc in _leaves(group))
    if isinstance(cause, BrokenPipeError):
        return OK  # the reader, such as `head`, has seen enough
    assert isinstance(cause, OSError)
    _complain(cause)
    return FAILED


@final
class Watcher:
    """One run of the command."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments: argparse.Namespace = arguments
        self._interval: float = arguments.interval
        if not 0.1 <= self._interval <= 3600:
            raise ValueError("--interval must be between 0.1 and 3600 seconds")
        if arguments.json and arguments.pool is not None:
            raise ValueError("--pool is for the table; --json prints whole messages")
        target = Target.parse(arguments.url, self._interval)
        token = os.environ.get("QTOP_TOKEN") or None
        if arguments.token_file is not None:
            token = arguments.token_file.read_text().strip()
        if token is not None:
            check_token(token)
        self._exposed: bool = token is not None and target.is_exposed
        self._target: Target = target
        context = None
        if arguments.ca_file is not None:
            context = ssl.create_default_context(cafile=arguments.ca_file)
        self._connect = functools.partial(
            connect, target, token=token, ssl_context=context, cut=not arguments.json
        )
        self._screen: Screen = Screen(
            arguments.url,
            sort=arguments.sort,
            down=arguments.reverse,
            pool=arguments.pool,
            warning="the token is not encrypted" if self._exposed else "",
        )

    async def run(self) -> int:
        """Do what the arguments say, and return the exit status."""
        if self._exposed:
            _say(
                f"warning: the token travels to {printable(self._target.host)} unencrypted, and"
                f" to any program there that listens on port {self._target.port}; use a wss://"
                " URL, or ssh -L"
            )
        if self._arguments.once:
            return await self._once()
        if self._arguments.json or not (sys.stdin.isatty() and sys.stdout.isatty()):
            await self._follow(self._print, _complain)
        await self._show()
        return OK

    async def _once(self) -> int:
        try:
            async with self._connect() as socket:
                text = await self._receive(socket)
                begin = trio.current_time()
                # There are no rates before the second message. qorb also sends a message
                # with each change.
                while trio.current_time() < begin + 0.9 * self._interval:
                    text = await self._receive(socket)
        except _FAILURES as exc:
            _complain(exc)
            return FAILED
        if not self._screen.knows_pool():
            _say(f"there is no pool {printable(self._arguments.pool)!r}")
            return FAILED
        self._print(text)
        return OK

    async def _follow(
        self, take: Callable[[str], None], lost: Callable[[Exception], None]
    ) -> NoReturn:
        """Pass on each message. Connect again when the connection is lost."""
        while True:
            try:
                async with self._connect() as socket:
                    while True:
                        take(await self._receive(socket))
            except _FAILURES as exc:
                self._screen.view.lost()
                lost(exc)
            await trio.sleep(RETRY)

    async def _receive(self, socket: WebSocket) -> str:
        """Return the next message, after the view has taken it in."""
        with trio.fail_after(self._interval + PATIENCE):
            text = await socket.receive()
        if text is None:
            raise ConnectionError("the program has closed the connection")
        self._screen.view.take(text, trio.current_time())
        return text

    # On pipes.

    def _print(self, text: str) -> None:
        try:
            if self._arguments.json:
                # On one line, whatever its format was.
                print(json.dumps(json.loads(text)), flush=True)  # noqa: T201 - a command's output
            else:
                console = Console(width=None if Console().is_terminal else 200)
                console.print(self._screen.report(console.width))
                console.file.flush()
        except OSError as exc:
            raise _OutputError from exc

    # On a terminal.

    async def _show(self) -> None:
        screen, console = self._screen, Console()
        with (
            # These signals would end the program before it restores the terminal.
            trio.open_signal_receiver(signal.SIGTERM, signal.SIGHUP, signal.SIGWINCH) as signals,
            _keys.unbuffered(0),
            Live(console=console, screen=True, auto_refresh=False) as live,
        ):

            def redraw() -> None:
                size = console.size
                picture = screen.draw(size.height, size.width, trio.current_time())
                live.update(picture, refresh=True)

            def take(_text: str) -> None:
                screen.status = "live"
                redraw()

            def lost(exc: Exception) -> None:
                screen.status = f"{why(exc)}; trying again"
                redraw()

            def press(key: str) -> None:
                screen.press(key)
                redraw()

            async def obey_signals(scope: trio.CancelScope) -> None:
                async for signum in signals:
                    if signum == signal.SIGWINCH:
                        redraw()
                    else:
                        scope.cancel()

            redraw()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._follow, take, lost)
                nursery.start_soon(obey_signals, nursery.cancel_scope)
                await _keys.read(0, press)
                nursery.cancel_scope.cancel()
