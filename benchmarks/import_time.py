"""How long does it take to import the library, beyond importing Trio and attrs?

Each sample is a new process; what is timed is the import alone, not the interpreter.
"""

from __future__ import annotations

import sys

import trio

from _runner import Goal, Report, Sampler, run

PROGRAM = """
from time import perf_counter
{before}
begin = perf_counter()
{timed}
print((perf_counter() - begin) * 1e3)
"""


def timing(timed: str, *, before: str = "") -> Sampler:
    """Milliseconds."""

    async def sample() -> float:
        command = [sys.executable, "-c", PROGRAM.format(before=before, timed=timed)]
        done = await trio.run_process(command, capture_stdout=True)
        return float(done.stdout)

    return sample


async def measure(report: Report) -> None:
    """What is there anyway, this on top, and a resolver that needs dnspython."""
    ours = "import qorb_trio"
    base = "import trio, attrs"
    resolver = "qorb_trio.DnsResolver('_x._tcp.test.')"
    contenders = {
        base: timing(base),
        f"then {ours}": timing(ours, before=base),
        "then make a DnsResolver": timing(resolver, before=f"{base}, qorb_trio"),
    }
    if report.quick:
        del contenders[base]
    goals = {f"then {ours}": Goal(40)}
    await report.compare("import", "ms", contenders, rounds=11, goals=goals)


if __name__ == "__main__":
    run(__doc__, measure)
