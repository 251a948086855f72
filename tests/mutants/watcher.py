"""A plugin of pytest that keeps a log for the runner, and ends what does not end by itself."""

from __future__ import annotations

import faulthandler
import os
import resource
import sys
from pathlib import Path

import pytest

LOG = "QORB_TRIO_MUTANT_LOG"
LIMIT = "QORB_TRIO_MUTANT_LIMIT"

#: More memory than this only a fault takes, one that makes something for ever.
MOST_MEMORY = 4 << 30


def say(what: str, test: str) -> None:
    """Write a line at once: the process may not live to write another."""
    with Path(os.environ[LOG]).open("a") as log:
        log.write(f"{what} {test}\n")


def pytest_configure() -> None:
    """Bound the memory."""
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, most))


def pytest_runtest_logstart(nodeid: str) -> None:
    """Bound the time of each test."""
    say("began", nodeid)
    faulthandler.dump_traceback_later(
        float(os.environ[LIMIT]), exit=True, file=sys.__stderr__ or sys.stderr
    )


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note what fails."""
    if report.failed:
        say("failed", report.nodeid)


def pytest_runtest_logfinish() -> None:
    """The test has ended in time."""
    faulthandler.cancel_dump_traceback_later()
