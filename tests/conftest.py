"""Settings that all tests share: Hypothesis profiles, and a switch that forbids skipping."""

from __future__ import annotations

import itertools
import os
import random
import signal
from collections.abc import Generator
from typing import Any

import hypothesis
import pytest

from .harness import base_seed, seed_scheduler

# Under a mock clock a deadline in real time measures the machine, not the code.
hypothesis.settings.register_profile("default", deadline=None)
# The same examples in every run: a red build is about the change, and anyone can repeat it.
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
# For a night: HYPOTHESIS_PROFILE=thorough nox -s tests
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=5000)
# For tests/mutants: the same examples too, and that one of them fails is enough to know.
hypothesis.settings.register_profile(
    "mutants",
    deadline=None,
    derandomize=True,
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
)

hypothesis.settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE", "ci" if "CI" in os.environ else "default")
)

#: If everything that a test could need is installed, a skipped test is a failed one. A reason
#: that begins with one of these is always accepted: `skipif(..., reason="Python >= 3.12")`, and
#: things that a container forbids, because no installation can allow them.
ALWAYS_A_REASON = ("Python", "not permitted")
SKIPPING_FAILS = bool(os.environ.get("QORB_TRIO_NO_SKIPS"))


# A script that runs the tests in the background has SIGINT ignored, and each process that a test
# starts would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def same_schedule(request: pytest.FixtureRequest) -> None:
    """Seed Trio's scheduler from the test's name, so that each test can be replayed."""
    seed_scheduler(request.node.name)


@pytest.fixture(autouse=True)
def same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a `random.Random()` without a seed give the same numbers in every run.

    A pool without an `rng` has such a source. A red build then is about the change, and anyone
    can repeat it.
    """
    seeds, seed = itertools.count(base_seed() * 1_000_000), random.Random.seed

    def seed_always(self: random.Random, a: Any = None, version: int = 2) -> None:
        seed(self, next(seeds) if a is None else a, version)

    monkeypatch.setattr(random.Random, "seed", seed_always)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skipped test into a failed one, where that is asked for."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        _refuse(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turn a skipped module into a failed one, where that is asked for."""
    report = yield
    if report.skipped:
        _refuse(report)
    return report


def _refuse(report: pytest.TestReport | pytest.CollectReport) -> None:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    reason = reason.removeprefix("Skipped: ")
    if SKIPPING_FAILS and not reason.startswith(ALWAYS_A_REASON):
        report.outcome = "failed"
        report.longrepr = f"QORB_TRIO_NO_SKIPS is set, but this would be skipped: {reason}"
