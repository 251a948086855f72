"""``python -m qorb_trio.resolve``: what it prints, and its exit status."""

from __future__ import annotations

import argparse
import io
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from functools import partial

import pytest
import trio
from trio.testing import MockClock

from qorb_trio import Backend, DnsResolver, resolve
from qorb_trio.testing import DnsServer

pytestmark = pytest.mark.real

NAME = "_echo._tcp.test"


@pytest.fixture
async def server() -> AsyncIterator[DnsServer]:
    """A nameserver with one service of two backends."""
    async with DnsServer(origin="test.", default_ttl=1) as server:
        server.set("_echo._tcp", "SRV", ["0 1 7001 a", "5 2 7002 b"])
        server.set("a", "A", "127.0.0.1")
        server.set("b", "AAAA", "::1")
        yield server


async def run(*arguments: object) -> tuple[int, str]:
    """Run the command in this process, in a thread: its exit status and its output."""
    out: list[str] = []

    def call() -> int:
        return resolve.main([str(argument) for argument in arguments])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            resolve._Printer,
            "_print",
            lambda self, what: out.append(what if isinstance(what, str) else json.dumps(what)),
        )
        status = await trio.to_thread.run_sync(call)
    return status, "\n".join(out)


def at(server: DnsServer) -> tuple[str, str]:
    host, port = server.address
    return "--nameserver", f"{host}:{port}"


async def test_a_person_asks(server: DnsServer) -> None:
    """The backends are printed, one per line, and the status is 0."""
    status, out = await run(NAME, *at(server))
    assert status == 0
    assert out.splitlines() == [
        "  a.test:7001@127.0.0.1  priority 0  weight 1",
        "  b.test:7002@::1  priority 5  weight 2",
    ]


async def test_a_script_asks(server: DnsServer) -> None:
    """With ``--json``, it is one object."""
    status, out = await run(NAME, *at(server), "--json", "--family", "A")
    assert status == 0
    assert json.loads(out) == {
        "backends": [
            {
                "name": "a.test:7001@127.0.0.1",
                "address": ["127.0.0.1", 7001],
                "priority": 0,
                "weight": 1,
            }
        ]
    }


async def test_verbose(server: DnsServer) -> None:
    """``--verbose`` shows each name's records and state, and the nameserver that answered."""
    status, out = await run(NAME, *at(server), "--verbose")
    assert status == 0
    assert f"  {NAME} SRV TTL 1 good ({at(server)[1]}): 0 1 7001 a.test, 5 2 7002 b.test" in out
    assert f"  nameserver {at(server)[1]} (given)" in out
    status, out = await run(NAME, *at(server), "--verbose", "--json")
    assert json.loads(out.splitlines()[1])["names"][0]["state"] == "good"


async def test_no_backends(server: DnsServer) -> None:
    """A service that is not there is said to be empty, with status 1."""
    assert await run("_other._tcp.test", *at(server)) == (1, "  no backends")
    assert await run("_other._tcp.test", *at(server), "--json") == (1, '{"backends": []}')


async def test_no_answer() -> None:
    """Without an answer in time the reason is printed, with status 3."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    status, out = await run(NAME, "--nameserver", f"127.0.0.1:{port}", "--timeout", "0.2")
    assert status == 3
    assert "failing" in out
    assert "refused" in out


async def test_other_forms(server: DnsServer) -> None:
    """Addresses and hosts are taken as `resolver_for` takes them."""
    assert await run("127.0.0.1:80") == (0, "  127.0.0.1:80  priority 0  weight 1")
    status, out = await run("a.test", *at(server), "--default-port", "81")
    assert (status, out) == (0, "  a.test:81@127.0.0.1  priority 0  weight 1")
    server.set("_dns._udp", "SRV", f"0 0 {server.address[1]} a")
    status, out = await run(NAME, *at(server), "--resolver-service", "_dns._udp.test", "--verbose")
    assert status == 0
    assert "(dynamic)" in out


@pytest.mark.parametrize(
    "arguments",
    [[], ["a..b"], ["a.b", "--nameserver", "x:y"], ["a.b:x"], ["a.b", "--default-port", "0"]],
)
def test_wrong_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong arguments are explained, with status 2."""
    with pytest.raises(SystemExit) as caught:
        resolve.main(arguments)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """Sets are printed in full first, and then by what has changed in them."""
    printer = resolve._Printer(sys.stdout, as_json=False)
    a, b = Backend(("10.0.0.1", 80), name="a"), Backend(("10.0.0.2", 80), name="b")
    printer.show([])
    printer.show([a])
    printer.show([Backend(("10.0.0.1", 80), name="a", weight=7), b])
    printer.show([b])
    assert capsys.readouterr().out.splitlines() == [
        "  no backends",
        "+ a  priority 0  weight 1",
        "~ a  priority 0  weight 7",
        "+ b  priority 0  weight 1",
        "- a  priority 0  weight 7",
    ]


def test_watching_what_never_changes(capsys: pytest.CaptureFixture[str]) -> None:
    """Fixed addresses are printed once, and then there is nothing to watch."""
    assert resolve.main(["10.0.0.1:80", "--watch", "--json", "--verbose"]) == 0
    assert json.loads(capsys.readouterr().out)["backends"][0]["name"] == "10.0.0.1:80"


def test_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted, the status tells whether there were backends."""

    def run(_: object, __: object, ___: object, printer: resolve._Printer) -> None:
        printer.last = last
        raise KeyboardInterrupt

    monkeypatch.setattr(trio, "run", run)
    last: dict[str, Backend] | None = None
    assert resolve.main(["a.b", "--watch"]) == 1
    last = {"a": Backend(("a", 1))}
    assert resolve.main(["a.b", "--watch"]) == 0


async def test_watch(server: DnsServer) -> None:
    """With ``--watch``, a program of its own prints every change; Ctrl-C ends it."""
    command = [sys.executable, "-m", "qorb_trio.resolve", NAME, *at(server), "--watch"]
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            process = await nursery.start(
                partial(
                    trio.run_process,
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    check=False,
                )
            )
            lines = Lines(process.stdout)
            assert (await lines.next()).startswith("  a.test:7001@127.0.0.1")
            assert (await lines.next()).startswith("  b.test:7002@::1")
            server.set("_echo._tcp", "SRV", ["0 9 7001 a", "0 1 7003 a"])
            changes = sorted([await lines.next() for _ in range(3)])
            assert changes == [
                "+ a.test:7003@127.0.0.1  priority 0  weight 1",
                "- b.test:7002@::1  priority 5  weight 2",
                "~ a.test:7001@127.0.0.1  priority 0  weight 9",
            ]
            process.send_signal(2)
            await process.wait()
    assert process.returncode == 0


async def test_watch_without_an_answer() -> None:
    """With ``--watch`` too it is said why there is no answer, until there is one."""
    async with DnsServer(origin="test.", default_ttl=1) as server:
        server.fault = lambda _: "SERVFAIL"
        command = [sys.executable, "-m", "qorb_trio.resolve", NAME, *at(server)]
        process = await trio.lowlevel.open_process(
            [*command, "--watch", "--timeout", "1"], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        with trio.fail_after(30):
            lines = Lines(process.stdout)
            assert (await lines.next()).startswith("  _echo._tcp.test SRV ")
            assert (await lines.next()).startswith("  nameserver")
            server.set("_echo._tcp", "SRV", "0 1 7001 a")
            server.set("a", "A", "127.0.0.1")
            server.fault = None
            assert (await lines.next()).startswith("  a.test:7001@127.0.0.1")
            process.send_signal(2)
            assert await process.wait() == 0
        await process.stdout.aclose()


async def test_nothing_is_said_of_what_was_answered(autojump_clock: MockClock) -> None:
    """Nothing is explained at the timeout if there was an answer, even of no backend."""
    out = io.StringIO()
    printer = resolve._Printer(out, as_json=False, last={})
    arguments = argparse.Namespace(timeout=10.0)
    await resolve._say_why_there_is_nothing(DnsResolver(NAME), arguments, printer)
    assert trio.current_time() == 10
    assert out.getvalue() == ""


class Lines:
    """The lines of a stream, one at a time."""

    def __init__(self, stream: trio.abc.ReceiveStream) -> None:
        self._stream = stream
        self._data = b""

    async def next(self) -> str:
        while b"\n" not in self._data:
            chunk = await self._stream.receive_some()
            assert chunk, "the program has ended"
            self._data += chunk
        line, self._data = self._data.split(b"\n", 1)
        return line.decode()


async def test_a_reader_who_has_seen_enough(server: DnsServer) -> None:
    """The command ends without a complaint when its output is no longer read."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "qorb_trio.resolve", NAME, *at(server), "--watch"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with trio.fail_after(20):
        assert await process.stdout.receive_some()
        await process.stdout.aclose()
        server.set("a", "A", "127.0.0.3")
        assert b"".join([chunk async for chunk in process.stderr]) == b""
        assert await process.wait() == 0
    await process.stderr.aclose()
