"""Runs the examples as their readers do: as programs, on pipes or on a terminal."""

from __future__ import annotations

import codecs
import os
import pty
import re
import subprocess
import sys
import termios
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import attrs
import trio

from qorb_trio.testing import DnsServer

EXAMPLES = Path(__file__).parents[2] / "examples"
PATIENCE = 20.0
ORIGIN = "test.com."

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def command(name: str, *arguments: str) -> list[str]:
    """The command line of an example."""
    return [sys.executable, str(EXAMPLES / name), *arguments]


async def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run an example to its end, on pipes."""
    with trio.fail_after(PATIENCE):
        done = await trio.run_process(
            command(name, *arguments), capture_stdout=True, capture_stderr=True, check=False
        )
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


@attrs.define(eq=False)
class Program:
    """An example that is running, and what it has printed so far."""

    process: trio.Process
    output: trio.abc.ReceiveStream
    said: str = ""

    async def wait_for(self, words: str) -> str:
        """Wait until it has printed `words`, and take off all up to the end of that line."""
        with trio.fail_after(PATIENCE):
            while (match := re.search(re.escape(words) + ".*\n", self.said)) is None:
                chunk = await self.output.receive_some()
                if not chunk:
                    raise AssertionError(f"it ended without a word of {words!r}: {self.said}")
                self.said += chunk.decode("ascii")
        self.said = self.said[match.end() :]
        return match.group()

    async def wait(self) -> int:
        """Wait until it has ended; its exit status."""
        with trio.fail_after(PATIENCE):
            return await self.process.wait()


@asynccontextmanager
async def running(name: str, *arguments: str) -> AsyncIterator[Program]:
    """Run an example on pipes, while the block runs."""
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(
            partial(
                trio.run_process,
                command(name, *arguments),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                check=False,
            )
        )
        assert process.stdout is not None
        yield Program(process, process.stdout)
        nursery.cancel_scope.cancel()


@attrs.define(eq=False)
class Terminal:
    """A terminal with a program on it: what it shows, and its keys."""

    process: trio.Process
    _master: trio.lowlevel.FdStream
    _slave: int
    _before: list[object]
    received: str = ""
    # A signal may come in the middle of a write, and so of a character.
    _decoder: codecs.IncrementalDecoder = attrs.field(
        factory=partial(codecs.getincrementaldecoder("utf-8"), errors="replace")
    )
    _news: trio.Event = attrs.field(factory=trio.Event)

    @property
    def screen(self) -> str:
        """Return the text on the screen, without colours: all since the cursor last went home."""
        return _CONTROL.sub("", self.received.rpartition("\x1b[H")[2])

    def is_as_before(self) -> bool:
        """Return True if the terminal's mode is the one from before the program started."""
        return termios.tcgetattr(self._slave) == self._before

    async def type(self, keys: str) -> None:
        """Press keys."""
        await self._master.send_all(keys.encode())

    async def wait_until(self, condition: Callable[[str], object]) -> None:
        """Wait until what is shown meets a condition."""
        with trio.move_on_after(PATIENCE):
            while not condition(self.screen):
                await self._news.wait()
            return
        raise AssertionError(f"still it shows:\n{self.screen}")

    async def wait(self) -> int:
        """Wait until the program has ended; its exit status."""
        with trio.fail_after(PATIENCE):
            return await self.process.wait()

    async def _receive(self) -> None:
        async for chunk in self._master:
            self.received += self._decoder.decode(chunk)
            self._news.set()
            self._news = trio.Event()


@asynccontextmanager
async def on_a_terminal(name: str, *arguments: str, **environment: str) -> AsyncIterator[Terminal]:
    """Run an example on a terminal of 100 x 30, while the block runs."""
    async with command_on_a_terminal(command(name, *arguments), **environment) as terminal:
        yield terminal


@asynccontextmanager
async def command_on_a_terminal(command: list[str], **environment: str) -> AsyncIterator[Terminal]:
    """Run any program on a terminal of 100 x 30, while the block runs."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (30, 100))
    try:
        async with trio.lowlevel.FdStream(master) as stream, trio.open_nursery() as nursery:
            before = termios.tcgetattr(slave)
            process: trio.Process = await nursery.start(
                partial(
                    trio.run_process,
                    command,
                    stdin=slave,
                    stdout=slave,
                    stderr=slave,
                    env=os.environ | {"TERM": "xterm-256color"} | environment,
                    check=False,
                )
            )
            terminal = Terminal(process, stream, slave, before)
            nursery.start_soon(terminal._receive)
            yield terminal
            nursery.cancel_scope.cancel()
    finally:
        os.close(slave)


@asynccontextmanager
async def echo_service(servers: int = 2) -> AsyncIterator[DnsServer]:
    """Echo servers within this process, and a DNS server that leads to them."""
    from tcp_echo_server import echo

    async with trio.open_nursery() as nursery, DnsServer(origin=ORIGIN) as dns:
        records = []
        for number in range(1, servers + 1):
            listeners: list[trio.SocketListener] = await nursery.start(
                partial(trio.serve_tcp, echo, 0, host="127.0.0.1")
            )
            port = listeners[0].socket.getsockname()[1]
            records.append(f"1 1 {port} echo00{number}")
            dns.set(f"echo00{number}", "A", "127.0.0.1", ttl=1)
        if records:
            dns.set("_echo._tcp", "SRV", records, ttl=1)
        yield dns
        nursery.cancel_scope.cancel()
