"""The README does what it says: its programs run.

Each fenced ``python`` block of README.md is a complete program. One that is not to be run
says why, in an HTML comment on the line above it: ``<!-- not run: needs a database -->``.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

README = Path(__file__).parent.parent / "README.md"

_FENCE = re.compile(
    r"^(?:<!-- not run: (?P<reason>\S.*?) -->\n+)?```python\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@attrs.frozen
class Program:
    """A fenced block of Python, where it begins, and why it is not run, if it is not."""

    line: int
    code: str
    reason: str | None

    def __str__(self) -> str:
        return f"line-{self.line}"


def programs_of(markdown: str) -> list[Program]:
    """The Python blocks of a page, in order."""
    return [
        Program(
            line=markdown.count("\n", 0, match.start("code")) + 1,
            code=match["code"],
            reason=match["reason"],
        )
        for match in _FENCE.finditer(markdown)
    ]


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
    file = tmp_path / "README.py"
    # With as many lines before it as in the README, so that a traceback's numbers are right.
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
