"""The Python programs on a page of documentation, and a function that runs one unchanged.

Each fenced ``python`` block is a complete program. One that cannot be run gives the reason
in an HTML comment on the line above it: ``<!-- not run: needs a database -->``.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import attrs

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


def run_program(program: Program, file: Path) -> None:
    """Run a program as `file`: to its end, without warnings or complaints."""
    # With as many lines before it as on the page, so that a traceback's numbers are right.
    file.write_text("\n" * (program.line - 1) + program.code)
    result = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", file.name],
        cwd=file.parent,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, ""), result.stdout
