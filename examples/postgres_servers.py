"""A PostgreSQL primary and its standby, for `postgres_failover.py`; with temporary data."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import psycopg
import trio

from qorb_trio.postgres import PostgresConnection


def programs() -> Path | None:
    """Return the folder of PostgreSQL's programs; `None` if it is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    initdb = shutil.which("initdb")
    return Path(initdb).resolve().parent if initdb else None


def account() -> str | None:
    """Return the user to run servers as, because they refuse to run as root."""
    if os.geteuid() != 0:
        return None
    users = {user.pw_name for user in pwd.getpwall()}
    return "postgres" if "postgres" in users else "nobody"


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@attrs.define
class Server:
    """A server, its data in a folder of its own."""

    name: str
    programs: Path
    data: Path
    port: int = attrs.field(factory=free_port)
    _process: trio.Process | None = None

    @property
    def conninfo(self) -> str:
        """The address for clients without a pool."""
        return f"host=127.0.0.1 port={self.port} user=web dbname=postgres"

    async def command(self, name: str, *arguments: str) -> None:
        """Run one of PostgreSQL's programs to its end."""
        await trio.run_process(
            [str(self.programs / name), *arguments], user=account(), cwd="/", capture_stdout=True
        )

    async def create(self) -> None:
        """Create its data."""
        await self.command(
            "initdb", "-D", str(self.data), "--username=web", "--auth=trust", "--no-sync"
        )

    async def copy(self, primary: Server) -> None:
        """Copy the data of a primary, from which it will stream."""
        await self.command(
            "pg_basebackup", "-D", str(self.data), "-d", primary.conninfo, "--checkpoint=fast",
            "--write-recovery-conf", "--no-sync",
        )  # fmt: skip

    async def start(self) -> None:
        """Start it, and return when it answers."""
        options = {"port": self.port, "unix_socket_directories": "", "log_min_messages": "fatal"}
        command = [str(self.programs / "postgres"), "-D", str(self.data)]
        command += [f"--{name}={value}" for name, value in options.items()]
        self._process = await trio.lowlevel.open_process(
            command, user=account(), cwd="/", stderr=subprocess.DEVNULL, start_new_session=True
        )
        with trio.fail_after(30):
            while not await self._answers():  # noqa: ASYNC110 - it does not say so by itself
                await trio.sleep(0.05)

    async def _answers(self) -> bool:
        try:
            await self.ask("SELECT 1")
        except psycopg.Error:
            return False
        return True

    async def ask(self, query: str) -> list[tuple[object, ...]]:
        """Ask it something, over a connection of its own."""
        conn = await PostgresConnection.connect(self.conninfo, autocommit=True)
        try:
            cursor = await conn.execute(query.encode())
            return await cursor.fetchall() if cursor.description else []
        finally:
            with trio.move_on_after(1, shield=True):
                await conn.close()

    async def stop(self) -> None:
        """Shut it down fast: it ends its sessions, after it has sent all to its standby."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGINT)
            with trio.move_on_after(30, shield=True):
                await process.wait()

    async def promote(self) -> None:
        """Make a primary of a standby."""
        await self.ask("SELECT pg_promote()")


@asynccontextmanager
async def primary_and_standby(folder: Path) -> AsyncIterator[tuple[Server, Server]]:
    """Start both, and stop them at the end."""
    made = Path(tempfile.mkdtemp())
    owner = account()
    if owner is not None:
        shutil.chown(made, owner)
    primary = Server("primary", folder, made / "primary")
    standby = Server("standby", folder, made / "standby")
    try:
        await primary.create()
        await primary.start()
        await standby.copy(primary)
        await standby.start()
        yield primary, standby
    finally:
        for server in (standby, primary):
            await server.stop()  # noqa: ASYNC102 - it is shielded, and has a deadline
        shutil.rmtree(made, ignore_errors=True)
