"""Plants the faults, all or those that are named, and prints which test has caught which.

The exit status is 1 if one has survived, and 2 if one could not be tried.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import trio

from ._mutant import Mutant, OutOfDateError, load
from ._runner import HOME, BrokenRunError, Outcome, Runner

LISTS = sorted(Path(__file__).parent.glob("*.toml"))

#: The tests that run after those that a fault names. Tests with a real clock or sockets take long
#: and have little to do with the pool's decisions, so they run only for faults that name them.
REST = ("tests", "--ignore=tests/mutants", "-m", "not real")


def show(outcome: Outcome) -> None:
    """One line of the table."""
    where = f"{'hangs: ' if outcome.hung else ''}{outcome.caught_by or 'SURVIVES'}"
    if outcome.problem is not None:
        where = f"NOT TRIED: {outcome.problem}"
    print(f"{outcome.mutant.name:<40} {outcome.seconds:>6.1f} s  {where}", flush=True)


def choose(mutants: list[Mutant], names: list[str]) -> list[Mutant]:
    """Return the faults of the given names, or all if no name is given.

    Raises:
      OutOfDateError: a name is unknown.
    """
    by_name = {mutant.name: mutant for mutant in mutants}
    if unknown := set(names) - by_name.keys():
        raise OutOfDateError(f"no such fault: {', '.join(sorted(unknown))}")
    return [by_name[name] for name in names] or mutants


def main(arguments: list[str]) -> int:
    """The program."""
    parser = argparse.ArgumentParser(prog="nox -s mutants --", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="a fault; all, if none is named")
    parser.add_argument("--jobs", type=int, default=2, help="processes at once (%(default)s)")
    parser.add_argument(
        "--limit", type=float, default=30, help="seconds after which a test hangs (%(default)s)"
    )
    options = parser.parse_args(arguments)
    runner = Runner(
        root=HOME, package="qorb_trio", rest=REST, limit=options.limit, jobs=options.jobs
    )
    try:
        outcomes = trio.run(runner.run, choose(load(LISTS), options.names), show)
    except (OutOfDateError, BrokenRunError) as exc:
        print(exc, file=sys.stderr)
        return 2
    survivors = [outcome.mutant for outcome in outcomes if outcome.survives]
    problems = sum(outcome.problem is not None for outcome in outcomes)
    print(f"{len(outcomes)} faults, {len(survivors)} survive, {problems} could not be tried")
    for mutant in survivors:
        print(f"{mutant.name}: {mutant.harm}")
    return 2 if problems else 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
