"""The command: its arguments, its output on pipes, and its screen on a terminal."""

from __future__ import annotations

import importlib
import io
import json
import os
import re
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import h11
import pytest
import trio
import trustme
from rich.console import Console
from wsproto import events

from qorb_trio import _qtop_command, qtop
from qorb_trio.qtop import _command, _keys
from qorb_trio.qtop._client import Target, shake_hands
from qorb_trio.qtop._command import Watcher, main, parse_arguments, why
from qorb_trio.qtop._http import parse_request, read_head, switch_protocols

from ..examples._programs import Terminal, command_on_a_terminal
from .kit import a_pool, a_program

TOKEN = "a-secret-of-the-house"


@asynccontextmanager
async def a_server(**options: Any) -> AsyncIterator[int]:
    """A program that serves a pool; its port."""
    async with trio.open_nursery() as nursery, a_pool("a.test:80") as pool:
        listeners = await nursery.start(partial(qtop.serve, [pool], port=0, **options))
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def run(*arguments: str) -> int:
    """Run the command within this process, and its event loop."""
    return await Watcher(parse_arguments(arguments)).run()


def caused(exc: Exception, cause: Exception) -> Exception:
    """An exception that was raised from another."""
    exc.__cause__ = cause
    return exc


# --- Arguments --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ws://127.0.0.1:42069/qtop/stats", ("ws", "127.0.0.1", 42069, "/qtop/stats?")),
        ("localhost:42069", ("ws", "localhost", 42069, "/qtop/stats?")),
        ("http://[::1]:8080/", ("ws", "::1", 8080, "/qtop/stats?")),
        ("https://pools.test", ("wss", "pools.test", 443, "/qtop/stats?")),
        ("wss://x.test/a/b?c=d", ("wss", "x.test", 443, "/a/b?c=d&")),
        ("ws://me@x.test", ("ws", "x.test", 80, "/qtop/stats?")),
        ("42069", ("ws", "127.0.0.1", 42069, "/qtop/stats?")),
        (":80", ("ws", "127.0.0.1", 80, "/qtop/stats?")),
        ("http://x.test/qtop", ("ws", "x.test", 80, "/qtop/stats?")),
        ("ws://x.test/q\u00e9 %20", ("ws", "x.test", 80, "/q%C3%A9%20%20?")),
    ],
)
def test_targets(text: str, expected: tuple[str, str, int, str]) -> None:
    """A user may leave out of the URL what goes without saying."""
    target = Target.parse(text, 0.5)
    assert (target.scheme, target.host, target.port) == expected[:3]
    assert target.path == f"{expected[3]}update_secs=0.5"
    assert "@" not in target.authority


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["ftp://x.test"], "not the URL of a WebSocket"),
        (["ws://"], "not the URL of a WebSocket"),
        (["ws://x.test:port"], "Port"),
        (["--interval", "0"], "--interval must be between"),
        (["--interval", "nan"], "--interval must be between"),
        (["--sort", "beauty"], "invalid choice"),
        (["--token-file", "/nonexistent"], "No such file"),
        (["--ca-file", "/nonexistent"], "No such file"),
        (["--token-file", "/dev/null"], "token must be of visible ASCII"),
        (["--json", "--pool", "db"], "--pool is for the table"),
    ],
)
def test_wrong_arguments(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong argument is an error at once, with status 2."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("exc", "expected"),
    [
        (trio.TooSlowError(), "no answer in time"),
        (OSError("re\nfused"), "re\\nfused"),
        (trio.ClosedResourceError(), "ClosedResourceError"),
        (caused(OSError("all"), OSError(111, "no")), "cannot connect: Connection refused"),
        (caused(OSError("all"), OSError("no")), "cannot connect: all"),
        (
            caused(
                OSError("all"),
                ExceptionGroup("", [OSError(111, "a"), OSError(111, "b"), OSError(101, "c")]),
            ),
            "cannot connect: Connection refused, Network is unreachable",
        ),
        (caused(trio.BrokenResourceError(), OSError(1, "no TLS")), "[Errno 1] no TLS"),
    ],
)
def test_reasons(exc: Exception, expected: str) -> None:
    """The failure of a connection is one line, with the reason behind it."""
    assert why(exc) == expected


# --- On pipes ---------------------------------------------------------------------------


@pytest.mark.real
async def test_once(capsys: pytest.CaptureFixture[str]) -> None:
    """`--once` prints the table after one interval, `--once --json` the message."""
    async with a_server() as port:
        assert await run(f"127.0.0.1:{port}", "--once", "--json", "--interval", "0.1") == 0
        (line,) = capsys.readouterr().out.splitlines()
        message = json.loads(line)
        assert list(message)[:2] == ["claims", "sets"]
        assert message["interval"] > 0
        assert message["sets"]["a.test:80"]["online"] is True
        assert await run(f"127.0.0.1:{port}", "--once", "--interval", "0.1") == 0
        table = capsys.readouterr().out
    assert "CLAIMS/s" in table
    assert "a.test:80" in table


@pytest.mark.real
async def test_once_without_a_program(capsys: pytest.CaptureFixture[str]) -> None:
    """`--once` complains if there is no server, and its status is 1."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    assert await run(f"127.0.0.1:{port}", "--once") == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert "qtop: " in output.err
    assert "Connection refused" in output.err


@pytest.mark.real
async def test_once_without_that_pool(capsys: pytest.CaptureFixture[str]) -> None:
    """`--once` complains if there is no pool of that name, and its status is 1."""
    async with a_server() as port:
        once = (f"127.0.0.1:{port}", "--once", "--interval", "0.1", "--pool")
        assert await run(*once, "db") == 0
        assert "a.test:80" in capsys.readouterr().out
        assert await run(*once, "cache") == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert "there is no pool 'cache'" in output.err


@pytest.mark.real
async def test_tokens(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The token comes from the environment or from a file, and is never an argument."""
    async with a_server(token="a-secret-of-the-house") as port:
        once = (f"127.0.0.1:{port}", "--once", "--json", "--interval", "0.1")
        assert await run(*once) == 1
        assert "refused with status 401: a bearer token is needed" in capsys.readouterr().err
        monkeypatch.setenv("QTOP_TOKEN", "a-guess-at-the-secret")
        assert await run(*once) == 1
        assert "the token is wrong" in capsys.readouterr().err
        monkeypatch.setenv("QTOP_TOKEN", "a\nb")
        with pytest.raises(ValueError, match="token must be of visible ASCII"):
            await run(*once)
        file = tmp_path / "token"
        file.write_text(f"{TOKEN}\n")
        assert await run(*once, "--token-file", str(file)) == 0
        monkeypatch.setenv("QTOP_TOKEN", "a-secret-of-the-house")
        assert await run(*once) == 0


@pytest.mark.parametrize(
    ("url", "token", "warned"),
    [
        ("ws://db1.internal:42069", TOKEN, True),
        ("10.0.0.1:42069", TOKEN, True),
        ("http://db1.internal", TOKEN, True),
        ("wss://db1.internal", TOKEN, False),
        ("ws://127.0.0.1:42069", TOKEN, False),
        ("[::1]:42069", TOKEN, False),
        ("42069", TOKEN, False),
        ("ws://db1.internal:42069", None, False),
    ],
)
async def test_h_a_token_that_is_not_encrypted(
    url: str,
    token: str | None,
    warned: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before a token goes to another host in clear there is a warning, on the screen too."""
    monkeypatch.delenv("QTOP_TOKEN", raising=False)
    if token is not None:
        monkeypatch.setenv("QTOP_TOKEN", token)
    said_before: list[str] = []

    def connect(*_: object, **__: object) -> NoReturn:
        said_before.append(capsys.readouterr().err)
        raise OSError("no network here")

    monkeypatch.setattr(_command, "connect", connect)
    watcher = Watcher(parse_arguments([url, "--once"]))
    assert await watcher.run() == 1
    (said,) = said_before
    assert ("unencrypted, and to any program there that listens on port" in said) is warned
    assert ("the token is not encrypted" in watcher._screen._headline().plain) is warned


async def test_h_a_short_token_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command refuses a token that no server of ours would accept."""
    monkeypatch.setenv("QTOP_TOKEN", "secret")
    with pytest.raises(ValueError, match="at least 16 characters"):
        Watcher(parse_arguments([]))


@pytest.mark.real
async def test_h_a_server_with_200_000_backends(capsys: pytest.CaptureFixture[str]) -> None:
    """The command shows what it keeps of such a message and says so; as JSON it refuses it."""
    one = '{"connecting_slots":0,"unclaimed_slots":1,"checking_slots":0,"claimed_slots":0,'
    sets = ",".join(f'"b{number:06}":{one}"total_claims":{number}}}' for number in range(200_000))

    async def answer(stream: trio.SocketStream) -> None:
        http = h11.Connection(h11.SERVER)
        head = await read_head(stream)
        request = parse_request(http, head)
        assert isinstance(request, h11.Request)
        protocol = await switch_protocols(stream, http, request)
        with suppress(trio.BrokenResourceError):
            while True:
                await stream.send_all(
                    protocol.send(events.TextMessage(data=f'{{"claims":0,"sets":{{{sets}}}}}'))
                )

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, answer, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        assert await run(f"127.0.0.1:{port}", "--once", "--interval", "0.1") == 0
        table = capsys.readouterr().out
        assert await run(f"127.0.0.1:{port}", "--once", "--json", "--interval", "0.1") == 1
        nursery.cancel_scope.cancel()
    assert "a message is too long: only the first 5,000 backends are shown" in table
    assert "b004999" in table
    assert "b005000" not in table
    assert "longer than 4000000" in capsys.readouterr().err


@pytest.mark.real
async def test_tls(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Behind something that speaks TLS it can be watched as well, if that is trusted."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    async with (
        a_pool() as pool,
        a_program(pool) as program,
        trio.open_nursery() as nursery,
    ):
        serve = partial(trio.serve_ssl_over_tcp, port=0, ssl_context=context, host="127.0.0.1")
        listeners = await nursery.start(serve, program.server.handle)
        port = listeners[0].transport_listener.socket.getsockname()[1]
        once = (f"wss://localhost:{port}", "--once", "--json", "--interval", "0.1")
        assert await run(*once, "--ca-file", str(tmp_path / "ca.pem")) == 0
        assert json.loads(capsys.readouterr().out)["sets"]
        assert await run(*once) == 1
        assert "CERTIFICATE_VERIFY_FAILED" in capsys.readouterr().err
        nursery.cancel_scope.cancel()


async def test_an_answer_that_is_no_answer(autojump_clock: trio.testing.MockClock) -> None:
    """Something that hangs up, says no at length, or is no web server, ends in an error."""

    async def say(stream: trio.abc.Stream, text: bytes) -> None:
        await stream.receive_some()
        await stream.send_all(text)
        await stream.send_eof()  # type: ignore[attr-defined]

    for text, reason in (
        (b"", "the server closed the connection"),
        (b"HTTP/1.1 502 Bad\r\nContent-Length: 100000\r\n\r\n" + b"x" * 80000, "status 502: xxx"),
    ):
        ours, theirs = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(say, theirs, text)
            with pytest.raises(ConnectionError, match=reason):
                await shake_hands(ours, Target.parse("x.test", 1))


@pytest.mark.real
async def test_it_connects_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On pipes it prints each message, and goes on when a program has come back."""
    monkeypatch.setattr(_command, "RETRY", 0.01)
    printed = []

    async with trio.open_nursery() as nursery, a_pool() as pool:
        servers: list[trio.Nursery] = []
        news = trio.Event()

        async def serve(port: int, task_status: trio.TaskStatus[int]) -> None:
            async with trio.open_nursery() as server:
                servers.append(server)
                listeners = await server.start(qtop.serve, [pool], "127.0.0.1", port)
                task_status.started(listeners[0].socket.getsockname()[1])

        port = await nursery.start(serve, 0)

        def note(text: str) -> None:
            printed.append(text)
            news.set()

        watcher = Watcher(parse_arguments([f"127.0.0.1:{port}", "--json", "--interval", "0.1"]))
        monkeypatch.setattr(watcher, "_print", note)
        nursery.start_soon(watcher.run)
        await news.wait()
        servers[0].cancel_scope.cancel()
        while "connect" not in (said := capsys.readouterr().err):
            assert not said or "closed the connection" in said or "connect" in said
            await trio.sleep(0.01)
        count = len(printed)
        await nursery.start(serve, port)
        while len(printed) == count:
            news = trio.Event()
            await news.wait()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("raised", "expected", "said"),
    [
        (KeyboardInterrupt(), 0, ""),
        (caused(_command._OutputError(), BrokenPipeError()), 0, ""),
        (
            caused(_command._OutputError(), OSError(28, "disk full")),
            1,
            "qtop: [Errno 28] disk full",
        ),
    ],
)
def test_ends(
    raised: BaseException,
    expected: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Ctrl-C is one way to leave, as is a reader that has seen enough; a full disk is an error."""

    async def run(self: Watcher) -> int:
        raise raised

    monkeypatch.setattr(Watcher, "run", run)
    # The caller of `main` may have put anything there.
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert main([]) == expected
    assert capsys.readouterr().err.strip() == said


def test_the_status_is_that_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The result of the run is the command's exit status."""

    async def run(self: Watcher) -> int:
        return 1

    monkeypatch.setattr(Watcher, "run", run)
    assert main([]) == 1


@pytest.mark.parametrize("how", [[], ["--json"]])
def test_output_that_nobody_takes(how: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Output that cannot be written ends the command; another connection would not help."""

    def refuse(*_: object, **__: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("builtins.print", refuse)
    monkeypatch.setattr(Console, "print", refuse)
    with pytest.raises(_command._OutputError):
        Watcher(parse_arguments(how))._print("{}")


@pytest.mark.real
async def test_a_terminal_that_knows_no_bars() -> None:
    """A character that the output's encoding does not have is replaced."""
    async with a_server() as port:
        once = ["-m", "qorb_trio.qtop", f"127.0.0.1:{port}", "--once", "--interval", "0.1"]
        done = await trio.run_process(
            [sys.executable, *once],
            capture_stdout=True,
            env=os.environ | {"PYTHONIOENCODING": "ascii"},
        )
    assert b"a.test:80" in done.stdout
    assert b"?" in done.stdout


# --- On a terminal ----------------------------------------------------------------------


@asynccontextmanager
async def on_a_terminal(*arguments: str) -> AsyncIterator[Terminal]:
    """Run the command on a terminal, while the block runs."""
    async with command_on_a_terminal(
        [sys.executable, "-m", "qorb_trio.qtop", *arguments]
    ) as terminal:
        yield terminal


@pytest.mark.real
async def test_screen() -> None:
    """The command shows the pool, obeys each key of the bottom line, and q restores all."""
    async with (
        a_server() as port,
        on_a_terminal(f"127.0.0.1:{port}", "--interval", "0.1") as terminal,
    ):
        await terminal.wait_until(lambda screen: "● live" in screen and "a.test:80" in screen)
        assert not terminal.is_as_before()
        await terminal.wait_until(lambda screen: "BACKEND▲" in screen)
        await terminal.type("r")
        await terminal.wait_until(lambda screen: "BACKEND▼" in screen)
        await terminal.type("\x1b[C\x1b")
        await terminal.type("[C")
        await terminal.wait_until(lambda screen: "UP▼" in screen)
        await terminal.type("\t")
        await terminal.wait_until(lambda screen: "SINCE" in screen)
        terminal.process.send_signal(signal.SIGWINCH)
        await terminal.type("\t")
        await terminal.wait_until(lambda screen: "EVENT" in screen)
        await terminal.type("q")
        assert await terminal.wait() == 0
        assert terminal.is_as_before()


@pytest.mark.real
async def test_screen_without_a_program() -> None:
    """Without a program the command says so and tries again; a signal restores the terminal."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    async with on_a_terminal(f"127.0.0.1:{port}") as terminal:
        await terminal.wait_until(lambda screen: re.search("connect.*; trying again", screen))
        terminal.process.send_signal(signal.SIGTERM)
        assert await terminal.wait() == 0
        assert terminal.is_as_before()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"q", (["quit"], b"")),
        (b"xr\x1b[Bp", (["reverse", "down", "pool"], b"")),
        (b"\x1b", ([], b"\x1b")),
        (b"\x1bOA\x1b[", (["up"], b"\x1b[")),
        (b"\x1b[Z\t", (["show"], b"")),
    ],
)
def test_keys(data: bytes, expected: tuple[list[str], bytes]) -> None:
    """Keys are recognised in any mixture, and the beginning of one waits for its end."""
    assert _keys.parse(data) == expected


@pytest.mark.real
async def test_no_more_keys() -> None:
    """A terminal that is gone ends the command, as q does."""
    pressed: list[str] = []
    reader, writer = os.pipe()
    try:
        os.write(writer, b"rrq")
        await _keys.read(reader, pressed.append)
        os.close(writer)
        await _keys.read(reader, pressed.append)
    finally:
        os.close(reader)
    assert pressed == ["reverse", "reverse", "quit"]


# --- Without the extra ------------------------------------------------------------------

WITHOUT = "import sys; sys.modules[{missing!r}] = None; {code}"


@pytest.mark.real
@pytest.mark.parametrize("missing", ["h11", "rich", "wsproto"])
def test_j_the_command_without_its_extra(missing: str) -> None:
    """The command says which package is missing and how to install it, without a traceback."""
    code = "from qorb_trio._qtop_command import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(missing=missing, code=code)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    hint = f"qtop: the package {missing} is missing: pip install 'qorb-trio[qtop]'"
    assert (done.returncode, done.stderr.strip()) == (1, hint)


@pytest.mark.parametrize("missing", ["h11", "wsproto", "qorb_trio.qtop._guard"])
def test_j_the_module_without_its_extra(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To import the module without its extra is an error with a hint; another error stays."""
    for name in [name for name in sys.modules if name.startswith("qorb_trio.qtop")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError) as caught:
        importlib.import_module("qorb_trio.qtop")
    assert ("pip install 'qorb-trio[qtop]'" in str(caught.value)) == (missing in {"h11", "wsproto"})


def test_the_entry_point_passes_other_errors_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error other than a missing package is not hidden; the status is the command's."""
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "qorb_trio.qtop._command", None)
        with pytest.raises(ImportError):
            _qtop_command.main()
        patch.setitem(sys.modules, "qorb_trio.qtop._command", missing_rich())
        assert _qtop_command.main() == 1
    monkeypatch.setattr(_command, "main", lambda: 7)
    assert _qtop_command.main() == 7


def missing_rich() -> ModuleType:
    """A module that cannot be used because a package is missing."""

    class Missing(ModuleType):
        def __getattr__(self, name: str) -> NoReturn:
            raise ImportError("no module", name="rich")

    return Missing("qorb_trio.qtop._command")
