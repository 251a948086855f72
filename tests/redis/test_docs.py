"""The programs of docs/redis.md, against a real server."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

import _services
from _services import RedisServer, redis_servers

from ..pages import Program, programs_of

PAGE = Path(__file__).parents[2] / "docs" / "redis.md"
PROGRAMS = [program for program in programs_of(PAGE.read_text()) if program.reason is None]

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        _services.missing("redis-server") is not None, reason="redis-server is not installed"
    ),
]


@pytest.fixture
async def server() -> AsyncIterator[RedisServer]:
    """Start one server."""
    async with redis_servers() as [one]:
        yield one


def expected(code: str) -> list[str]:
    """Return the lines that a program says it prints."""
    return [line.partition("  # ")[2] for line in code.splitlines() if "  # " in line]


@pytest.mark.parametrize("program", PROGRAMS, ids=str)
async def test_a_program_prints_what_it_says(server: RedisServer, program: Program) -> None:
    """Each program runs, and prints what its comments say."""
    code = program.code.replace("6379", str(server.port))
    with trio.fail_after(30):
        done = await trio.run_process([sys.executable, "-c", code], capture_stdout=True)
    assert done.stdout.decode().splitlines() == expected(program.code)
    assert expected(program.code)
