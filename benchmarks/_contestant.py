"""A contender that runs in a process of its own, because its event loop is not Trio's."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import final

import trio

from _runner import Sampler

HERE = Path(__file__).parent
#: The adapters for asyncio, and the package that each of them needs.
ASYNCIO = {
    "psycopg_pool": "psycopg_pool",
    "asyncpg": "asyncpg",
    "sqlalchemy": "sqlalchemy",
    "redis_py": "redis",
    "asyncio_connection_pool": "asyncio_connection_pool",
}
#: Fetched from the npm registry, into a folder that is removed afterwards.
CUEBALL = "cueball@2.10"
#: Seconds to wait for the npm registry.
PATIENCE = 90.0


def leave_out(name: str, reason: str) -> None:
    """Say that somebody does not take part."""
    print(f"(without {name}: {reason})", file=sys.stderr)


def installed(package: str) -> bool:
    """Return True if a package of the `bench` group is installed; otherwise print a note."""
    there = importlib.util.find_spec(package) is not None
    if not there:
        leave_out(package, "not installed")
    return there


@final
class Contestant:
    """A process that takes orders and answers with samples."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._said = b""
        self.name: str = ""

    async def ask(self, **order: object) -> object:
        """Send one order and return the answer. A process that dies has said why, on stderr."""
        await self.say(**order)
        return await self.hear()

    async def say(self, **order: object) -> None:
        """Send one order."""
        assert self._process.stdin is not None
        await self._process.stdin.send_all(json.dumps(order).encode() + b"\n")

    async def hear(self) -> object:
        """The next line."""
        assert self._process.stdout is not None
        while b"\n" not in self._said:
            chunk = await self._process.stdout.receive_some()
            if not chunk:
                raise RuntimeError(f"{self.name or 'a contestant'} has ended without an answer")
            self._said += chunk
        line, _, self._said = self._said.partition(b"\n")
        answer: object = json.loads(line)
        return answer

    def warm_claims(self, *, slots: int, enough: float) -> Sampler:
        """See `_work.warm_claims`."""
        return self._sampler(work="warm", slots=slots, enough=enough)

    def crowd(self, *, slots: int, tasks: int, claims: int) -> Sampler:
        """See `contention.crowd`."""
        return self._sampler(work="crowd", slots=slots, tasks=tasks, claims=claims)

    def _sampler(self, **order: object) -> Sampler:
        async def sample() -> float:
            figure = await self.ask(**order)
            assert isinstance(figure, float)
            return figure

        return sample


@asynccontextmanager
async def contestant(command: list[str], folder: Path) -> AsyncIterator[Contestant]:
    """Start one, and end it."""
    process = await trio.lowlevel.open_process(
        command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        it = Contestant(process)
        it.name = str(await it.hear())
        yield it
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()  # noqa: ASYNC102, ASYNC120 - it is dead already


@asynccontextmanager
async def peer(package: str, module: str, *arguments: str) -> AsyncIterator[Contestant | None]:
    """Start a module that needs a package; `None`, and a note, if that is not installed."""
    if not installed(package):
        yield None
        return
    async with contestant([sys.executable, "-m", module, *arguments], HERE) as it:
        yield it


def asyncio_contestants() -> Iterator[list[str]]:
    """The command of each that is installed."""
    for adapter, package in ASYNCIO.items():
        if installed(package):
            yield [sys.executable, "-m", "adapters._asyncio", adapter]


@contextmanager
def folder_with_cueball() -> Iterator[Path | None]:
    """A temporary folder into which npm has put cueball and its adapter, if it could."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        leave_out("cueball", "there is no npm here")
        yield None
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(HERE / "adapters" / "cueball.js", folder)
        options = ["--no-audit", "--no-fund", "--omit=optional", "--ignore-scripts"]
        try:
            subprocess.run(
                [npm, "install", *options, CUEBALL],
                cwd=folder,
                check=True,
                capture_output=True,
                timeout=PATIENCE,
            )
        except (subprocess.SubprocessError, OSError) as exc:
            leave_out("cueball", f"npm could not install it: {exc}")
            yield None
        else:
            yield folder
