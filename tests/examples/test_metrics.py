"""The example that prints a pool's metrics."""

from __future__ import annotations

import re

import pytest

from ._programs import run


@pytest.mark.real
async def test_metrics_tell_which_server_is_which() -> None:
    """The metrics tell the slow and the dead server apart, and the program ends by itself."""
    done = await run("metrics.py")
    assert (done.returncode, done.stderr) == (0, "")
    _, _, times = done.stdout.partition("db.client.connection.create_time (s)")
    times, *_ = re.split(
        r"^\S", times, maxsplit=1, flags=re.MULTILINE
    )  # which is next, is by chance
    average = {line.split()[0]: float(line.split()[4]) for line in times.strip().splitlines()}
    assert average["slow.test"] >= 0.4 > average["good.test"]
    assert "down.test 5432 connect ConnectionRefusedError" in done.stdout
