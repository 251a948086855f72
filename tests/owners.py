"""The writers of shared fields, as the syntax trees of the core's rooms show them."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator
from pathlib import Path

import qorb_trio

PACKAGE = Path(qorb_trio.__file__).parent

#: The rooms and modules that hold shared objects.
ROOMS = ("_planning/targets.py", "_balancing", "_slots", "_connections", "_claims", "_pool")

#: The beginnings of annotations of containers.
CONTAINERS = ("deque[", "dict[", "list[", "set[")

#: The classes whose fields others read, each with the names that a variable of it has.
RECORDS: dict[str, set[str]] = {
    "Slot": {"slot"},
    "SlotSet": {"slot_set", "last"},
    "SlotStates": set(),
    "Totals": {"totals"},
    "Targets": {"targets"},
    "Registry": {"registry"},
    "Readiness": {"readiness"},
    "PlanRequests": {"requests"},
    "WaitQueue": {"queue"},
    "Dispatcher": {"dispatcher"},
    "InRun": set(),
    "Closer": {"closer"},
    "Lifecycle": {"lifecycle"},
}

#: The names that variables of other classes have, whose fields may be called like those above.
OTHERS = {"outage", "overload"}

#: Methods that change a container.
CHANGING = {
    *("add", "append", "appendleft", "clear", "discard", "extend", "insert", "pop", "popitem"),
    *("popleft", "remove", "rotate", "setdefault", "sort", "update"),
}

#: The functions that build the parts of a pool, and hand in some of their fields once.
WIRING = {"add_tasks", "hand_up"}


class Unknown(Exception):
    """A variable whose class its name does not tell has a field of that name written."""


def trees() -> Iterator[ast.Module]:
    """The syntax trees of all modules that hold slots."""
    for room in (PACKAGE / it for it in ROOMS):
        for file in [room] if room.is_file() else sorted(room.rglob("*.py")):
            yield ast.parse(file.read_text(), str(file))


def containers() -> set[str]:
    """The names of all fields that hold a container."""
    return {
        node.target.attr if isinstance(node.target, ast.Attribute) else node.target.id
        for tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Attribute | ast.Name)
        and ast.unparse(node.annotation).startswith(CONTAINERS)
    }


def fields_of_records() -> dict[str, set[str]]:
    """Return the fields of the shared classes: those assigned to `self`, and those declared."""
    found: dict[str, set[str]] = {name: set() for name in RECORDS}
    for tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and node.name in found:
                found[node.name] |= set(_fields(node))
    return found


def _fields(definition: ast.ClassDef) -> Iterator[str]:
    for node in ast.walk(definition):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name) and node.value.id == "self":
                yield node.attr
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id


def writers() -> dict[tuple[str, str], set[str]]:
    """Return the classes that write each field of each record after the record is made.

    Raises:
      Unknown: the class of a written object cannot be determined.
    """
    return find_writers(trees(), fields_of_records(), containers())


def find_writers(
    modules: Iterable[ast.Module], fields: dict[str, set[str]], held: Container[str]
) -> dict[tuple[str, str], set[str]]:
    """The same, of these modules; the fields in `held` hold containers."""
    found: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for tree in modules:
        for attribute, function, owner, is_change in _writes(tree, "", ""):
            if is_change and attribute.attr not in held:
                continue
            record = _record(attribute, owner, fields)
            is_own = record == owner and function in {"__init__", "__attrs_post_init__"}
            if record is not None and not is_own and function not in WIRING:
                found[record, attribute.attr].add(owner or function)
    return dict(found)


def _record(attribute: ast.Attribute, owner: str, fields: dict[str, set[str]]) -> str | None:
    """The class of the object that has a field written, if it is one of the shared ones."""
    match attribute.value:
        case ast.Name(id="self"):
            return owner if owner in RECORDS else None
        case ast.Name(id=name) | ast.Attribute(attr=name):
            if name.lstrip("_") in OTHERS:
                return None
            for record, names in RECORDS.items():
                if name.lstrip("_") in names:
                    return record
        case _:
            pass
    if attribute.attr.startswith("__") or not any(attribute.attr in it for it in fields.values()):
        return None
    if attribute.attr in {"deadline", "arrival"}:  # of a cancel scope, and of a waiter
        return None
    raise Unknown(f"{owner}: what is {ast.unparse(attribute)}?")


def _writes(
    node: ast.AST, function: str, owner: str
) -> Iterator[tuple[ast.Attribute, str, str, bool]]:
    """All attributes that are written, each with the function and its class around that.

    The last item is True if it may be a container that is changed.
    """
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef):
            yield from _writes(child, "", child.name)
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _writes(child, function or child.name, owner)
        else:
            if (written := _written(child)) is not None:
                yield written, function, owner, isinstance(child, ast.Call)
            yield from _writes(child, function, owner)


def _written(node: ast.AST) -> ast.Attribute | None:
    """The attribute that a node writes, if it does."""
    match node:
        case ast.Attribute(ctx=ast.Store() | ast.Del()):
            return node
        case ast.Subscript(ctx=ast.Store() | ast.Del(), value=ast.Attribute() as container):
            return container
        case ast.Call(func=ast.Attribute(attr=name, value=ast.Attribute() as container)):
            return container if name in CHANGING else None
        case _:
            return None
