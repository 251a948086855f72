"""The README of the examples: what it names is there."""

from __future__ import annotations

import re

from ._programs import EXAMPLES

README = (EXAMPLES / "README.md").read_text(encoding="utf-8")


def test_what_the_readme_names_exists() -> None:
    """Each link leads to a file, and each command runs one."""
    links = re.findall(r"\]\((\S+?)\)", README)
    commands = re.findall(r"python examples/(\S+)", README)
    assert links
    assert commands
    assert not [name for name in links + commands if not (EXAMPLES / name).is_file()]


def test_the_readme_names_every_program() -> None:
    """No example is left unmentioned."""
    assert not [path.name for path in EXAMPLES.glob("*.py") if f"`{path.name}`" not in README]
