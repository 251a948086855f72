"""The page about reliability: what it names is there, its field failures are those of the tests."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "reliability.md").read_text()

#: By its number, each failure's row: what went wrong, where, and the tests.
ROWS = re.findall(r"^\| (\d+) \| (.+?) \| (.*?) ?\| (`test_ff.*) \|$", PAGE, re.MULTILINE)


def test_every_failure_has_a_row() -> None:
    """The table has a row for each number from 1 to 53, once and in order."""
    assert [int(number) for number, *_ in ROWS] == list(range(1, 54))


def test_rows_and_tests_agree() -> None:
    """The tests that a row names are exactly those that are named after its number."""
    named = {
        (int(number), test)
        for number, _, _, tests in ROWS
        for test in re.findall(r"`(\w+)`", tests)
    }
    there = {
        (int(number), test)
        for file in TESTS.rglob("test_*.py")
        for test, number in re.findall(
            r"^ *(?:async )?def (test_ff(\d\d)\w*)\(", file.read_text(), re.MULTILINE
        )
    }
    assert named == there


def test_rows_are_about_one_thing_each() -> None:
    """No two rows tell the same."""
    assert max(Counter(what for _, what, *_ in ROWS).values()) == 1


def test_what_the_page_names_is_there() -> None:
    """Each file and folder of tests that the page sends its readers to exists."""
    named = set(re.findall(r"`(tests/[\w/.]+)`", PAGE))
    assert {"tests/sweeps", "tests/connections/test_sweep_hooks.py"} <= named
    assert not {path for path in named if not (TESTS.parent / path).exists()}


def test_faults_found_have_tests() -> None:
    """Each fault that was found by using the pool names tests, and they are there."""
    rows = re.findall(r"^\| ([A-J]) \| (.+?) \| .+? \| (.*) \|$", PAGE, re.MULTILINE)
    assert {kind for kind, *_ in rows} >= set("ABDEFGHJ")
    assert max(Counter(what for _, what, _ in rows).values()) == 1
    there = {
        test
        for file in TESTS.rglob("test_*.py")
        for test in re.findall(r"\bdef (test_\w+)\(", file.read_text())
    }
    for kind, what, tests in rows:
        named = set(re.findall(r"`(test_\w+)`", tests))
        assert named, (kind, what)
        assert named <= there, (kind, what, named - there)
