"""Many simulations: their number, their totals, and the explanation of a failure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import attrs

from .play import COUNTS, WRONG, Outcome, simulate
from .reduce import reduce
from .worlds import make_world

#: So much of a trace is shown, up to where it went wrong, and so much of what follows.
BEFORE, AFTER = 60, 5

COMMAND = "nox -s simulate -- --seeds 1 --first"


@attrs.define
class Summary:
    """The totals of the simulations that have been run so far."""

    seeds: int = 0
    steps: int = 0
    """Task steps, all nine statements checked after each."""
    tally: Counter[str] = attrs.field(factory=Counter)
    failed: list[int] = attrs.field(factory=list)
    violations: int = 0

    def add(self, seed: int, outcome: Outcome) -> None:
        """Add the outcome of one simulation."""
        self.seeds += 1
        self.steps += outcome.steps
        self.tally.update(outcome.tally)
        self.violations += len(outcome.violations)
        if outcome.violations:
            self.failed.append(seed)

    def merge(self, other: Summary) -> None:
        """Add the totals of another process."""
        self.seeds += other.seeds
        self.steps += other.steps
        self.tally.update(other.tally)
        self.failed += other.failed
        self.violations += other.violations

    def __str__(self) -> str:
        counts = ", ".join(f"{self.tally[name]:,} {name}" for name in COUNTS)
        return (
            f"{self.seeds:,} seeds, {self.steps:,} task steps checked; claims and dials:"
            f" {counts}; {self.violations:,} violations"
        )


def run_seeds(seeds: Iterable[int]) -> Summary:
    """Simulate them all, one after the other."""
    summary = Summary()
    for seed in seeds:
        summary.add(seed, simulate(seed))
    return summary


def explain(seed: int, only: Sequence[int] | None = None) -> str:
    """Explain the failure of a seed: its reduced actions, its trace, and how to replay it."""
    world = make_world(seed)
    everything = range(len(world.actions)) if only is None else only

    def fails(indices: Sequence[int]) -> bool:
        return bool(simulate(seed, only=indices).violations)

    kept = reduce(everything, fails) if fails(everything) else list(everything)
    outcome = simulate(seed, only=kept, tracing=True)
    chosen = ",".join(map(str, kept))
    lines = [
        f"seed {seed}: {len(outcome.violations)} violations of the contract",
        *(f"    {violation}" for violation in outcome.violations[:5]),
        "",
        f"in a world of {world.kind.__name__}, {len(world.backends)} backends, {world.policy},",
        f"with {len(kept)} of its {len(world.actions)} actions:",
        *(f"    {i:3}  at {world.actions[i][0]:<6g} {world.actions[i][1]}" for i in kept),
        "",
        "its trace (time, step, what; slots: connecting/unclaimed/checking/claimed/closing):",
        *_where_it_matters(outcome.trace),
        "",
        f"replay:        {COMMAND} {seed}",
        f"replay, short: {COMMAND} {seed} --only '{chosen}'",
    ]
    return "\n".join(lines)


def _where_it_matters(trace: list[str]) -> list[str]:
    wrong = [i for i, line in enumerate(trace) if WRONG in line]
    end = wrong[0] + AFTER if wrong else len(trace)
    return trace[max(0, end - AFTER - BEFORE) : end]
