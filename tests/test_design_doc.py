"""The pages for readers say what the code does: the states of a slot, and the guide's programs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from qorb_trio._slots.state import NEXT, State

from .test_readme import Program, programs_of

DOCS = Path(__file__).parent.parent / "docs"
GUIDE = programs_of((DOCS / "guide.md").read_text())


def table_of_states() -> set[tuple[str, str]]:
    """The table in the design document: the transitions, from one state to another."""
    page = (DOCS / "design.md").read_text()
    _, _, rest = page.partition("<!-- states:")
    table = re.search(r"^\| from \| to \| when \|\n\|[-|]+\n((?:\|.*\n)+)", rest, re.MULTILINE)
    assert table is not None
    rows = re.findall(r"^\| (\w+) \| (\w+) \| .+ \|$", table[1], re.MULTILINE)
    assert len(rows) == len(set(rows)) == table[1].count("\n")
    return set(rows)


def test_states() -> None:
    """The design document lists exactly the transitions that a slot may make."""
    assert table_of_states() == {(old.label, new.label) for old in State for new in NEXT[old]}


@pytest.mark.real
@pytest.mark.parametrize(
    "program", [program for program in GUIDE if program.reason is None], ids=str
)
def test_guide(program: Program, tmp_path: Path) -> None:
    """A program of the guide runs to its end, without warnings or complaints."""
    file = tmp_path / "guide.py"
    # With as many lines before it as in the guide, so that a traceback's numbers are right.
    file.write_text("\n" * (program.line - 1) + program.code)
    result = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", file.name],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, ""), result.stdout
