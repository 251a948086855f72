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

from . import _keys
from ._client import PATIENCE, Target, connect
from ._guard import check_token
from ._screen import COLUMNS, Screen
from ._view import printable
from ._websocket import MessageTooLongError, WebSocket

OK, FAILED = 0, 1  # 2 is argparse's
DEFAULT_URL: Final = "ws://127.0.0.1:42069/qtop/stats"
#: Seconds between two tries to connect.
RETRY: Final = 1.0

#: What can happen to a connection. Another can be tried.
_FAILURES: Final = (
    OSError,
    trio.BrokenResourceError,
    trio.TooSlowError,
    RemoteProtocolError,
    MessageTooLongError,
    ValueError,
)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """What the command line asks for.

    Raises:
      SystemExit: it makes no sense.
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
    add("--sort", choices=COLUMNS, default="backend", help="by what to sort (default: backend)")
    add("--reverse", action="store_true", help="the greatest first")
    add("--pool", metavar="NAME", help="show this pool only")
    add("--once", action="store_true", help="show the state once, after one interval, and end")
    add("--json", action="store_true", help="print each message as a line of JSON, for scripts")
    add(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="where the server's token is (default: the environment's QTOP_TOKEN)",
    )
    add("--ca-file", type=Path, metavar="FILE", help="for wss: whom to trust, in PEM")
    return parser


class _OutputError(Exception):
    """The output cannot be written; its cause is why."""


def why(exc: BaseException) -> str:
    """One line about what happened to a connection."""
    if isinstance(exc, trio.TooSlowError):
        return "no answer in time"
    if isinstance(exc, OSError) and exc.__cause__ is not None:
        # Trio says that all attempts to connect have failed, and its cause is why each of them.
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
    print(f"qtop: {why(exc)}", file=sys.stderr, flush=True)  # noqa: T201 - a command's output


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit status. `argv` is without the program's name.

    Raises:
      SystemExit: for wrong arguments, as argparse does.
    """
    try:
        watcher = Watcher(parse_arguments(argv))
    except (ValueError, OSError) as exc:
        _parser().error(str(exc))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # There are terminals that know no bars.
            stream.reconfigure(errors="replace")
    status = OK
    try:
        return trio.run(watcher.run)
    except* KeyboardInterrupt:
        pass  # one way to leave
    except* _OutputError as group:
        status = _output_failed(group)
    return status


def _output_failed(group: BaseExceptionGroup) -> int:
    # Python would complain when it flushes what cannot be written.
    sys.stdout = None
    (cause,) = (exc.__cause__ for exc in _leaves(group))
    if isinstance(cause, BrokenPipeError):
        return OK  # whoever read it has seen enough
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
            raise ValueError("--pool is for the table; with --json each message comes whole")
        target = Target.parse(arguments.url, self._interval)
        token = os.environ.get("QTOP_TOKEN") or None
        if arguments.token_file is not None:
            token = arguments.token_file.read_text().strip()
        if token is not None:
            check_token(token)
        context = None
        if arguments.ca_file is not None:
            context = ssl.create_default_context(cafile=arguments.ca_file)
        self._connect = functools.partial(connect, target, token=token, ssl_context=context)
        self._screen: Screen = Screen(
            arguments.url,
            sort=arguments.sort,
            down=arguments.reverse,
            pool=arguments.pool,
        )

    async def run(self) -> int:
        """Do what the arguments say; the exit status."""
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
                # There are no rates before the second message; qorb sends one with each
                # change, too.
                while trio.current_time() < begin + 0.9 * self._interval:
                    text = await self._receive(socket)
        except _FAILURES as exc:
            _complain(exc)
            return FAILED
        if not self._screen.knows_pool():
            _complain(ValueError(f"there is no pool {self._arguments.pool!r}"))
            return FAILED
        self._print(text)
        return OK

    async def _follow(
        self, take: Callable[[str], None], lost: Callable[[Exception], None]
    ) -> NoReturn:
        """Pass on each message; connect again, and again, when there is no connection."""
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
        """The next message, of which the view has learnt."""
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
                # As one line, whatever it was.
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
            # These would end the program before the terminal is as it was.
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
