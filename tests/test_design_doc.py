"""The design document says what the code does: the states of a slot, and the owners of fields."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from qorb_trio._slots.state import NEXT, State

from .owners import RECORDS, Unknown, fields_of_records, find_writers, writers

DOCS = Path(__file__).parent.parent / "docs"


def table_of_states() -> set[tuple[str, str]]:
    """The table in the design document: the transitions, from one state to another."""
    page = (DOCS / "design.md").read_text()
    _, _, rest = page.partition("<!-- states:")
    table = re.search(r"^\| from \| to \| when \|\n\|[-|]+\n((?:\|.*\n)+)", rest, re.MULTILINE)
    assert table is not None
    rows = re.findall(r"^\| (\w+) \| (\w+) \| .+ \|$", table[1], re.MULTILINE)
    assert len(rows) == len(set(rows)) == table[1].count("\n")
    return set(rows)


def test_states() -> None:
    """The design document lists exactly the transitions that a slot may make."""
    assert table_of_states() == {(old.label, new.label) for old in State for new in NEXT[old]}


def table_of_owners() -> dict[tuple[str, str], set[str]]:
    """The table in the design document: by class and field, the classes that write it."""
    page = (DOCS / "design.md").read_text()
    _, _, rest = page.partition("<!-- owners:")
    table = re.search(
        r"^\| state \| fields \| written by \|\n\|[-|]+\n((?:\|.*\n)+)", rest, re.MULTILINE
    )
    assert table is not None
    owners: dict[tuple[str, str], set[str]] = {}
    for row in table[1].splitlines():
        _, _, fields, written_by, _ = row.split("|")
        record = ""
        for name in re.findall(r"`([\w.]+)`", fields):
            prefix, _, field = name.rpartition(".")
            record = prefix or record
            assert (record, field) not in owners, f"{name} is there twice"
            owners[record, field] = set(re.findall(r"`(\w+)`", written_by))
    return owners


def test_owners() -> None:
    """Each field of a shared object is written by its owner only, and the document names it."""
    found = writers()
    private = {key: classes for key, classes in found.items() if key[1].startswith("_")}
    assert not {key: classes for key, classes in private.items() if classes != {key[0]}}
    public = {key: classes for key, classes in found.items() if key not in private}
    documented = table_of_owners()
    assert {key: classes for key, classes in public.items() if classes != documented.get(key)} == {}
    assert documented.keys() == public.keys()


def test_owned_fields_exist() -> None:
    """Each shared class is found, and has each field that the document says it has."""
    fields = fields_of_records()
    assert all(fields[record] for record in RECORDS)
    assert not [key for key in table_of_owners() if key[1] not in fields[key[0]]]


@pytest.mark.parametrize(
    "code",
    [
        "slot.state = 1",
        "self._home.slot.state = 1",
        "slot.state += 1",
        "del slot.state",
        "slot.state, other = 1, 2",
        "for slot.state in (): pass",
        "with a as slot.state: pass",
        "slot.state[0] = 1",
        "del slot.state[0]",
        "slot.state.append(1)",
        "def inner(): slot.state = 1",
    ],
)
def test_writers_are_found(code: str) -> None:
    """A write by any kind of statement is found, and is charged to the class around it."""
    tree = ast.parse("class Thief:\n    def steal(self, slot):\n        " + code)
    assert find_writers([tree], {"Slot": {"state"}}, {"state"}) == {("Slot", "state"): {"Thief"}}


def test_unknown_variables_are_reported() -> None:
    """A variable of a name that tells no class may not have such a field written."""
    tree = ast.parse("def steal(loot):\n    loot.state = 1")
    with pytest.raises(Unknown, match=r"loot\.state"):
        find_writers([tree], {"Slot": {"state"}}, ())
