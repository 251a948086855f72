"""Real servers on the loopback interface: Redis and nginx, with their data in temporary folders.

The benchmarks, the fault tables and the tests start them, kill, stop and quit them, and start
them again at the same port.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from qorb_trio import Backend

#: Seconds within which a server must have started or ended.
PATIENCE = 20.0


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


async def wait_until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until a server is as it should be."""
    with trio.fail_after(PATIENCE):
        while not await condition():  # noqa: ASYNC110 - it does not say so by itself
            await trio.sleep(0.01)


class Server:
    """A server process and its children."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._process: trio.Process | None = None

    @property
    def backend(self) -> Backend:
        """The backend that it is."""
        return Backend(("127.0.0.1", self.port))

    async def start_process(self, command: list[str]) -> None:
        """Start it, in a process group of its own, and return when it listens."""
        self._process = await trio.lowlevel.open_process(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        await wait_until(self.listens)

    async def listens(self) -> bool:
        """Return true if it accepts connections."""
        try:
            stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        except OSError:
            return False
        await stream.aclose()
        return True

    def send(self, number: signal.Signals) -> None:
        """Send a signal to all its processes."""
        assert self._process is not None
        os.killpg(self._process.pid, number)

    async def wait(self) -> None:
        """Wait until it has ended."""
        process, self._process = self._process, None
        if process is not None:
            with trio.fail_after(PATIENCE, shield=True):
                await process.wait()

    async def kill(self) -> None:
        """``kill -9``; return when it is gone."""
        if self._process is not None:
            self.send(signal.SIGKILL)
            await self.wait()


class RedisServer(Server):
    """A Redis server."""

    PROGRAM = "redis-server"

    def __init__(self, folder: Path, *options: str) -> None:
        super().__init__(folder)
        self._options = options

    @property
    def socket_path(self) -> str:
        """The path of its Unix socket."""
        return str(self.folder / f"{self.port}.sock")

    async def start(self, *options: str) -> None:
        """Start it, and return when it answers, if only that it is loading its data."""
        command = [self.PROGRAM, "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        command += ["--dir", str(self.folder), "--unixsocket", self.socket_path]
        command += ["--repl-diskless-sync-delay", "0", *self._options, *options]
        await self.start_process(command)


NGINX = """\
daemon off;
{user}
worker_processes 1;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 1000; }}
http {{
    access_log off;
    keepalive_requests 100000;
    keepalive_timeout {keep_alive};
    client_max_body_size 2m;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port}{tls};
        location / {{ return 200 "{name} $uri"; }}
        location /files/ {{ root {folder}; dav_methods PUT DELETE; create_full_put_path on; }}
        location /status {{ stub_status; }}
    }}
}}
"""


class NginxServer(Server):
    """An nginx whose answers name it and the path."""

    PROGRAM = "nginx"

    def __init__(
        self, folder: Path, *, name: str = "", keep_alive: int = 75, certificate: str = ""
    ) -> None:
        super().__init__(folder)
        self.name = name
        self.folder = folder / f"nginx-{self.port}"
        (self.folder / "files").mkdir(parents=True)
        (self.folder / "files" / "big").write_bytes(b"x" * 1_000_000)
        tls = f" ssl; ssl_certificate {certificate}; ssl_certificate_key {certificate}"
        self._options = {
            "user": "user root;" if os.geteuid() == 0 else "",
            "keep_alive": keep_alive,
            "tls": tls if certificate else "",
        }

    async def start(self) -> None:
        """Start it, and return when it listens."""
        config = self.folder / "nginx.conf"
        config.write_text(
            NGINX.format(folder=self.folder, port=self.port, name=self.name, **self._options)
        )
        await self.start_process([self.PROGRAM, "-c", str(config), "-e", str(self.folder / "log")])

    async def quit(self) -> None:
        """Have it finish its requests and end, as in an orderly restart."""
        assert self._process is not None
        self._process.send_signal(signal.SIGQUIT)
        await self.wait()


def missing(*programs: str) -> str | None:
    """Return what is not installed of the programs, as a sentence; `None` if all are."""
    absent = [program for program in programs if shutil.which(program) is None]
    return f"{' and '.join(absent)} not installed" if absent else None


@asynccontextmanager
async def redis_servers(count: int = 1, *options: str) -> AsyncIterator[list[RedisServer]]:
    """Start some Redis servers, and kill them at the end."""
    with tempfile.TemporaryDirectory() as folder:
        servers = [RedisServer(Path(folder), *options) for _ in range(count)]
        async with _running(servers):
            yield servers


@asynccontextmanager
async def nginx_servers(count: int = 1, **options: object) -> AsyncIterator[list[NginxServer]]:
    """Start some nginx, called "1", "2" and so on, and kill them at the end."""
    with tempfile.TemporaryDirectory() as folder:
        servers = [
            NginxServer(Path(folder), name=str(number + 1), **options)  # type: ignore[arg-type]
            for number in range(count)
        ]
        async with _running(servers):
            yield servers


@asynccontextmanager
async def _running(servers: list[RedisServer] | list[NginxServer]) -> AsyncIterator[None]:
    try:
        for server in servers:
            await server.start()
        yield
    finally:
        with trio.fail_after(PATIENCE, shield=True):
            for server in servers:
                await server.kill()
