"""Echo servers that run as processes, and what may happen to a process."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import trio

from qorb_trio import Backend

from .left import PATIENCE

PROGRAM = Path(__file__).with_name("echo_server.py")


@attrs.define(eq=False)
class EchoServer:
    """An echo server, from its start until it is killed."""

    host: str = "127.0.0.1"
    port: int = 0
    command: tuple[str, ...] = ()
    """A prefix for the command that starts the server, such as ``("nice",)``."""
    _process: trio.Process | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Return the host and the port on which the server listens."""
        return self.host, self.port

    @property
    def backend(self) -> Backend:
        """The backend that it is."""
        return Backend(self.address)

    @property
    def pid(self) -> int:
        """The number of its process."""
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Start it, where it was before; return when it listens."""
        command = [*self.command, sys.executable, "-S", str(PROGRAM), self.host, str(self.port)]
        process = await trio.lowlevel.open_process(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._process = process
        assert process.stdout is not None
        said = b""
        async with process.stdout:
            while not said.endswith(b"\n"):
                chunk = await process.stdout.receive_some()
                if not chunk:
                    raise AssertionError(f"the server did not start; it said {said!r}")
                said += chunk
        self.port = int(said)

    async def kill(self) -> None:
        """``kill -9``; return when it is gone."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            assert process.stdin is not None
            with trio.fail_after(PATIENCE, shield=True):
                await process.stdin.aclose()
                await process.wait()

    def stop(self) -> None:
        """Stop it (``SIGSTOP``): it stays as it is, and does nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on (``SIGCONT``)."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    async def move(self) -> None:
        """Kill it, and start it at another port."""
        await self.kill()
        self.port = 0
        await self.start()


@asynccontextmanager
async def open_servers(count: int) -> AsyncIterator[list[EchoServer]]:
    """Yield `count` servers, started at the same time."""
    servers = [EchoServer() for _ in range(count)]
    try:
        async with trio.open_nursery() as nursery:
            for server in servers:
                nursery.start_soon(server.start)
        yield servers
    finally:
        with trio.fail_after(PATIENCE, shield=True):
            for server in servers:
                await server.kill()
