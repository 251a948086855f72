"""Real PostgreSQL servers on the loopback interface, with their data in temporary folders.

The benchmarks, the fault table and the tests start them, and do to them what happens to
servers: they are killed, stopped, frozen, promoted, and started again at the same port.
"""

from __future__ import annotations

import atexit
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import psycopg

#: Fast and forgetful: the data live as long as the program.
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "40",
    "shared_buffers": "16MB",
    "max_prepared_transactions": "4",
    "wal_level": "replica",
    "wal_keep_size": "16MB",
    "autovacuum": "off",
    "log_min_messages": "fatal",
    "timezone": "UTC",
}

#: Seconds that a server may take to start or to stop.
PATIENCE = 30.0


def binaries() -> Path | None:
    """The folder of PostgreSQL's programs, that of the newest version; None if there is none."""
    folders = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda file: float(file.parts[4])
    )
    if folders:
        return folders[-1].parent
    found = shutil.which("initdb")
    return Path(found).resolve().parent if found else None


def programs_folder() -> Path:
    """The same, where there is one."""
    found = binaries()
    assert found is not None, "postgresql is not installed"
    return found


def account() -> str | None:
    """The user to run servers as: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise LookupError("there is no user that could run PostgreSQL")


def free_port() -> int:
    """A port that nobody uses."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def run(*command: str | Path) -> None:
    """Run one of PostgreSQL's programs to its end, as the user who runs the servers."""
    done = subprocess.run(
        list(map(str, command)),
        user=account(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd="/",
        env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C.UTF-8"},
    )
    assert done.returncode == 0, done.stdout + done.stderr


def folder(prefix: str = "qorb-pg-") -> Path:
    """A new temporary folder that belongs to the user who runs the servers."""
    made = Path(tempfile.mkdtemp(prefix=prefix))
    user = account()
    if user is not None:
        shutil.chown(made, user)
    return made


@cache
def template() -> Path:
    """A fresh cluster that is made once; each server gets a copy."""
    programs = programs_folder()
    made = folder()
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    run(
        programs / "initdb", "-D", made / "data", "--username=qorb", "--auth=trust",
        "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions",
    )  # fmt: skip
    with (made / "data" / "postgresql.conf").open("a") as conf:
        conf.writelines(f"{name} = '{value}'\n" for name, value in SETTINGS.items())
    return made / "data"


def family(pid: int) -> list[int]:
    """A server's process and its children, which have sessions of their own."""
    found = [pid]
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # Behind the name, which may have anything in it: state, parent.
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(stat.parent.name))
    return found


def send(what: signal.Signals, processes: list[int]) -> None:
    """Send a signal to each process that is still there."""
    for pid in processes:
        with suppress(ProcessLookupError):
            os.kill(pid, what)


class PostgresServer:
    """A server that runs as a process. All its methods block, but not for long."""

    def __init__(self, **settings: str) -> None:
        source = template()
        self.port = free_port()
        self.folder = folder()
        self.data = self.folder / "data"
        self.settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        run("cp", "-r", "--preserve=mode", source, self.data)

    @classmethod
    def standby_of(cls, primary: PostgresServer, **settings: str) -> PostgresServer:
        """A server that streams from another one, not started yet."""
        programs = programs_folder()
        made = cls.__new__(cls)
        made.port = free_port()
        made.folder = folder()
        made.data = made.folder / "data"
        made.settings = settings
        made._process = None
        run(
            programs / "pg_basebackup", "-D", made.data, "-d", primary.conninfo,
            "--checkpoint=fast", "--write-recovery-conf", "--no-sync",
        )  # fmt: skip
        return made

    @property
    def address(self) -> tuple[str, int]:
        """The address that it listens at."""
        return ("127.0.0.1", self.port)

    @property
    def socket_path(self) -> str:
        """The path of the server's Unix socket."""
        return str(self.folder / f".s.PGSQL.{self.port}")

    @property
    def log(self) -> Path:
        """The path of the server's log."""
        return self.folder / "log"

    @property
    def conninfo(self) -> str:
        """For clients that are not a pool."""
        return f"host=127.0.0.1 port={self.port} user=qorb dbname=postgres"

    @property
    def pid(self) -> int:
        """The process to send signals to."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, and wait until it answers."""
        programs = programs_folder()
        options = {"port": self.port, "unix_socket_directories": self.folder} | self.settings
        command = [str(programs / "postgres"), "-D", str(self.data)]
        command += [f"--{name}={value}" for name, value in options.items()]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                user=account(),
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
                cwd="/",
                env={"LC_ALL": "C.UTF-8"},
            )
        until = time.monotonic() + PATIENCE
        while not self.answers():
            assert self._process.poll() is None, "the server has ended"
            assert time.monotonic() < until, "the server does not start"
            time.sleep(0.02)

    def answers(self) -> bool:
        """Return True if one can log in."""
        try:
            psycopg.connect(self.conninfo, connect_timeout=2).close()
        except psycopg.Error:
            return False
        return True

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it: SIGINT is a fast shutdown, SIGKILL of all its processes a crash."""
        process, self._process = self._process, None
        if process is None:
            return
        everything = family(process.pid) if how is signal.SIGKILL else [process.pid]
        send(how, everything)
        process.wait(timeout=PATIENCE)
        until = time.monotonic() + PATIENCE
        while any(Path(f"/proc/{pid}").exists() for pid in everything):
            assert time.monotonic() < until, "a process of the server does not end"
            time.sleep(0.01)

    def restart(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop and start it."""
        self.stop(how)
        self.start()

    def freeze(self) -> None:
        """Stop all its processes, so that the kernel answers for them."""
        send(signal.SIGSTOP, family(self.pid))

    def thaw(self) -> None:
        """Let them go on."""
        send(signal.SIGCONT, family(self.pid))

    def promote(self) -> None:
        """Make a primary of a standby, and wait until it is one."""
        self.sql("SELECT pg_promote(wait => true)")

    def sql(self, query: str) -> list[tuple[object, ...]]:
        """Ask it something over a connection of its own."""
        with psycopg.connect(self.conninfo, autocommit=True) as conn:
            cursor = conn.execute(query.encode())
            return cursor.fetchall() if cursor.description else []

    def clients(self, application: str) -> int:
        """Number of sessions of an application."""
        ((count,),) = self.sql(
            f"SELECT count(*) FROM pg_stat_activity WHERE application_name = '{application}'"
        )
        assert isinstance(count, int)
        return count

    def busy(self, application: str) -> list[tuple[object, ...]]:
        """The queries that sessions of an application are running, or hold a transaction after."""
        return self.sql(
            "SELECT state, query FROM pg_stat_activity"
            f" WHERE application_name = '{application}' AND state <> 'idle'"
        )

    def terminate(self, application: str) -> int:
        """End all sessions of an application, as an administrator does; say how many."""
        return len(
            self.sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                f" WHERE application_name = '{application}'"
            )
        )

    def remove(self) -> None:
        """Stop it, and remove its data."""
        if self._process is not None:
            self.stop(signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def postgres_server(**settings: str) -> Iterator[PostgresServer]:
    """A running server."""
    server = PostgresServer(**settings)
    try:
        server.start()
        yield server
    finally:
        server.remove()
