"""The example of a blocking driver."""

from __future__ import annotations

import pytest

from ._programs import run


@pytest.mark.real
async def test_a_query_that_was_given_up_costs_no_connection() -> None:
    """All visits are there, and both connections serve until the end."""
    done = await run("blocking_driver.py")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "the endless query was given up: True",
        "visits: 9",
        "connections closed meanwhile: 0",
        "connections closed at the end: 2",
    ]
