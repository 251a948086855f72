"""The workload: on pipes, and on a terminal as a person would use it."""

from __future__ import annotations

import json
import re
import signal
import subprocess

import pytest
import trio

from qorb_trio.qtop._client import Target, connect

from ._programs import PATIENCE, command, echo_service, on_a_terminal, run, running

pytestmark = pytest.mark.real


async def test_plain_workload() -> None:
    """Off a terminal it prints a line each second, and a summary; no failure is status 0."""
    async with echo_service() as dns:
        nameserver = f"127.0.0.1:{dns.address[1]}"
        done = await run(
            "tcp_echo_workload.py",
            *("--nameserver", nameserver, "--seconds", "2.5", "--claimers", "3", "--hold", "0.01"),
        )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    title, first, second, summary = done.stdout.splitlines()
    assert title == f"_echo._tcp.test.com. by {nameserver}"
    for number, line in enumerate([first, second], 1):
        assert line.startswith(f"{number} s; ")
        assert "echo001.test.com" in line
        assert "echo002.test.com" in line
    claims = re.match(r"(\d+) claims, 0 failed; the slowest came after", summary)
    assert claims is not None
    assert int(claims[1]) > 10


async def test_plain_workload_without_backends_is_a_failure() -> None:
    """The exit status is 1 if no claim was granted."""
    async with echo_service(servers=0) as dns:
        done = await run(
            "tcp_echo_workload.py",
            *("--nameserver", f"127.0.0.1:{dns.address[1]}", "--seconds", "1.2"),
        )
    assert done.returncode == 1
    assert "no backends known: _echo._tcp.test.com SRV: " in done.stdout
    assert "0 claims" in done.stdout


async def test_workload_watched_by_qtop() -> None:
    """With `--qtop` the workload can be watched from elsewhere, until it ends."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    async with (
        echo_service() as dns,
        running(
            "tcp_echo_workload.py",
            *("--plain", "--nameserver", f"127.0.0.1:{dns.address[1]}", "--qtop", str(port)),
        ) as program,
    ):
        await program.wait_for("1 s; ")
        online, message = 0, {}
        with trio.fail_after(PATIENCE):
            async with connect(Target.parse(f"127.0.0.1:{port}", 0.1)) as socket:
                while online < 2:
                    message = json.loads(await socket.receive() or "")
                    online = sum(it["online"] for it in message["sets"].values())
        assert message["pools"][0]["name"] == "echo"


async def test_a_port_that_is_taken() -> None:
    """A workload that cannot serve qtop says why, in one line, and does not begin."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    done = await run("tcp_echo_workload.py", "--qtop", str(port))
    await listener.aclose()
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert f"qtop cannot be served on 127.0.0.1, port {port}" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [("--service", "a..b"), ("--hold", "-1"), ("--seconds", "nan"), ("--qtop", "x")],
    ids=" ".join,
)
async def test_wrong_arguments(arguments: tuple[str, str]) -> None:
    """A wrong argument is refused with a line that shows it, and not with a traceback."""
    done = await run("tcp_echo_workload.py", *arguments)
    assert done.returncode == 2
    assert arguments[1] in done.stderr.splitlines()[-1]


async def test_a_reader_who_has_seen_enough() -> None:
    """The workload ends without a complaint once the reader of its output is gone."""
    process = await trio.lowlevel.open_process(
        command("tcp_echo_workload.py", "--nameserver", "127.0.0.1:9", "--claimers", "0"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with trio.fail_after(PATIENCE):
        assert await process.stdout.receive_some()
        await process.stdout.aclose()
        assert b"".join([chunk async for chunk in process.stderr]) == b""
        await process.wait()
    await process.stderr.aclose()


async def test_an_interrupted_plain_workload() -> None:
    """At Ctrl-C, the lines end with the summary."""
    async with (
        echo_service() as dns,
        running(
            "tcp_echo_workload.py",
            *("--plain", "--nameserver", f"127.0.0.1:{dns.address[1]}"),
        ) as program,
    ):
        await program.wait_for("1 s; ")
        program.process.send_signal(signal.SIGINT)
        await program.wait_for(" claims, 0 failed; the slowest")


@pytest.mark.parametrize(
    ("environment", "lacking"),
    [({"TERM": "dumb"}, "TERM"), ({"PYTHONIOENCODING": "ascii"}, "UTF-8")],
    ids=["TERM", "encoding"],
)
async def test_a_terminal_without_a_screen(environment: dict[str, str], lacking: str) -> None:
    """On a terminal that cannot show the screen there are lines, and the reason why."""
    async with on_a_terminal(
        "tcp_echo_workload.py", *("--nameserver", "127.0.0.1:9", "--seconds", "0.1"), **environment
    ) as terminal:
        assert await terminal.wait() == 1
        await terminal.wait_until(lambda _: "0 claims, " in terminal.received)
        assert re.search(f"The screen needs .*{lacking}.*these are lines", terminal.received)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("42069", ("127.0.0.1", 42069)),
        ("[::1]:80", ("::1", 80)),
        ("localhost:80", ("localhost", 80)),
    ],
)
def test_where_qtop_is_served(text: str, expected: tuple[str, int]) -> None:
    """A port alone means the loopback address."""
    from tcp_echo_workload import host_and_port

    assert host_and_port(text) == expected


async def test_keys() -> None:
    """Each key does what the bottom line says, and q leaves the terminal as it was."""
    async with echo_service() as dns:
        nameserver = f"127.0.0.1:{dns.address[1]}"
        async with on_a_terminal(
            "tcp_echo_workload.py", "--nameserver", nameserver, "--claimers", "2"
        ) as terminal:
            await terminal.wait_until(lambda screen: "2 claimers" in screen)
            await terminal.wait_until(lambda screen: "2 backends" in screen)
            await terminal.wait_until(lambda screen: re.search(r"[1-9]\d* claims", screen))
            assert not terminal.is_as_before()
            await terminal.wait_until(lambda screen: "▶ claimer 1" in screen)

            await terminal.type("\t")
            await terminal.wait_until(lambda screen: "3 claimers" in screen)
            await terminal.wait_until(lambda screen: "▶ claimer 3" in screen)
            await terminal.type("\x1b[A")
            await terminal.wait_until(lambda screen: "▶ claimer 2" in screen)
            await terminal.type("\x1b[C")
            await terminal.wait_until(lambda screen: re.search(r"claimer 2 .* 0\.5 s", screen))
            await terminal.type("\x1b[D\x1b[D")
            await terminal.wait_until(lambda screen: re.search(r"claimer 2 .* 0\.1 s", screen))
            await terminal.type("\x1b[B\x1b[Z")
            await terminal.wait_until(lambda screen: "2 claimers" in screen)
            await terminal.wait_until(lambda screen: "▶ claimer 2" in screen)

            await terminal.type("q")
            assert await terminal.wait() == 0
            assert terminal.is_as_before()
            # The summary, which is printed after the screen is left, arrives a moment later.
            summary = r"\x1b\[\?1049l.*\d+ claims, 0 failed"
            await terminal.wait_until(lambda _: re.search(summary, terminal.received, re.DOTALL))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_the_terminal_is_restored_at_a_signal(how: signal.Signals) -> None:
    """Ctrl-C, and being told to end, leave the terminal as it was, and no traceback."""
    async with echo_service() as dns:
        nameserver = f"127.0.0.1:{dns.address[1]}"
        async with on_a_terminal("tcp_echo_workload.py", "--nameserver", nameserver) as terminal:
            await terminal.wait_until(lambda screen: "claimers" in screen)
            assert not terminal.is_as_before()
            terminal.process.send_signal(how)
            assert await terminal.wait() == 0
            assert terminal.is_as_before()
            await terminal.wait_until(lambda _: "\x1b[?1049l" in terminal.received)
            assert "\x1b[?25h" in terminal.received
            assert "Traceback" not in terminal.received
