"""The connector for a protocol of one's own."""

from __future__ import annotations

import pytest

from ._programs import run


@pytest.mark.real
async def test_no_claim_sees_the_notes_of_another() -> None:
    """Notes that one claim leaves on its connection are cleaned away before the next claim."""
    done = await run("custom_connector.py")
    assert (done.returncode, done.stderr) == (0, "")
    words = [line.rpartition(" ")[2] for line in done.stdout.splitlines()]
    assert words[:5] == ["NOTED", "swordfish", "NOTHING", "NOTHING", "NOTHING"]
    assert words[5:] == ["failures"] * 2
