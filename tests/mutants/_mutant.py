"""A fault as a piece of data, and how it gets into a copy of the package.

A fault names the function that has it, not the file, and its texts are compared token by token.
So it still fits when the function moves to another file, and when lines are broken elsewhere.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TypeAlias, final

import attrs

#: A string, a name, a number or an operator. Comments and white space are
#: no tokens, and nor is a comma that only ends a list.
_TOKEN = re.compile(
    r"""[#][^\n]*|\s+|,(?=\s*[)\]}])|(?P<token>
    [a-zA-Z]{0,2}(?:\"{3}.*?\"{3}|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')
    |\w+|->|[*]{2}|//|<<|>>|[-+*/%&|^<>=!:@]=|.)""",
    re.VERBOSE | re.DOTALL,
)

Definition: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


class OutOfDateError(Exception):
    """A fault that cannot be planted: the source is not what it was."""


@final
@attrs.frozen
class Place:
    """The definition of something in a file."""

    file: Path
    name: str
    """With the names of its module and of what encloses it: ``_slots.slot_set.Slot.attach``."""
    start: int
    end: int
    """The positions in the file of the beginning and end of its text, decorators included."""


@final
@attrs.frozen
class Mutant:
    """One fault."""

    name: str
    """The name of the fault."""

    function: str
    """The function, class or constant that has it, by its qualified name: ``Pool.claim``. If
    several have that name, it begins with the name of a module: ``closer.Closer.close``."""

    old: str
    """The code that is replaced. It must be in there exactly once, however it is laid out."""

    new: str
    """The code that replaces it. If it has several lines, they are indented as the first is."""

    harm: str
    """The harm to a user, in one sentence."""

    tests: Sequence[str]
    """The tests that are the likeliest to catch it, which pytest runs first."""

    def plant(self, package: Path) -> None:
        """Put the fault into a copy of the package."""
        place, text = self.applied(package)
        place.file.write_text(text)

    def applied(self, package: Path) -> tuple[Place, str]:
        """The place of the fault, and the text of its file with it.

        Raises:
          OutOfDateError: there is not exactly one such function, or the old code is not in it
            exactly once, or the new code is the same or is not Python.
        """
        place = self._place(package)
        before = place.file.read_text()
        after = self._replaced(before, place)
        try:
            is_equal = ast.dump(ast.parse(after)) == _tree(before)
        except SyntaxError as exc:
            raise OutOfDateError(f"{self.name}: it makes {place.name} unreadable: {exc}") from None
        if is_equal:
            raise OutOfDateError(f"{self.name}: it changes nothing")
        return place, after

    def _place(self, package: Path) -> Place:
        places = [it for it in _all_places(package) if f".{it.name}".endswith(f".{self.function}")]
        if len(places) != 1:
            where = ", ".join(place.name for place in places) or "nowhere"
            raise OutOfDateError(f"{self.name}: {self.function} is defined {where}")
        return places[0]

    def _replaced(self, text: str, place: Place) -> str:
        old = [token for token, _, _ in _tokens(self.old)]
        there = list(_tokens(text, place.start, place.end))
        tokens = [token for token, _, _ in there]
        found = [i for i in range(len(tokens)) if old and tokens[i : i + len(old)] == old]
        if len(found) != 1:
            raise OutOfDateError(f"{self.name}: its old code is {len(found)} times in {place.name}")
        start, end = there[found[0]][1], there[found[0] + len(old) - 1][2]
        line = text[text.rfind("\n", 0, start) + 1 :]
        return text[:start] + _shifted(self.new, _margin(line)) + text[end:]


def load(files: Iterable[Path]) -> list[Mutant]:
    """All the faults of some ``.toml`` files, in their order."""
    return [
        Mutant(name, **table)
        for file in files
        for name, table in tomllib.loads(file.read_text()).items()
    ]


def _tokens(text: str, start: int = 0, end: int | None = None) -> Iterator[tuple[str, int, int]]:
    """The tokens of a piece of code, each with its place."""
    for match in _TOKEN.finditer(text, start, len(text) if end is None else end):
        if (token := match["token"]) is not None:
            yield token, match.start("token"), match.end("token")


@cache
def _tree(text: str) -> str:
    return ast.dump(ast.parse(text))


def _margin(line: str) -> int:
    return len(line) - len(line.lstrip())


def _shifted(code: str, margin: int) -> str:
    """Code whose first line begins at the column `margin`, without the space before that."""
    first, *others = code.strip("\n").splitlines() or [""]
    shift = margin - _margin(first)
    return "\n".join(
        [first.lstrip(), *(" " * (_margin(it) + shift) + it.lstrip() for it in others)]
    )


@cache
def _all_places(package: Path) -> list[Place]:
    return [place for file in sorted(package.rglob("*.py")) for place in _places(package, file)]


def _places(package: Path, file: Path) -> Iterator[Place]:
    """All that is defined in a file."""
    text = file.read_text()
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    module = ".".join(file.relative_to(package).with_suffix("").parts)
    for name, node in _definitions(ast.parse(text), module):
        decorators = node.decorator_list if isinstance(node, Definition) else []
        first = min([node.lineno, *(it.lineno for it in decorators)])
        assert node.end_lineno is not None
        yield Place(file, name, starts[first - 1], starts[node.end_lineno])


def _definitions(
    node: ast.AST, prefix: str, *, in_function: bool = False
) -> Iterator[tuple[str, ast.stmt]]:
    """Functions and classes, however deep, and the names that modules and classes assign."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Definition):
            name = f"{prefix}.{child.name}"
            yield name, child
            is_class = isinstance(child, ast.ClassDef)
            yield from _definitions(child, name, in_function=not is_class)
        elif isinstance(child, ast.If | ast.Try | ast.With):
            yield from _definitions(child, prefix, in_function=in_function)
        elif isinstance(child, ast.Assign | ast.AnnAssign) and not in_function:
            targets = child.targets if isinstance(child, ast.Assign) else [child.target]
            for target in targets:
                if isinstance(target, ast.Name):
                    yield f"{prefix}.{target.id}", child
