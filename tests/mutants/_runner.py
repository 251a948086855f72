"""Plants faults one after another, and runs the tests against each."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import final

import attrs
import trio

from . import watcher
from ._mutant import Mutant, OutOfDateError

#: The folder that contains the package `tests`.
HOME = Path(__file__).parents[2]

#: The exit status of pytest: success, and a failed test. (A crash is a signal's negative number.)
PASSED, FAILED = 0, 1

#: The end of what pytest printed says why it came to nothing.
MOST_OUTPUT = 3000


class BrokenRunError(Exception):
    """The tests could not be run, which says nothing about what they would catch."""


@final
@attrs.frozen
class Outcome:
    """The end of one fault."""

    mutant: Mutant
    seconds: float
    """The duration of the run."""

    caught_by: str | None
    """The first test that failed, or did not end; `None` if the fault has survived."""

    hung: bool = False
    """True if that test did not end."""

    problem: str | None = None
    """Why it could not be tried, in which case the rest means nothing."""

    @property
    def survives(self) -> bool:
        """True if no test has noticed it."""
        return self.caught_by is None and self.problem is None


@final
@attrs.frozen(kw_only=True)
class Runner:
    """The way to run the tests of a project."""

    root: Path
    """The project: its sources are in ``src``, and paths of tests begin here."""

    package: str
    """The folder in ``src`` in which the faults are planted."""

    rest: Sequence[str]
    """Arguments for pytest: what to run when the tests that a fault names let it through."""

    limit: float
    """A test that has not ended after so many seconds hangs."""

    jobs: int
    """So many processes at once."""

    async def run(
        self, mutants: Iterable[Mutant], tell: Callable[[Outcome], object]
    ) -> list[Outcome]:
        """Try each fault, and call `tell` with each outcome.

        Raises:
          BrokenRunError: a test that seems to catch a fault fails without any fault too.
        """
        outcomes: list[Outcome] = []
        to_do = iter(mutants)

        async def work() -> None:
            for mutant in to_do:
                outcomes.append(outcome := await self._try(mutant))
                tell(outcome)

        async with trio.open_nursery() as nursery:
            for _ in range(self.jobs):
                nursery.start_soon(work)
        await self._cross_check({outcome.caught_by for outcome in outcomes} - {None})
        return outcomes

    async def _try(self, mutant: Mutant) -> Outcome:
        begin = trio.current_time()
        caught_by, hung, problem = None, False, None
        with tempfile.TemporaryDirectory() as folder:
            package = self._copy(folder) / self.package
            try:
                mutant.plant(package)
                caught_by, hung = await self._pytest(Path(folder), mutant.tests)
                if caught_by is None:
                    caught_by, hung = await self._pytest(Path(folder), self.rest)
            except (OutOfDateError, BrokenRunError) as exc:
                problem = str(exc)
        return Outcome(mutant, trio.current_time() - begin, caught_by, hung, problem)

    async def _cross_check(self, tests: set[str | None]) -> None:
        """See that the tests that have caught something pass where there is nothing."""
        if tests:
            with tempfile.TemporaryDirectory() as folder:
                self._copy(folder)
                names = sorted(filter(None, tests))
                failed, _ = await self._pytest(Path(folder), names)
            if failed is not None:
                raise BrokenRunError(f"{failed} has caught a fault, but fails without any too")

    def _copy(self, folder: str) -> Path:
        ignore = shutil.ignore_patterns("__pycache__")
        return Path(shutil.copytree(self.root / "src", Path(folder) / "src", ignore=ignore))

    async def _pytest(self, folder: Path, tests: Sequence[str]) -> tuple[str | None, bool]:
        """Run tests against a copy; return the first failed test, if any, and True if it hung.

        Raises:
          BrokenRunError: pytest could not run them, as when nothing can be imported.
        """
        log = folder / "log"
        log.write_text("")
        env = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(folder / "src"), str(HOME)]),
            "HYPOTHESIS_PROFILE": "mutants",
            "HYPOTHESIS_STORAGE_DIRECTORY": str(folder / "hypothesis"),
            watcher.LOG: str(log),
            watcher.LIMIT: str(self.limit),
        }
        run: subprocess.CompletedProcess[bytes] = await trio.run_process(
            [
                *(sys.executable, "-m", "pytest", "-x", "-q"),
                *("-p", "no:cacheprovider", "-p", watcher.__name__),
                # Theirs would take the place of the watcher's.
                *("-o", "faulthandler_timeout=0"),
                *tests,
            ],
            cwd=self.root,
            env=env,
            check=False,
            capture_stdout=True,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            deliver_cancel=_kill,
        )
        last, _, test = (log.read_text().splitlines() or [""])[-1].partition(" ")
        if run.returncode == PASSED:
            return None, False
        if test and (run.returncode == FAILED or run.returncode < 0):
            return test, last == "began"
        raise BrokenRunError(
            f"pytest: {run.returncode}\n{run.stdout.decode(errors='replace')[-3000:]}"
        )


async def _kill(process: trio.Process) -> None:
    """End pytest, and what its tests have started."""
    os.killpg(process.pid, signal.SIGKILL)
