"""The programs of docs/postgres.md run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.pages import Program, programs_of
from tests.postgres.kit import NEEDS_SERVERS, USER, PostgresServer

pytestmark = NEEDS_SERVERS

PAGE = Path(__file__).parents[2] / "docs" / "postgres.md"
PROGRAMS = programs_of(PAGE.read_text())


@pytest.mark.parametrize("program", PROGRAMS, ids=str)
def test_program_runs(program: Program, server: PostgresServer) -> None:
    """Each program runs to its end against a server of the test, without complaints."""
    code = program.code.replace("5432", str(server.port)).replace("5433", "1")
    code = code.replace("user=app dbname=app", USER)
    assert USER in code
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout


def test_there_are_programs() -> None:
    """The page shows how to begin, how to cancel, and how to tell primary and standby apart."""
    assert len(PROGRAMS) >= 3
