"""``python -m tests.simulation``: as many simulations as one likes, or one of them again."""

from __future__ import annotations

import argparse
import logging
import math
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import trio
from trio.testing import MockClock

from ..connections.impatient import spend_a_day
from .product import main as product
from .report import Summary, explain, run_seeds

#: Number of seeds that a process simulates at a time.
CHUNK = 25


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate, print a summary, explain the first failures; 0 if there were none."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="the first (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after so long")
    parser.add_argument("--only", help="of one seed: the numbers of the actions to keep")
    parser.add_argument("--product", action="store_true", help="each hook in every way instead")
    parser.add_argument("--day", action="store_true", help="a day of idle closes instead")
    args = parser.parse_args(arguments)
    if args.day:
        _day()
        return 0
    if args.product:
        logging.disable(logging.CRITICAL)
        product()
        return 0
    if args.only is not None:
        chosen = [int(number) for number in args.only.split(",") if number]
        sys.stdout.write(explain(args.first, chosen) + "\n")
        return 0
    began = time.perf_counter()
    summary = Summary()
    for part in _run(range(args.first, args.first + args.seeds), args.processes):
        summary.merge(part)
        if part.failed:
            sys.stderr.write(f"failed: {part.failed}\n")
        if time.perf_counter() - began > 60 * args.minutes:
            break
    for seed in sorted(summary.failed)[:3]:
        sys.stdout.write(explain(seed) + "\n\n")
    if len(summary.failed) > 3:
        sys.stdout.write(f"also failed: {sorted(summary.failed)[3:]}\n")
    sys.stdout.write(f"{summary}; {time.perf_counter() - began:.1f} s\n")
    return min(1, len(summary.failed))


def _day() -> None:
    """Spend a day with a primary that closes idle connections, with few spares and with many."""
    for spares, watched in [(1, False), (8, False), (1, True), (8, True)]:
        clock = MockClock(autojump_threshold=0)
        day = trio.run(partial(spend_a_day, spares=spares, watched=watched), clock=clock)
        how = "closes noticed at once" if watched else "closes found at the claim"
        sys.stdout.write(f"{spares} spares, {how}: {day}\n")


def _run(seeds: range, processes: int) -> Iterator[Summary]:
    chunks = [seeds[i : i + CHUNK] for i in range(0, len(seeds), CHUNK)]
    if processes <= 1:
        yield from map(run_seeds, chunks)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as executor:
        yield from executor.map(run_seeds, chunks)


if __name__ == "__main__":
    sys.exit(main())
