"""How long does it take to import the library, beyond importing Trio?

Each sample is a new process; what is timed is the import alone, not the interpreter.
"""

from __future__ import annotations

import sys

import trio

from _runner import Report, Sampler, run

PROGRAM = """
from time import perf_counter
begin = perf_counter()
import {module}
print((perf_counter() - begin) * 1e3)
"""


def importing(module: str) -> Sampler:
    """Milliseconds."""

    async def sample() -> float:
        command = [sys.executable, "-c", PROGRAM.format(module=module)]
        done = await trio.run_process(command, capture_stdout=True)
        return float(done.stdout)

    return sample


async def measure(report: Report) -> None:
    """Trio, and this on top."""
    contenders = {
        f"import {module}": importing(module)
        for module in ("trio", "qorb_trio", "qorb_trio.resolvers")
    }
    await report.compare("import", "ms", contenders, rounds=9)


if __name__ == "__main__":
    run(__doc__, measure)
