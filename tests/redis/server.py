"""A real Redis server on the loopback interface, with its data in a temporary folder."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from qorb_trio import Backend
from qorb_trio.redis import RedisConnection, RedisConnector

PATIENCE = 20.0


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@attrs.define(eq=False)
class RedisServer:
    """A server that can be killed and started again at the same port."""

    folder: Path
    port: int = attrs.field(factory=free_port)
    options: tuple[str, ...] = ()
    _process: trio.Process | None = None

    @property
    def backend(self) -> Backend:
        """The backend that it is."""
        return Backend(("127.0.0.1", self.port))

    @property
    def socket_path(self) -> str:
        """The path of its Unix socket."""
        return str(self.folder / f"{self.port}.sock")

    async def start(self, *options: str) -> None:
        """Start it, and return when it answers."""
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        command += ["--dir", str(self.folder), "--unixsocket", self.socket_path]
        command += ["--repl-diskless-sync-delay", "0", *self.options, *options]
        self._process = await trio.lowlevel.open_process(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        with trio.fail_after(PATIENCE):
            while not await self._listens():  # noqa: ASYNC110 - it does not say so
                await trio.sleep(0.01)

    async def _listens(self) -> bool:
        try:
            stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        except OSError:
            return False
        async with stream:
            await stream.send_all(b"PING\r\n")
            return bool(await stream.receive_some())

    async def kill(self) -> None:
        """``kill -9``; return when it is gone."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            with trio.fail_after(PATIENCE, shield=True):
                await process.wait()

    def send(self, number: signal.Signals) -> None:
        """Send its process a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    async def ask(self, *command: Any, **options: Any) -> Any:
        """Send one command over a connection of its own."""
        async with self.connection(**options) as conn:
            return await conn.execute(*command)

    @asynccontextmanager
    async def connection(self, **options: Any) -> AsyncIterator[RedisConnection]:
        """Open a connection that no pool knows."""
        connector = RedisConnector(**options)
        conn = await connector.connect(self.backend)
        try:
            yield conn
        finally:
            with trio.move_on_after(1, shield=True):
                await connector.disconnect(conn)


@asynccontextmanager
async def redis_servers(count: int = 1, *options: str) -> AsyncIterator[list[RedisServer]]:
    """Start servers, and kill them at the end; skip the test if there is no Redis."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    with tempfile.TemporaryDirectory() as folder:
        servers = [RedisServer(Path(folder), options=options) for _ in range(count)]
        try:
            for server in servers:
                await server.start()
            yield servers
        finally:
            with trio.fail_after(PATIENCE, shield=True):
                for server in servers:
                    await server.kill()
