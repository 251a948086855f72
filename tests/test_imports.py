"""The cost of `import qorb_trio`, in modules and generated methods instead of seconds."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import qorb_trio
import qorb_trio.connectors
import qorb_trio.resolvers
import qorb_trio.testing

from .test_packaging import modules_after

PACKAGE = Path(qorb_trio.__file__).parent

#: The packages that import some of their names when these are first used.
ON_DEMAND = ["qorb_trio", "qorb_trio.connectors", "qorb_trio.resolvers", "qorb_trio.testing"]

#: Rooms, and packages with a room's private modules, that `import qorb_trio` needs in full.
NEEDED = ("_claims", "_connections", "_health", "_model", "_planning", "_pool", "_slots")

#: What it needs of the rest.
NEEDED_OF_OTHERS = {
    "qorb_trio",
    "qorb_trio._balancing",
    "qorb_trio._balancing.affinity",
    "qorb_trio._balancing.candidates",
    "qorb_trio._balancing.favourites",
    "qorb_trio._balancing.guard",
    "qorb_trio._balancing.idle_index",
    "qorb_trio._balancing.least_loaded",
    "qorb_trio._balancing.preference",
    "qorb_trio._balancing.remainders",
    "qorb_trio._balancing.strategy",
    "qorb_trio._events",
    "qorb_trio._events.emitter",
    "qorb_trio._on_demand",
    "qorb_trio._phases",
    "qorb_trio._util",
    "qorb_trio._validation",
    "qorb_trio.abc",
    "qorb_trio.connectors",
    "qorb_trio.resolvers",
}

#: Private classes that are compared, and shown by tests that compare them.
COMPARED = {"Plan", "Step"}


@pytest.mark.real
def test_import_loads_the_pool_and_nothing_else() -> None:
    """`import qorb_trio` loads the pool's own modules, and no other one but trio's and attrs'."""
    extra = modules_after("import qorb_trio") - modules_after("import trio, attrs")
    rooms = tuple(f"qorb_trio.{room}" for room in NEEDED)
    assert {name for name in extra if not name.startswith(rooms)} == NEEDED_OF_OTHERS


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("TcpConnector", {"qorb_trio.connectors._tls", "qorb_trio.resolvers._fixed"}),
        ("FixedResolver", {"qorb_trio.connectors._tcp", "qorb_trio.resolvers._dns"}),
        ("DnsResolverConfig", {"dns", "qorb_trio.resolvers._probed"}),
        ("PeakEwma", {"qorb_trio._balancing.round_robin"}),
        ("EventInstrument", {"qorb_trio._events.logging_instrument"}),
    ],
)
def test_a_name_brings_no_other(name: str, others: set[str]) -> None:
    """A name that is imported on demand is there, and does not load its neighbours."""
    loaded = modules_after(f"from qorb_trio import {name}")
    assert not loaded & others


@pytest.mark.real
def test_a_star_brings_every_public_name() -> None:
    """`from qorb_trio import *` gives the names that `dir` lists, but for private ones."""
    code = "import qorb_trio; from qorb_trio import *; print(*dir())"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    public = {name for name in dir(qorb_trio) if not name.startswith("_")}
    imported = {name for name in run.stdout.split() if not name.startswith("_")}
    assert {"TlsConnector", "open_pool", "subset"} <= imported
    assert imported - {"qorb_trio"} <= public
    assert public - imported <= {it.stem for it in PACKAGE.iterdir()}  # imported by other tests


def typed_and_loaded(package: str) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """The names that a package imports on demand: for type checkers, and in its table."""
    (choice,) = (
        node
        for node in ast.parse(Path(sys.modules[package].__file__ or "").read_text()).body
        if isinstance(node, ast.If)
    )
    typed: dict[str, set[str]] = {}
    for node in choice.body:
        assert isinstance(node, ast.ImportFrom)
        assert all(alias.name == alias.asname for alias in node.names)
        typed["." * node.level + (node.module or "")] = {alias.name for alias in node.names}
    (table,) = (node for node in ast.walk(choice) if isinstance(node, ast.Dict))
    loaded = {module: {*names.split()} for module, names in ast.literal_eval(table).items()}
    return typed, loaded


@pytest.mark.parametrize("package", ON_DEMAND)
def test_the_table_and_the_imports_for_type_checkers_agree(package: str) -> None:
    """Names on demand are in both lists with the same module, are listed, and can be had."""
    typed, loaded = typed_and_loaded(package)
    assert typed == loaded
    module = importlib.import_module(package)
    names = set[str]().union(*loaded.values())
    assert names <= set(dir(module))
    assert {name for name in names if not name.startswith("_")} <= set(module.__all__)
    for where, those in loaded.items():
        for name in those:
            value = getattr(module, name)
            assert value is getattr(importlib.import_module(where, package), name)


@pytest.mark.parametrize("package", ON_DEMAND)
def test_no_other_name_is_invented(package: str) -> None:
    """An unknown name is an `AttributeError` that says so, as with any module."""
    with pytest.raises(AttributeError, match=f"^module '{package}' has no attribute 'Nothing'$"):
        importlib.import_module(package).Nothing  # noqa: B018 - the access is what is tested


def attrs_classes() -> Iterator[tuple[str, set[str]]]:
    """The classes that attrs makes in private rooms, with the arguments that are `False`."""
    for file in sorted(PACKAGE.glob("_*/*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.ClassDef):
                continue
            for decorator in node.decorator_list:
                if ast.unparse(decorator).startswith("attrs."):
                    keywords = decorator.keywords if isinstance(decorator, ast.Call) else []
                    off = {it.arg or "" for it in keywords if ast.unparse(it.value) == "False"}
                    yield node.name, off


def test_private_classes_have_no_methods_that_nobody_calls() -> None:
    """attrs makes no comparison and no repr for a class of a room, unless it is public."""
    public = {name for package in ON_DEMAND for name in dir(sys.modules[package])}
    private = {name: off for name, off in attrs_classes() if name not in public}
    assert len(private) > 30
    assert {name for name, off in private.items() if not off >= {"eq", "repr"}} == COMPARED
