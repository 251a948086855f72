"""The sizes of functions, classes and files, as the syntax trees show them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from statistics import median, quantiles
from typing import TypeAlias

import pytest

import qorb_trio
from qorb_trio import Instrument

PACKAGE = Path(qorb_trio.__file__).parent

#: The rooms of the pool itself.
CORE = ("_pool", "_claims", "_connections", "_slots", "_planning", "_health", "_balancing")

MAX_METHODS, MAX_CLASS, MAX_FILE = 20, 300, 350

#: Lines of a function without its docstring.
MEDIAN_FUNCTION, LONG_FUNCTION = 6, 25

#: Classes that are still too big. Nothing may be added.
STILL_BIG: set[str] = set()

#: The contract of an instrument has one method for each event, and so has each instrument.
EVENTS = {name for name in vars(Instrument) if not name.startswith("_")}

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef

FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {file: ast.parse(file.read_text()) for file in FILES}


def functions() -> Iterator[Function]:
    """All functions and methods of the package."""
    for tree in TREES.values():
        for node in ast.walk(tree):
            if isinstance(node, Function):
                yield node


def length(function: Function) -> int:
    """Return the number of lines of a function's body, without its docstring."""
    body = function.body
    if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        body = body[1:]
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def classes() -> Iterator[tuple[str, ast.ClassDef]]:
    """All classes of the package, each with its name and that of its file."""
    for file, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                yield f"{file.relative_to(PACKAGE)}:{node.name}", node


def test_functions_are_short() -> None:
    """Half of the functions have at most 6 lines, and 95 % of them at most 25."""
    lengths = [length(it) for it in functions()]
    assert len(lengths) > 1000
    assert median(lengths) <= MEDIAN_FUNCTION
    assert quantiles(lengths, n=20)[-1] <= LONG_FUNCTION


def test_classes_are_small() -> None:
    """No class has more than 20 methods, those of an instrument not counted, or 300 lines."""
    big = []
    for name, node in classes():
        methods = {it.name for it in node.body if isinstance(it, Function)}
        lines = (node.end_lineno or 0) - node.lineno + 1
        if len(methods - EVENTS) > MAX_METHODS or lines > MAX_CLASS:
            big.append(name)
    assert set(big) == STILL_BIG


@pytest.mark.parametrize("room", CORE)
def test_files_of_the_core_are_short(room: str) -> None:
    """No file of the core has more than 350 lines."""
    lines = {it.name: it.read_text().count("\n") for it in FILES if room in it.parts}
    assert len(lines) > 3
    assert {name: count for name, count in lines.items() if count > MAX_FILE} == {}


def test_lengths_leave_the_docstring_out() -> None:
    """The length of a function is that of its statements."""
    tree = ast.parse(
        'def one():\n    """Say more.\n\n    More.\n    """\n    a = 1\n\n    return a\n'
    )
    (function,) = tree.body
    assert isinstance(function, ast.FunctionDef)
    assert length(function) == 3
