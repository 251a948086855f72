"""The example of a pool over DNS runs, and what it promises holds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import trio

pytestmark = pytest.mark.real

EXAMPLE = Path(__file__).parents[2] / "examples" / "dns_pool.py"


async def test_no_claim_fails_while_the_records_change() -> None:
    """Backends come, go and move and DNS fails: the pool follows, and no claim fails."""
    # A removal is seen within a TTL of 1 s, and confirmed by another query about 1 s later.
    with trio.fail_after(60):
        done = await trio.run_process(
            [sys.executable, str(EXAMPLE), "--pause", "3"], capture_stdout=True
        )
    out = done.stdout.decode()
    assert out.endswith(" claims, 0 failed\n")
    assert "127.0.0.2: " in out
    last = out[out.index("DNS fails") :]
    assert last.count("    echo") == 2


def test_it_says_what_it_does() -> None:
    """``--help`` explains the example."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), "--help"], check=True, capture_output=True, text=True
    )
    assert "while its records change" in done.stdout
