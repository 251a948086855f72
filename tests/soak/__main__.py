"""A soak on real sockets, with faults at random.

    nox -s soak -- --minutes 20 --seed 1
    python -m tests.soak --minutes 20

There are six echo servers, which are processes, some of them behind a proxy that can inflict
faults. A DNS server publishes their addresses. One pool has many clients, and small pools are
opened and left all the time. At the end of each minute the clients pause, all faults are
mended, and the pool is compared with an account that is kept beside it. The exit status is 1
if anything was lost, leaked, doubled or wrong.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from functools import partial

import trio

from .soak import Soak


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a soak; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="A soak of the pool.")
    parser.add_argument("--minutes", type=float, default=20, help="how long (20)")
    parser.add_argument("--seed", type=int, default=0, help="for the choice of faults (0)")
    parser.add_argument("--every", type=float, default=60, help="seconds between checks (60)")
    parser.add_argument("--clients", type=int, default=60, help="how many claim (60)")
    parser.add_argument("--pause", type=float, default=0.35, help="seconds between faults (0.35)")
    given = parser.parse_args(arguments)
    say = partial(print, flush=True)
    say(f"seed {given.seed}: {given.minutes:g} minutes, a check every {given.every:g} s")
    soak = Soak(given.seed, given.minutes * 60, given.every, given.clients, given.pause, say)
    warnings.simplefilter("error", ResourceWarning)
    before, sys.unraisablehook = sys.unraisablehook, partial(note, soak)
    try:
        return 0 if trio.run(soak.run) else 1
    finally:
        sys.unraisablehook = before


def note(soak: Soak, unraisable: sys.UnraisableHookArgs) -> None:
    """Record a violation for any exception of a finalizer, such as a `ResourceWarning`."""
    soak.violations.append(f"{unraisable.exc_value!r} from {unraisable.object!r}")


if __name__ == "__main__":
    sys.exit(main())
