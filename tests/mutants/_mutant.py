"""A fault as a piece of data, and how it gets into a copy of the package."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import final

import attrs


class OutOfDateError(Exception):
    """A fault that cannot be planted: the source is not what it was."""


@final
@attrs.frozen
class Mutant:
    """One fault."""

    name: str
    """What the fault is called."""

    file: str
    """The file that has it, from the package's own folder."""

    old: str
    """The text that is replaced. It must be there exactly once."""

    new: str
    """What it is replaced by."""

    harm: str
    """What a user would suffer, in one sentence."""

    tests: Sequence[str]
    """Where it is the likeliest to be caught: what pytest is to run first."""

    def applied(self, package: Path) -> str:
        """The text of the file, with the fault.

        Raises:
          OutOfDateError: the old text is not there, or more than once, or not changed.
        """
        text = (package / self.file).read_text()
        if (times := text.count(self.old)) != 1:
            raise OutOfDateError(f"{self.name}: its old text is {times} times in {self.file}")
        if self.old == self.new:
            raise OutOfDateError(f"{self.name}: it changes nothing")
        return text.replace(self.old, self.new)


def load(files: Iterable[Path]) -> list[Mutant]:
    """All the faults of some ``.toml`` files, in their order."""
    return [
        Mutant(name, **table)
        for file in files
        for name, table in tomllib.loads(file.read_text()).items()
    ]
