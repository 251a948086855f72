"""The pages of the documentation: their programs run as they stand."""

from __future__ import annotations

from pathlib import Path

import pytest

from .pages import Program, programs_of, run_program

DOCS = Path(__file__).parent.parent / "docs"

#: Pages whose programs no other test runs.
PAGES = ("guide", "tutorial", "using", "requests", "resolvers", "connectors", "watching")


def programs() -> list[tuple[str, Program]]:
    """The programs that can be run, each with the name of its page."""
    return [
        (page, program)
        for page in PAGES
        for program in programs_of((DOCS / f"{page}.md").read_text())
        if program.reason is None
    ]


@pytest.mark.real
@pytest.mark.parametrize(("page", "program"), programs(), ids=str)
def test_a_program_of_a_page(page: str, program: Program, tmp_path: Path) -> None:
    """A program runs to its end, without warnings or complaints."""
    run_program(program, tmp_path / f"{page}.py")


def test_every_page_is_in_the_contents() -> None:
    """A page that no table of contents names cannot be found."""
    contents = (DOCS / "index.md").read_text() + (DOCS / "api.md").read_text()
    listed = set(contents.split())
    assert not [page.stem for page in DOCS.glob("*.md") if page.stem not in {*listed, "index"}]
