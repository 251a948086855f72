"""The README does what it says: its programs run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .pages import Program, programs_of, run_program

README = Path(__file__).parent.parent / "README.md"
PROGRAMS = programs_of(README.read_text())


def test_blocks_are_found() -> None:
    """A block is found with its first line's number and with the reason not to run it."""
    page = (
        "# x\n\n```python\na = 1\n```\n\n"
        "<!-- not run: why -->\n\n```python\nb\n```\n```sh\nc\n```\n"
    )
    assert programs_of(page) == [Program(4, "a = 1\n", None), Program(10, "b\n", "why")]


def test_the_readme_shows_a_program() -> None:
    """The README has a program that is run, and no Python fence that this file overlooks."""
    assert any(program.reason is None for program in PROGRAMS)
    assert len(re.findall(r"^\s*[`~]{3,}\s*py", README.read_text(), re.MULTILINE)) == len(PROGRAMS)


@pytest.mark.real
@pytest.mark.parametrize(
    "program", [program for program in PROGRAMS if program.reason is None], ids=str
)
def test_program_runs(program: Program, tmp_path: Path) -> None:
    """A program of the README runs to its end, without warnings or complaints."""
    run_program(program, tmp_path / "README.py")
