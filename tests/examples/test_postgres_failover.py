"""The web service over PostgreSQL, during a switchover."""

from __future__ import annotations

import re

import trio

from ..postgres.kit import NEEDS_SERVERS
from ._programs import command

pytestmark = NEEDS_SERVERS


async def test_no_visit_is_lost_in_a_switchover() -> None:
    """Both servers store visits, and each visit that was confirmed is on the new primary."""
    with trio.fail_after(100):
        done = await trio.run_process(
            command("postgres_failover.py"), capture_stdout=True, capture_stderr=True, check=False
        )
    said = done.stdout.decode()
    assert (done.returncode, done.stderr) == (0, b""), said
    stored = [int(count) for count in re.findall(r"(\d+) visits stored by", said)]
    assert len(stored) == 2
    assert min(stored) > 10
    assert "0 failed, 0 missing" in said
    gap = re.search(r"without an answer: ([\d.]+) s", said)
    assert gap is not None
    assert float(gap[1]) < 10
