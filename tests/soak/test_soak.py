"""The soak itself: that it can be run, and would notice."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults import left
from tests.faults.account import AccountedConnector
from tests.faults.echo import Echo, EchoConnector

from .__main__ import main
from .histogram import Histogram

ROOT = Path(__file__).parents[2]


@pytest.mark.real
def test_some_seconds() -> None:
    """A soak of a few seconds finds nothing, and says what it did."""
    command = [sys.executable, "-m", "tests.soak", "--minutes=0.05", "--every=1.5"]
    command += ["--seed=3", "--pause=0.04", "--clients=12"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert re.search(r"^[\d,]+ claims, that is [\d,]+ a second$", done.stdout, re.MULTILINE)
    assert re.search(r"^[1-9][\d,]* faults$", done.stdout, re.MULTILINE)
    assert done.stdout.endswith("\n0 violations\n")


@pytest.mark.real
def test_a_connection_that_is_never_closed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A connection that the account misses is a violation, and the exit status tells."""

    async def forgetful(self: AccountedConnector, conn: Echo) -> None:
        await EchoConnector.disconnect(self, conn)

    monkeypatch.setattr(AccountedConnector, "disconnect", forgetful)
    monkeypatch.setattr(left, "PATIENCE", 0.5)
    assert main(["--minutes=0.005", "--every=0.3", "--clients=3"]) == 1
    assert re.search("a connection to .* was never closed", capsys.readouterr().out)


def test_quantiles() -> None:
    """A quantile is at most 6 % above the duration that it tells."""
    histogram = Histogram()
    assert histogram.quantile(0.5) == 0
    for milliseconds in range(1, 1001):
        histogram.add(milliseconds / 1000)
    assert histogram.longest == histogram.quantile(1) == 1
    for share in (0.01, 0.5, 0.9, 0.99):
        assert share <= histogram.quantile(share) <= 1.06 * share
    assert str(histogram).startswith("p50 5")
